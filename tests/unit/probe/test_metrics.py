"""Accuracy, confusions and equal error rate against what can be counted by hand."""

import pytest
import torch

from speechbrain_pom.probe import ClassificationScores, equal_error_rate
from speechbrain_pom.probe.metrics import format_scores
from speechbrain_pom.utils.errors import UserError


def test_figures_of_a_small_test():
    scores = ClassificationScores()
    scores.append(list("abcd"), ["A", "B", "B", "B"], ["A", "A", "A", "B"])
    scores.append(["e"], ["A"], ["B"])
    assert scores.error_rate() == 60.0
    summary = scores.summary(num_bootstrap=200)
    assert summary["accuracy"] == 40.0
    assert summary["commonest_class"] == 60.0
    assert 0 <= summary["accuracy_low"] < 40 < summary["accuracy_high"] <= 100
    assert summary["classes"] == {
        "A": {"utterances": 3, "right": 1},
        "B": {"utterances": 2, "right": 1},
    }
    worst = summary["confusions"]
    assert [(pair["class"], pair["taken_for"], pair["count"]) for pair in worst] == [
        ("A", "B", 2),
        ("B", "A", 1),
    ]
    assert format_scores(summary).endswith("; worst: 2 of 3 A as B, 1 of 2 B as A")


def test_the_order_of_the_utterances_does_not_matter():
    answers = [(str(i), "AB"[i % 2], "AB"[i % 3 % 2]) for i in range(63)]
    summaries = []
    for order in (answers, answers[::-1]):
        scores = ClassificationScores()
        scores.append(*zip(*order, strict=True))
        summaries.append(scores.summary(num_bootstrap=50))
    assert summaries[0] == summaries[1]


def embeddings(num_speakers, num_utterances, noise):
    torch.manual_seed(0)
    centres = torch.randn(num_speakers, 32)
    keys = [(s, u) for s in range(num_speakers) for u in range(num_utterances)]
    vectors = {f"{s}-{u}": centres[s] + noise * torch.randn(32) for s, u in keys}
    return vectors, {f"{s}-{u}": str(s) for s, u in keys}


def test_equal_error_rate_follows_the_speakers():
    clear, unclear, chance = (equal_error_rate(*embeddings(6, 8, n)) for n in (0.01, 1.0, 100.0))
    assert clear["eer"] == 0.0
    assert 0 < unclear["eer"] < 30
    assert 40 < chance["eer"] < 60
    assert clear["num_same"] == 6 * 8 * 7 // 2
    assert clear["num_different"] == 48 * 47 // 2 - clear["num_same"]
    vectors, speakers = embeddings(6, 8, 1.0)
    backwards = dict(reversed(vectors.items()))
    assert equal_error_rate(backwards, speakers) == unclear
    few = equal_error_rate(vectors, speakers, num_trials=100)
    assert (few["num_same"], few["num_different"]) == (50, 50)


@pytest.mark.parametrize("speakers", [["1", "1", "1"], ["1", "2", "3"]])
def test_no_equal_error_rate_without_both_kinds_of_trials(speakers):
    vectors = {key: torch.randn(4) for key in "abc"}
    with pytest.raises(UserError, match=r"no trials can be made of 3 utterances of \d speakers"):
        equal_error_rate(vectors, dict(zip("abc", speakers, strict=True)))


def test_an_empty_test_has_no_figures():
    for figure in (ClassificationScores().error_rate, ClassificationScores().summary):
        with pytest.raises(ValueError, match="no utterance has been scored: the set is empty"):
            figure()
