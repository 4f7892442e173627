"""Metrics of wav2vec 2.0: sums over batches, groups of codes, and whether they collapsed."""

import pytest
import torch

from speechbrain_pom.objectives import Draw
from speechbrain_pom.objectives.wav2vec2 import find_collapse, summarise
from speechbrain_pom.objectives.wav2vec2.statistics import metrics_of
from speechbrain_pom.training.sums import EpochSums
from speechbrain_pom.utils.errors import UserError
from tests.unit.objectives.wav2vec2.builders import build, signals

VALIDATION = Draw(7, 1, 0, training=False)


def stats_of(objective, batches):
    sums = EpochSums()
    with torch.no_grad():
        for rows in batches:
            sums.add(**objective(*signals(rows), VALIDATION).sums)
    return objective.summary(sums)


def test_batches_do_not_matter():
    """But for the diversity loss, which is one of a batch."""
    objective = build().eval()
    whole, parts = stats_of(objective, [[0, 1, 2]]), stats_of(objective, [[2, 0], [1]])
    for name in whole.keys() - {"loss", "diversity_loss"}:
        assert parts[name] == pytest.approx(whole[name], rel=1e-4), name
    assert parts["diversity_loss"] > whole["diversity_loss"]


def test_no_masked_frame_is_no_statistic():
    with pytest.raises(UserError, match="no frame has been masked: the set is empty"):
        summarise({"num_masked": 0}, groups=2)


def test_all_targets_equal_warn():
    """Loss 0 and accuracy 100 % are all that SpeechBrain shows then."""
    objective = build().eval()
    healthy = stats_of(objective, [[0, 1, 2]])
    assert objective.warning(healthy) is None
    with torch.no_grad():
        objective.quantizer.to_logits.weight.zero_()
        objective.quantizer.to_logits.bias[[0, 8]] = 100.0
    stats = stats_of(objective, [[0, 1, 2]])
    assert (stats["contrastive_loss"], stats["accuracy"], stats["dropped_negatives"]) == (0, 1, 1)
    assert (stats["codes_in_use_1"], stats["codes_in_use_2"]) == (1, 1)
    assert stats["code_perplexity_1"] == pytest.approx(1, abs=1e-3)
    assert stats["diversity_loss"] == pytest.approx(1 - 2 / 16, abs=1e-3)
    warning = objective.warning(stats)
    assert warning.startswith("targets have collapsed: 100% of the negatives have the codes of")
    assert "the 2 groups of 8 codes are 1.0, 1.0" in warning


def test_one_group_that_collapses_warns():
    stats = {"dropped_negatives": 0.05, "code_perplexity_1": 150.0, "code_perplexity_2": 150.0}
    assert find_collapse(stats, 2, 320) is None
    assert "150.0, 1.2" in find_collapse({**stats, "code_perplexity_2": 1.2}, 2, 320)
    assert find_collapse({**stats, "dropped_negatives": 0.6}, 2, 320)


def test_groups_of_any_number():
    names = [metric.name for metric in metrics_of(3)]
    assert "codes_in_use_3" in names
    assert len(set(names)) == len(names) == 7 + 3 * 3
    shown = {metric.name: metric.panel for metric in metrics_of(2)}
    assert shown["accuracy"] == shown["dropped_negatives"] == "Contrast"
