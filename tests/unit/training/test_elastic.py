"""Elastic runs: a step is the same for any number of processes, also when it changes."""

import signal

import pytest
import torch

from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.utils.errors import UserError
from tests.helpers import recipes
from tests.helpers.processes import train_together

OPTIONS = {"batches_per_step": 4, "mask_scope": "batch", "valid_split": "train-clean-100"}


def train(pretraining, folder, tmp_path, world_size, stop_after=None, **options):
    """Train with several processes; the exit codes, and what the first one printed."""
    options = {**OPTIONS, **options}
    return train_together(pretraining, folder, tmp_path, world_size, stop_after, **options)


def losses(folder):
    return [
        [line[part][name] for part in ("train", "valid") for name in ("loss", "accuracy")]
        for line in recipes.history(folder)
    ]


@pytest.mark.slow
def test_four_two_and_one_process_in_mid_epoch_are_one_run(pretraining, tmp_path):
    straight, changing = tmp_path / "straight", tmp_path / "changing"
    codes, printed = train(pretraining, straight, tmp_path, 1)
    assert codes == [0], printed
    steps = recipes.history(straight)[0]["steps"]
    assert steps >= 2
    saved = 128 + signal.SIGUSR1
    codes, printed = train(pretraining, changing, tmp_path, 4, stop_after=1)
    assert codes == [saved] * 4, printed
    assert "Ended by SIGUSR1 after 1 optimizer steps; the same command resumes" in printed
    codes, printed = train(pretraining, changing, tmp_path, 2, stop_after=steps + 1)
    assert codes == [saved] * 2, printed
    assert "Resumed after 1 optimizer steps, at batch 2 of its next epoch" in printed
    codes, printed = train(pretraining, changing, tmp_path, 1)
    assert codes == [0], printed
    assert f"Resumed after {steps + 1} optimizer steps, at batch 4 of its next epoch" in printed
    for first, second in zip(losses(straight), losses(changing), strict=True):
        assert first == pytest.approx(second, rel=1e-5)
    first, second = (
        recipes.tensors(folder, "model", "normalize") for folder in (straight, changing)
    )
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=2e-5, msg=name)
    other = tmp_path / "other"
    codes, _ = train(pretraining, other, tmp_path, 2, batches_per_step="null")
    assert codes == [0, 0]
    apart = max(
        abs(a - b) / abs(a)
        for lines in zip(losses(straight), losses(other), strict=True)
        for a, b in zip(*lines, strict=True)
    )
    assert apart > 1e-4  # the guard: runs of other steps do not agree to 1e-5
    codes, printed = train(pretraining, other, tmp_path, 1)
    assert codes == [2]
    assert "holds a run that was begun with" in printed
    assert "processes 2 (now any number)" in printed


@pytest.mark.slow
def test_fine_tuning_with_one_process_and_two_is_one_run(pretraining, tmp_path):
    """From scratch, so that the statistics of the features are learnt."""
    options = {"pretrained": "null", "data_folder": pretraining.data_folder, "batch_size": 2}
    options |= {"valid_split": "train-clean-100", "test_splits": "[train-clean-100]"}

    def run(name, launcher, **more):
        recipes.train("ctc", tmp_path / name, False, launcher, **options, **more)
        found = recipes.tensors(tmp_path / name, "model", "normalize", "head")
        return found, [line["train"]["loss"] for line in recipes.history(tmp_path / name)]

    one, losses_of_one = run("one", recipes.PYTHON, batches_per_step=2)
    two, losses_of_two = run("two", recipes.TORCHRUN, batches_per_step=2)
    _, losses_apart = run("apart", recipes.TORCHRUN, grad_accumulation_factor=1)
    assert losses_of_one == pytest.approx(losses_of_two, rel=1e-5)
    assert losses_of_one != pytest.approx(losses_apart, rel=1e-4)  # the guard
    for name, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, two[name], rtol=1e-3, atol=2e-5, msg=name)


def test_the_plan_belongs_to_the_step_and_not_to_the_processes():
    durations_s = torch.linspace(1, 9, 100).tolist()
    ids = [f"u{number:03d}" for number in range(100)]
    options = {"max_batch_duration_s": 20.0, "seed": 1, "batches_per_step": 8}
    plans = []
    for world_size in (1, 2, 4, 8):
        ranks = [
            BucketBatchSampler(durations_s, ids, rank=rank, world_size=world_size, **options)
            for rank in range(world_size)
        ]
        first = ranks[0].first_batch()
        assert all(sampler.first_batch() == first for sampler in ranks)
        plans.append([batch for step in zip(*ranks, strict=True) for batch in step])
        assert plans[-1][0] == first
        assert sorted(index for batch in plans[-1] for index in batch) == list(range(100))
    assert plans[0] == plans[1] == plans[2] == plans[3]
    with pytest.raises(UserError, match="batches_per_step = 8 cannot be shared out evenly among 3"):
        BucketBatchSampler(durations_s, ids, world_size=3, **options)
    with pytest.raises(UserError, match="batches_per_step = 0 must be above 0"):
        BucketBatchSampler(durations_s, ids, **{**options, "batches_per_step": 0})
    with pytest.raises(UserError, match="shard_window = 2 needs data in shards and random order"):
        BucketBatchSampler(durations_s, ids, shard_window=2, **options)


def test_a_checkpoint_that_is_not_elastic_is_refused(tmp_path):
    brain = ExactBrain.__new__(ExactBrain)
    vars(brain).update(step=3, avg_train_loss=0.0, optimizer_step=1, batches_per_step=None)
    brain._save_place(tmp_path / "brain.ckpt")
    vars(brain).update(batches_per_step=4, world_size=1)
    with pytest.raises(UserError, match="this run was begun without batches_per_step: continue it"):
        brain._load_place(tmp_path / "brain.ckpt", False)
