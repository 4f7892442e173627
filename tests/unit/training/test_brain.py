"""ExactBrain: whole accumulation windows, skipped steps, limits, and resuming anywhere."""

import inspect
import itertools
import logging
import math

import pytest
import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_pom.runs.checkpoints import SafeCheckpointer
from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.training import brain as brain_module
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.costs import peak_memory_mib
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.utils.errors import UserError
from tests.helpers.signals import SAMPLE_RATE, fit, make_signals


class ToyBrain(ExactBrain):
    """Predicts a sample from the ten before it; remembers what it did."""

    task_metrics = TaskMetrics("toy", (Metric("loss", better="lower"),))
    interrupt_at = None
    batches_done = 0

    def compute_forward(self, batch, stage):
        self.seen.append((stage, getattr(self, "epoch", 0), self.step, tuple(batch.id)))
        windows = batch.sig.data.unfold(1, 11, 10)  # (B, T, 11)
        return self.modules.model(windows[..., :10]) - windows[..., 10:]

    def compute_objectives(self, predictions, batch, stage):
        return predictions.square().mean()

    def on_fit_batch_start(self, batch, should_step):
        if self.batches_done == self.interrupt_at:
            raise KeyboardInterrupt
        self.batches_done += 1

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            self.epoch_sums[epoch] = self.sums.state_dict()
            self.train_losses[epoch] = float(stage_loss)
        else:
            self.save_epoch({"loss": stage_loss})


def make_brain(folder, *, epochs=2, init_seed=0, dropout=0.5, opt=torch.optim.AdamW, **run_opts):
    torch.manual_seed(init_seed)
    model = torch.nn.Sequential(
        torch.nn.Linear(10, 8), torch.nn.GELU(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 1)
    )
    counter = EpochCounter(epochs)
    hparams = {
        "seed": 3,
        "sample_rate": SAMPLE_RATE,
        "epoch_counter": counter,
        "num_checkpoints_to_keep": 1,
        "attention_type": "PoM(3)",
        "d_model": 10,
        "num_encoder_layers": 1,
    }
    brain = ToyBrain(
        modules={"model": model},
        opt_class=lambda parameters: opt(parameters, lr=0.01),
        hparams=hparams,
        run_opts={"device": "cpu", "noprogressbar": True, **run_opts},
        checkpointer=SafeCheckpointer(folder, {"model": model, "counter": counter}),
    )
    brain.seen, brain.epoch_sums, brain.train_losses = [], {}, {}
    return brain


def final_state(brain):
    """All tensors of model and optimizer, by name."""
    state = {f"model.{key}": value for key, value in brain.modules.state_dict().items()}
    for index, slot in brain.optimizer.state_dict()["state"].items():
        state |= {f"optimizer.{index}.{key}": value for key, value in slot.items()}
    return {key: value.detach().clone() for key, value in state.items()}


def final_weights(brain):
    return {key: value.clone() for key, value in brain.modules.state_dict().items()}


def differing(first, second):
    assert first.keys() == second.keys()
    return [key for key in first if not torch.equal(first[key], second[key])]


def trained_ids(brain, epoch):
    batches = [ids for stage, e, _, ids in brain.seen if stage == sb.Stage.TRAIN and e == epoch]
    return list(itertools.chain.from_iterable(batches))


def test_each_utterance_once_per_epoch_in_a_fresh_order(tmp_path):
    signals = make_signals(7)
    brain = fit(make_brain(tmp_path, grad_accumulation_factor=2), signals, batch_size=2)
    first, second = trained_ids(brain, 1), trained_ids(brain, 2)
    assert sorted(first) == sorted(second) == sorted(signals)
    assert first != second
    assert brain.optimizer_step == 2 * 2  # 4 batches an epoch


