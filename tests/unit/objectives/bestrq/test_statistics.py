"""Health figures: frame-weighted, mergeable, refused when empty, shown when not finite."""

import math

import pytest
import torch
import torch.multiprocessing

from speechbrain_pom.objectives.bestrq.statistics import CodeStatistics


def random_batches(num_codes=20, sizes=(1, 63, 500, 0)):
    torch.manual_seed(0)
    return [(torch.randn(n, num_codes), torch.randint(num_codes // 2, (n,))) for n in sizes]


def fill(statistics, batches):
    for logits, targets in batches:
        loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
        statistics.update(logits, targets, loss)
        statistics.update_frames(4 * len(targets), 10 * len(targets))
    return statistics


def test_figures_are_those_of_all_frames_together():
    batches = random_batches()
    summary = fill(CodeStatistics(20), batches).summary()
    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert summary["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-6
    )
    assert summary["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert summary["masked_share"] == 0.4
    # A mean of the batches' means would weigh one frame like 500.
    means = [float(torch.nn.functional.cross_entropy(x, y)) for x, y in batches[:3]]
    assert summary["loss"] != pytest.approx(sum(means) / 3, rel=1e-3)


def test_use_of_the_codes():
    statistics = CodeStatistics(8)
    statistics.update(torch.zeros(8, dtype=torch.int64), torch.arange(8), 0.0)
    even = statistics.summary()
    assert even["codes_in_use"] == 8
    assert even["code_perplexity"] == pytest.approx(8)
    assert even["top_code_share"] == pytest.approx(1 / 8)
    assert even["accuracy"] == pytest.approx(1 / 8)  # predicted codes instead of logits
    statistics.update(torch.zeros(92, dtype=torch.int64), torch.zeros(92, dtype=torch.int64), 0.0)
    collapsed = statistics.summary()
    assert collapsed["top_code_share"] == pytest.approx(0.93)
    assert collapsed["code_perplexity"] < 2
    assert collapsed["codes_in_use"] == 8


def test_nothing_predicted_is_an_error_and_no_figure():
    statistics = CodeStatistics(8)
    statistics.update_frames(num_masked=0, num_valid=63)
    statistics.update(torch.zeros(0, 8), torch.zeros(0, dtype=torch.int64), 0.0)
    with pytest.raises(ValueError, match="no masked frame has been predicted: the set is empty"):
        statistics.summary()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_shown(bad):
    statistics = fill(CodeStatistics(20), random_batches())
    statistics.update(torch.zeros(2, 20), torch.zeros(2, dtype=torch.int64), torch.tensor(bad))
    assert not math.isfinite(statistics.summary()["loss"])
    assert math.isfinite(statistics.summary()["accuracy"])


def test_all_reduce_alone_changes_nothing():
    statistics = fill(CodeStatistics(20), random_batches())
    before = statistics.summary()
    statistics.all_reduce()
    assert statistics.summary() == before


def _worker(rank, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2
    )
    batches = random_batches()
    statistics = fill(CodeStatistics(20), batches[rank::2])
    statistics.all_reduce()
    torch.save(statistics.summary(), f"{folder}/{rank}")
    torch.distributed.destroy_process_group()


def test_ranks_add_up_to_one_process(tmp_path):
    # Forked: a spawned process could not import a test module.
    torch.multiprocessing.start_processes(_worker, (str(tmp_path),), nprocs=2, start_method="fork")
    expected = fill(CodeStatistics(20), random_batches()).summary()
    for rank in range(2):
        merged = torch.load(tmp_path / str(rank), weights_only=True)
        assert merged == pytest.approx(expected, rel=1e-12)
