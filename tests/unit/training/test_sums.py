"""Sums of an epoch: over all processes, and continued from checkpoints."""

import math

import pytest
import torch

from speechbrain_pom.runs.checkpoints import SafeCheckpointer
from speechbrain_pom.training.sums import EpochSums, keep_in_checkpoints
from tests.helpers.processes import run_in_two

BATCHES = [(1.0, 1), (4.0, 3), (math.pi, 5), (0.25, 2)]  # loss and number of frames


def test_sums_and_ratios():
    sums = EpochSums()
    with pytest.raises(ValueError, match="no mean of loss: the sum of frames is 0 in this stage"):
        sums.ratio("loss", "frames")
    for loss, frames in BATCHES:
        sums.add(loss=torch.tensor(loss), frames=frames)
    assert sums["frames"] == 11
    assert sums.ratio("loss", "frames") == pytest.approx(sum(loss for loss, _ in BATCHES) / 11)
    assert sums["unknown"] == 0
    sums.reset()
    assert sums["frames"] == 0


def test_without_other_processes_all_reduce_changes_nothing():
    sums = EpochSums()
    sums.add(loss=1.5)
    sums.all_reduce()
    assert sums.state_dict() == {"loss": 1.5}


def batch_sums(seed, num_frames):
    """Numbers and a histogram, as an objective returns them."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(8, (num_frames,), generator=generator)
    loss = torch.rand((), generator=generator)
    return {"loss": loss, "frames": num_frames, "counts": torch.bincount(codes, minlength=8)}


@pytest.mark.parametrize("stop", range(5))
def test_an_epoch_that_is_resumed_has_the_figures_of_one_that_was_not(tmp_path, stop):
    lengths = [1, 63, 0, 500]
    straight, before, after = EpochSums(), EpochSums(), EpochSums()
    for seed, length in enumerate(lengths):
        straight.add(**batch_sums(seed, length))
    after.add(**batch_sums(99, 7))  # is forgotten
    for sums in (before, after):
        checkpointer = SafeCheckpointer(tmp_path)
        keep_in_checkpoints(checkpointer, "statistics", sums)
        if sums is before:
            for seed in range(stop):
                before.add(**batch_sums(seed, lengths[seed]))
            checkpointer.save_checkpoint(end_of_epoch=False)
        else:
            checkpointer.recover_if_possible()
    for seed in range(stop, 4):
        after.add(**batch_sums(seed, lengths[seed]))
    assert after.state_dict() == straight.state_dict()
    assert torch.equal(after["counts"], straight["counts"])
    assert after["counts"].dtype == torch.int64


def test_what_is_added_is_not_held():
    """A vector that changes afterwards changes no sum."""
    sums, counts = EpochSums(), torch.tensor([1, 2])
    sums.add(counts=counts)
    sums.add(counts=counts)
    counts += 7
    assert sums["counts"].tolist() == [2, 4]


def test_figures_that_are_not_finite_survive_a_checkpoint(tmp_path):
    sums = EpochSums()
    sums.add(loss=math.nan, norm=math.inf)
    checkpointer = SafeCheckpointer(tmp_path)
    keep_in_checkpoints(checkpointer, "sums", sums)
    checkpointer.save_checkpoint()
    sums.reset()
    checkpointer.recover_if_possible()
    assert math.isnan(sums["loss"])
    assert sums["norm"] == math.inf


def sum_as_rank(rank, folder):
    """Half of the batches, a checkpoint, a fresh start of both processes, the other half."""
    first, resumed = EpochSums(), EpochSums()
    for sums in (first, resumed):
        checkpointer = SafeCheckpointer(folder / "save")
        keep_in_checkpoints(checkpointer, "sums", sums)
        if sums is first:
            loss, frames = BATCHES[rank]
            first.add(loss=loss, frames=frames, counts=torch.tensor([rank, 5]))
            checkpointer.save_checkpoint(end_of_epoch=False)
        else:
            checkpointer.recover_if_possible()
    local = [first.state_dict(), resumed.state_dict()]
    loss, frames = BATCHES[2 + rank]
    resumed.add(loss=loss, frames=frames, counts=torch.tensor([10, 0]))
    resumed.all_reduce()
    return [*local, resumed.state_dict()]


def test_two_processes_save_their_total_once_and_load_it_once(tmp_path):
    main, other = run_in_two(sum_as_rank, tmp_path)
    # Saving leaves the processes' own sums as they are.
    assert main[0] == {"loss": 1.0, "frames": 1.0, "counts": [0, 5]}
    assert other[0] == {"loss": 4.0, "frames": 3.0, "counts": [1, 5]}
    # Each loading the total would count it twice.
    assert main[1] == {"loss": 5.0, "frames": 4.0, "counts": [1, 10]}
    assert other[1] == {}
    assert main[2] == other[2]
    assert main[2]["frames"] == 11
    assert main[2]["counts"] == [21, 10]
    assert main[2]["loss"] == pytest.approx(sum(loss for loss, _ in BATCHES), rel=1e-15)
