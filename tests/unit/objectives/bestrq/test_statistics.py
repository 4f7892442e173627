"""Metrics of BEST-RQ: weighted by frames, refused when empty, shown when not finite."""

import math

import pytest
import torch

from speechbrain_pom.objectives.bestrq import METRICS, summarise
from speechbrain_pom.training.sums import EpochSums


def random_batches(num_codes=20, sizes=(1, 63, 500, 0)):
    torch.manual_seed(0)
    return [(torch.randn(n, num_codes), torch.randint(num_codes // 2, (n,))) for n in sizes]


def sums_of(logits, targets, num_codes=20):
    """What the objective returns of a batch."""
    return {
        "loss_sum": torch.nn.functional.cross_entropy(logits, targets, reduction="sum"),
        "num_correct": (logits.argmax(-1) == targets).sum(),
        "counts": torch.bincount(targets, minlength=num_codes),
        "num_masked": 4 * len(targets),
        "num_valid": 10 * len(targets),
    }


def summary_of(batches):
    sums = EpochSums()
    for logits, targets in batches:
        sums.add(**sums_of(logits, targets))
    return summarise(sums)


def test_metrics_are_those_of_all_frames_together():
    batches = random_batches()
    summary = summary_of(batches)
    logits, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert summary["loss"] == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits, targets)), rel=1e-6
    )
    assert summary["accuracy"] == pytest.approx(float((logits.argmax(1) == targets).float().mean()))
    assert summary["masked_share"] == 0.4
    # A mean of the batches' means would weigh one frame like 500.
    means = [float(torch.nn.functional.cross_entropy(x, y)) for x, y in batches[:3]]
    assert summary["loss"] != pytest.approx(sum(means) / 3, rel=1e-3)
    assert summary.keys() == {metric.name for metric in METRICS}


def test_use_of_the_codes():
    sums = {"loss_sum": 0.0, "num_correct": 1, "num_masked": 1, "num_valid": 1}
    even = summarise({**sums, "counts": torch.ones(8, dtype=torch.int64)})
    assert even["codes_in_use"] == 8
    assert even["code_perplexity"] == pytest.approx(8)
    assert even["top_code_share"] == pytest.approx(1 / 8)
    assert even["accuracy"] == pytest.approx(1 / 8)
    collapsed = summarise({**sums, "counts": torch.tensor([93, 1, 1, 1, 1, 1, 1, 1])})
    assert collapsed["top_code_share"] == pytest.approx(0.93)
    assert collapsed["code_perplexity"] < 2
    assert collapsed["codes_in_use"] == 8


@pytest.mark.parametrize("batches", [[], [(torch.zeros(0, 20), torch.zeros(0, dtype=torch.int64))]])
def test_nothing_predicted_is_an_error_and_no_figure(batches):
    with pytest.raises(ValueError, match="no masked frame has been predicted: the set is empty"):
        summary_of(batches)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_shown(bad):
    sums = EpochSums()
    for logits, targets in random_batches():
        sums.add(**sums_of(logits, targets))
    sums.add(loss_sum=torch.tensor(bad))
    assert not math.isfinite(summarise(sums)["loss"])
    assert math.isfinite(summarise(sums)["accuracy"])