def reference_weights(signals, order, windows, lr=0.05):
    """Plain SGD over utterances, with the given accumulation windows, averaged in each."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(10, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    position = 0
    for size, divisor in windows:
        for key in order[position : position + size]:
            frames = signals[key].unfold(0, 11, 10)
            loss = (model(frames[:, :10]) - frames[:, 10:]).square().mean()
            (loss / divisor).backward()
        optimizer.step()
        optimizer.zero_grad()
        position += size
    return [parameter.detach() for parameter in model.parameters()]


def test_the_last_window_of_an_epoch_is_stepped_and_rescaled(tmp_path):
    """10 batches with accumulation 4: 3 steps, the last one of 2 batches."""
    signals = make_signals(10)
    brain = make_brain(
        tmp_path, epochs=1, dropout=0.0, grad_accumulation_factor=4, max_grad_norm=0.0
    )
    brain.opt_class = lambda parameters: torch.optim.SGD(parameters, lr=0.05)
    fit(brain, signals)
    assert brain.optimizer_step == 3
    ours = [parameter.detach() for parameter in brain.modules.parameters()]
    order = trained_ids(brain, 1)
    expected = reference_weights(signals, order, [(4, 4), (4, 4), (2, 2)])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-7)
    # What must differ: a remainder that is lost, and one that is not rescaled.
    for naive in ([(4, 4), (4, 4)], [(4, 4), (4, 4), (2, 4)]):
        wrong = reference_weights(signals, order, naive)
        assert max(float((a - b).abs().max()) for a, b in zip(ours, wrong, strict=True)) > 1e-4


def test_the_gradient_norm_is_that_of_all_parameters(tmp_path):
    norms = []

    class Recording(torch.optim.SGD):
        def step(self, *args, **kwargs):
            parameters = self.param_groups[0]["params"]
            grads = [parameter.grad.flatten() for parameter in parameters]
            norms.append(float(torch.cat(grads).norm()))
            return super().step(*args, **kwargs)

    signals = {key: 100 * signal for key, signal in make_signals(3).items()}
    brain = fit(make_brain(tmp_path, epochs=1, opt=Recording, max_grad_norm=2.0), signals)
    assert norms == pytest.approx([2.0] * 3, rel=1e-4)
    assert brain.epoch_sums[1]["num_steps"] == 3
    assert brain.epoch_sums[1]["grad_norm"] / 3 > 2.0  # logged as it was before clipping


def test_the_schedule_sets_the_rate_of_the_step_itself(tmp_path):
    rates = []

    class Recording(torch.optim.SGD):
        def step(self, *args, **kwargs):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*args, **kwargs)

    brain = make_brain(tmp_path, epochs=1, opt=Recording)

    def warm_up():
        brain.optimizer.param_groups[0]["lr"] = 0.001 * (brain.optimizer_step + 1)

    brain.on_optimizer_step_start = warm_up
    fit(brain, make_signals(3))
    assert rates == [0.001, 0.002, 0.003]


def test_the_end_of_a_step_is_called_with_the_new_weights_and_not_for_skipped_steps(tmp_path):
    signals = make_signals(6)
    options = {"epochs": 1, "grad_accumulation_factor": 2}
    ids = trained_ids(fit(make_brain(tmp_path / "finite", **options), signals), 1)
    signals[ids[3]][5] = math.nan
    brain = make_brain(tmp_path / "nan", **options)
    at_start, ended, batches = [], [], []
    brain.on_optimizer_step_start = lambda: at_start.append(final_weights(brain))

    def end():
        ended.append((brain.step, brain.optimizer_step))
        assert differing(at_start[-1], final_weights(brain))

    brain.on_optimizer_step_end = end
    brain.on_fit_batch_end = lambda *arguments: batches.append((brain.step, arguments[-1]))
    fit(brain, signals)
    assert ended == [(2, 1), (6, 2)]
    # The batch's own hook does not tell a step that was taken from one that was skipped.
    assert [step for step, should_step in batches if should_step] == [2, 4, 6]


def test_randomness_of_a_step_does_not_depend_on_what_was_drawn_before(tmp_path):
    signals = make_signals(4)
    straight = final_state(fit(make_brain(tmp_path / "a"), signals))
    disturbed_brain = make_brain(tmp_path / "b")
    disturbed_brain.on_optimizer_step_start = lambda: torch.rand(17)
    assert differing(straight, final_state(fit(disturbed_brain, signals))) == []


def test_without_seeding_the_same_comparison_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(brain_module, "seed_step", lambda *coordinates: None)
    signals = make_signals(4)
    straight = final_state(fit(make_brain(tmp_path / "a"), signals))
    disturbed_brain = make_brain(tmp_path / "b")
    disturbed_brain.on_optimizer_step_start = lambda: torch.rand(17)
    assert differing(straight, final_state(fit(disturbed_brain, signals)))


# Batches before the interruption: 7 in each of 2 epochs, windows of 3, 3 and 1.
@pytest.mark.parametrize("stop", range(1, 15))
def test_resume_at_any_batch_equals_the_straight_run(tmp_path, stop):
    signals = make_signals(7)
    options = {"grad_accumulation_factor": 3, "ckpt_interval_steps": 1}
    straight = fit(make_brain(tmp_path / "straight", **options), signals)
    stopped = make_brain(tmp_path / "run", **options)
    stopped.interrupt_at = stop
    if stop < 14:
        with pytest.raises(KeyboardInterrupt):
            fit(stopped, signals)
    else:
        fit(stopped, signals)
    # Other initial weights: what is not in the checkpoint would show.
    resumed = fit(make_brain(tmp_path / "run", init_seed=1 if stop >= 3 else 0, **options), signals)
    assert differing(final_state(straight), final_state(resumed)) == []
    assert resumed.optimizer_step == straight.optimizer_step == 6
    repeated = len(resumed.seen) + len(stopped.seen) - len(straight.seen)
    assert repeated <= 2 + 7  # batches of an open window, validation of a saved epoch: no more
    if stop < 14:
        assert _without_times(resumed.epoch_sums[2]) == _without_times(straight.epoch_sums[2])
        assert resumed.train_losses[2] == straight.train_losses[2]


def _without_times(sums):
    return {key: value for key, value in sums.items() if key != "wall_s"}


def test_resuming_says_from_where(tmp_path, caplog):
    signals = make_signals(7)
    options = {"grad_accumulation_factor": 3, "ckpt_interval_steps": 1}
    stopped = make_brain(tmp_path, **options)
    stopped.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        fit(stopped, signals)
    with caplog.at_level(logging.INFO):
        fit(make_brain(tmp_path, **options), signals)
    assert "Resumed after 1 optimizer steps, at batch 3 of its next epoch" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(make_brain(tmp_path, epochs=3, **options), signals)
    assert "Resumed after 6 optimizer steps, at an epoch's end" in caplog.text


def test_a_step_that_is_not_finite_changes_nothing_and_names_the_utterances(tmp_path, caplog):
    signals = make_signals(6)
    options = {"epochs": 1, "grad_accumulation_factor": 2}
    ids = trained_ids(fit(make_brain(tmp_path / "finite", **options), signals), 1)
    signals[ids[3]][5] = math.nan
    brain = make_brain(tmp_path / "nan", **options)
    states = []  # before each batch
    brain.on_fit_batch_start = lambda batch, should_step: states.append(final_state(brain))
    with caplog.at_level(logging.WARNING):
        fit(brain, signals)
    states.append(final_state(brain))
    assert trained_ids(brain, 1) == ids
    assert [index for index in (3, 5) if not differing(states[index], states[index + 1])] == [3]
    assert brain.optimizer_step == 2
    assert all(torch.isfinite(value).all() for value in states[-1].values())
    named = [record.getMessage() for record in caplog.records if "step skipped" in record.msg]
    assert named == [
        f"Gradient norm nan in epoch 1, batch 4: step skipped. Utterances: {ids[2]} {ids[3]}"
    ]
    assert math.isnan(brain.train_losses[1])  # shown as it is


def test_more_than_the_patience_in_a_row_ends_the_run(tmp_path):
    signals = {key: signal * math.nan for key, signal in make_signals(5).items()}
    brain = make_brain(tmp_path, nonfinite_patience=2)
    before = {key: value.clone() for key, value in brain.modules.state_dict().items()}
    with pytest.raises(RuntimeError, match="3 steps in a row had gradients that are not finite"):
        fit(brain, signals)
    assert differing(before, brain.modules.state_dict()) == []
    assert not list(tmp_path.glob("CKPT*"))


def test_bad_steps_that_are_not_in_a_row_do_not_end_the_run(tmp_path):
    signals = make_signals(6)
    for key in list(signals)[::2]:
        signals[key][5] = math.nan
    brain = make_brain(tmp_path, epochs=1, nonfinite_patience=3)
    fit(brain, signals)
    assert brain.optimizer_step == 3


@pytest.mark.parametrize("limit", [1, 3, 4])
def test_training_ends_exactly_at_the_step_limit(tmp_path, limit):
    signals = make_signals(7)
    options = {"epochs": 9, "grad_accumulation_factor": 3, "optimizer_step_limit": limit}
    brain = fit(make_brain(tmp_path, **options), signals)
    assert brain.optimizer_step == limit
    batches = [entry for entry in brain.seen if entry[0] == sb.Stage.TRAIN]
    assert len(batches) == {1: 3, 3: 7, 4: 10}[limit]
    assert brain.seen[-1][0] == sb.Stage.VALID
    files = sorted(path.name for path in tmp_path.iterdir())

    again = fit(make_brain(tmp_path, init_seed=1, **options), signals)
    assert again.seen == []
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    assert differing(final_state(brain), final_state(again)) == []


def test_reached_limit_is_said(tmp_path, caplog):
    options = {"epochs": 9, "optimizer_step_limit": 2}
    fit(make_brain(tmp_path, **options), make_signals(4))
    with caplog.at_level(logging.INFO):
        fit(make_brain(tmp_path, **options), make_signals(4))
    expected = "optimizer_step_limit (2 steps) was reached before: nothing left to train"
    assert expected in caplog.text


def test_an_override_keeps_modules_in_eval_mode(tmp_path):
    modes = []
    brain = make_brain(tmp_path, epochs=1)
    brain.set_train_mode = brain.modules.eval
    brain.on_fit_batch_start = lambda batch, should_step: modes.append(brain.modules.training)
    fit(brain, make_signals(2))
    assert modes == [False, False]


def test_checkpoints_say_what_they_are_and_the_best_one_is_kept(tmp_path):
    losses = iter([3.0, 1.0, 2.0, 2.5])
    brain = make_brain(tmp_path, epochs=4)

    def save(stage, stage_loss, epoch=None):
        if stage == sb.Stage.VALID:
            brain.save_epoch({"loss": next(losses)})

    brain.on_stage_end = save
    fit(brain, make_signals(2))
    metas = [checkpoint.meta for checkpoint in brain.checkpointer.list_checkpoints()]
    assert sorted(meta["loss"] for meta in metas) == [1.0, 2.5]
    assert sorted(meta["optimizer_step"] for meta in metas) == [4, 8]


def test_the_best_one_may_be_the_highest(tmp_path):
    scores = iter([0.1, 0.9, 0.3])
    brain = make_brain(tmp_path, epochs=3)
    brain.task_metrics = TaskMetrics("toy", (Metric("score", better="higher"),), best="score")

    def save(stage, stage_loss, epoch=None):
        if stage == sb.Stage.VALID:
            brain.save_epoch({"score": next(scores)})

    brain.on_stage_end = save
    fit(brain, make_signals(2))
    metas = [checkpoint.meta for checkpoint in brain.checkpointer.list_checkpoints()]
    assert sorted(meta["score"] for meta in metas) == [0.3, 0.9]
    best = brain.checkpointer.recover_if_possible(**brain.task_metrics.checkpoint_key())
    assert best.meta["score"] == 0.9


def test_saving_does_not_become_slower(tmp_path, monkeypatch):
    """SpeechBrain sorts all checkpoints once more after each save: its default is a shared list."""
    numbers, delete = [], SafeCheckpointer.delete_checkpoints

    def count_and_delete(self, *, importance_keys, **options):
        numbers.append(len(importance_keys))
        delete(self, importance_keys=importance_keys, **options)

    monkeypatch.setattr(SafeCheckpointer, "delete_checkpoints", count_and_delete)
    default = (
        inspect.signature(Checkpointer.save_and_keep_only).parameters["importance_keys"].default
    )
    before = len(default)
    fit(make_brain(tmp_path / "ours", ckpt_interval_steps=1), make_signals(4))
    assert len(numbers) > 6
    assert set(numbers) == {1}
    assert len(default) == before
    checkpointer = make_brain(tmp_path / "theirs").checkpointer
    for _ in range(2):
        checkpointer.save_and_keep_only()
    assert numbers[-1] == numbers[-2] + 1
    assert len(default) == before + 2
    del default[before:]


def test_figures_of_the_epoch(tmp_path):
    signals = make_signals(5)
    brain = make_brain(tmp_path, epochs=1)
    summaries = []

    def summarize(stage, stage_loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            summaries.append(brain.train_summary())
            assert brain.sums["audio_s"] == pytest.approx(
                sum(map(len, signals.values())) / SAMPLE_RATE  # without padding
            )

    brain.on_stage_end = summarize
    fit(brain, signals, batch_size=2)
    assert summaries[0].keys() == {"grad_norm", "audio_s_per_s", "peak_memory_mib"}
    assert all(math.isfinite(value) and value > 0 for value in summaries[0].values())
    assert peak_memory_mib("cpu") > 1
    assert brain.grad_norm_figure() == {}  # the epoch is over
    with pytest.raises(ValueError, match="no mean of audio_s"):
        brain.train_summary()


def test_an_epoch_without_a_step_has_no_gradient_norm(tmp_path):
    signals = {key: signal * math.nan for key, signal in make_signals(2).items()}
    brain = make_brain(tmp_path, epochs=1, nonfinite_patience=9)
    figures = []
    brain.on_stage_end = lambda stage, *_: figures.append(brain.grad_norm_figure())
    fit(brain, signals)
    assert figures == [{}, {}]


@pytest.mark.parametrize("stage", sb.Stage)
def test_a_stage_without_utterances_is_refused(tmp_path, stage):
    """SpeechBrain gives it a loss of 0, which is better than any other."""
    with pytest.raises(UserError, match=f"there is no utterance to use in stage {stage.name}"):
        make_brain(tmp_path).make_dataloader([], stage)


def test_facts_about_a_batch(tmp_path):
    brain = make_brain(tmp_path, grad_accumulation_factor=4)
    sampler = BucketBatchSampler([10.0] * 6, list("abcdef"), batch_size=2, seed=1)
    facts = brain.batch_facts(sampler)
    assert facts == {
        "batches_per_epoch": "3",
        "audio_per_step": "80 s (20 s x 1 processes x accumulation 4), padding 0.0%",
    }
