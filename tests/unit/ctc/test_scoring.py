"""Error rates, their intervals and the alignment file."""

import random

import numpy as np
import pytest
import torch

from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.ctc.scoring import (
    ErrorRates,
    read_word_edits,
)
from speechbrain_pom.utils.bootstrap import rate_with_interval

WORDS = ["ONE", "TWO", "THREE", "FOUR", "FIVE"]


def make_rates(num_utterances, error_share=0.2, seed=0, order=None):
    draw = random.Random(seed)
    rows = []
    for i in range(num_utterances):
        reference = [draw.choice(WORDS) for _ in range(draw.randint(1, 12))]
        prediction = [w if draw.random() > error_share else draw.choice(WORDS) for w in reference]
        rows.append((f"u{i:04}", " ".join(prediction), " ".join(reference)))
    if order is not None:
        random.Random(order).shuffle(rows)
    rates = ErrorRates()
    for start in range(0, num_utterances, 7):
        rates.append(*zip(*rows[start : start + 7], strict=True))
    return rates


def test_counts_by_hand():
    rates = ErrorRates()
    rates.append(["sub"], ["ONE TEN THREE"], ["ONE TWO THREE"])
    rates.append(["ins", "del"], ["ONE ONE TWO", "TWO"], ["ONE TWO", "ONE TWO"])
    summary = rates.summary(num_bootstrap=10)
    assert summary["num_utterances"] == 3
    assert summary["num_words"] == 7
    assert (summary["substitutions"], summary["insertions"], summary["deletions"]) == (1, 1, 1)
    assert summary["wer"] == pytest.approx(100 * 3 / 7)
    assert summary["cer"] == pytest.approx(100 * (2 + 4 + 4) / (13 + 7 + 7))
    assert summary["empty_outputs"] == 0


def test_the_space_is_a_character():
    rates = ErrorRates()
    rates.append(["a"], ["ONETWO"], ["ONE TWO"])
    summary = rates.summary(num_bootstrap=1)
    assert summary["wer"] == 100.0
    assert summary["cer"] == pytest.approx(100 / 7)


def test_spaces_around_and_doubled_do_not_count():
    rates = ErrorRates()
    rates.append(["a"], [" ONE  TWO "], ["ONE TWO"])
    assert rates.summary(num_bootstrap=1)["cer"] == 0.0


def test_empty_predictions_are_deletions_and_counted():
    rates = ErrorRates()
    rates.append(["a", "b"], ["", " "], ["ONE TWO", "ONE"])
    summary = rates.summary(num_bootstrap=10)
    assert (summary["wer"], summary["cer"], summary["deletions"]) == (100.0, 100.0, 3)
    assert summary["empty_outputs"] == 2
    assert CTC_METRICS.format_results(summary).endswith(", empty outputs 2")


def test_one_utterance_has_an_interval_of_no_width():
    summary = make_rates(1, error_share=1.0).summary(num_bootstrap=50)
    assert summary["wer_low"] == summary["wer"] == summary["wer_high"]


@pytest.mark.parametrize("num_utterances", [2, 63, 500])
def test_intervals_contain_the_estimate(num_utterances):
    summary = make_rates(num_utterances).summary(num_bootstrap=400)
    assert summary["wer_low"] <= summary["wer"] <= summary["wer_high"]
    assert summary["cer_low"] <= summary["cer"] <= summary["cer_high"]


def test_intervals_narrow_as_one_over_the_root_of_the_utterances():
    def width(summary):
        return summary["wer_high"] - summary["wer_low"]

    few, many = (width(make_rates(n).summary(num_bootstrap=400)) for n in (50, 800))
    assert few / many == pytest.approx(4, rel=0.35)


def test_intervals_are_those_of_the_normal_approximation():
    summary = make_rates(400, error_share=0.3).summary()
    edits_per_word = summary["wer"] / 100
    half_width = 196 * (edits_per_word * (1 - edits_per_word) / summary["num_words"]) ** 0.5
    assert (summary["wer_high"] - summary["wer_low"]) / 2 == pytest.approx(half_width, rel=0.25)


def test_figures_repeat_whatever_the_order_and_the_global_seeds():
    first = make_rates(60).summary(num_bootstrap=100)
    np.random.seed(5)
    torch.manual_seed(5)
    assert make_rates(60, order=1).summary(num_bootstrap=100) == first
    assert make_rates(60, order=2).summary(num_bootstrap=100) == first


def test_global_random_state_is_not_touched():
    rates = make_rates(20)
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    rates.summary(num_bootstrap=10)
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])
    assert torch.equal(torch.get_rng_state(), before[2])


def test_format():
    summary = {"wer": 8.312, "wer_low": 7.99, "wer_high": 8.63, "cer": 2.5, "cer_low": 2.25}
    summary |= {"cer_high": 2.75, "empty_outputs": 0, "num_utterances": 9}
    assert CTC_METRICS.format_results(summary) == (
        "WER 8.31 ±0.32 % (7.99 to 8.63), CER 2.50 ±0.25 % (2.25 to 2.75), utterances 9, "
        "empty outputs 0"
    )


def test_alignment_file(tmp_path):
    path = tmp_path / "new" / "wer_test-clean.txt"
    rates = ErrorRates()
    rates.append(["84-121-0001"], ["ONE TEN"], ["ONE TWO"])
    rates.write(path)
    assert path.read_text().startswith("%WER 50.00 [ 1 / 2, 0 ins, 0 del, 1 sub ]")
    assert "84-121-0001, %WER 50.00" in path.read_text()
    rates.append(["84-121-0002"], [""], ["ÉTÉ ONE"])
    rates.write(path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("%WER 75.00 [ 3 / 4, 0 ins, 2 del, 1 sub ]")
    assert "<eps>" in text
    assert "ÉTÉ" in text


def test_bad_calls():
    rates = ErrorRates()
    with pytest.raises(ValueError, match="no utterance has been scored"):
        rates.summary()
    with pytest.raises(ValueError, match="2 ids, 1 predictions and 2 references cannot be paired"):
        rates.append(["a", "b"], ["A"], ["A", "B"])
    with pytest.raises(ValueError, match="utterance b has an empty transcript: remove it"):
        rates.append(["a", "b"], ["A", "B"], ["A", " "])
    with pytest.raises(ValueError, match="utterance a is scored twice"):
        rates.append(["a", "a"], ["A", "A"], ["A", "A"])
    rates.append(["a"], ["A"], ["A"])  # nothing of the refused calls has been kept
    with pytest.raises(ValueError, match="utterance a is scored twice"):
        rates.append(["a"], ["A"], ["A"])
    with pytest.raises(ValueError, match="num_bootstrap is 0: give at least 1"):
        rates.summary(num_bootstrap=0)
    assert rates.summary(num_bootstrap=1)["num_utterances"] == 1


def test_edits_are_read_back_from_the_alignment_file(tmp_path):
    path = tmp_path / "wer.txt"
    rates = make_rates(63)
    rates.append(["with, comma %WER", "empty"], ["", ""], ["ONE TWO", "SIX"])
    rates.write(path)
    edits, summary = read_word_edits(path), rates.summary(num_bootstrap=50)
    assert edits["with, comma %WER"] == (2, 2)
    assert edits["empty"] == (1, 1)
    assert len(edits) == summary["num_utterances"] == 65
    found = rate_with_interval(edits, num_bootstrap=50)
    assert found == (summary["wer"], summary["wer_low"], summary["wer_high"])


def test_damaged_alignment_files_are_refused(tmp_path):
    path = tmp_path / "wer.txt"
    make_rates(20).write(path)
    lines = path.read_text().splitlines(keepends=True)
    for damaged in ("", "WER", "".join(lines[:-9]), "".join(lines[1:])):
        path.write_text(damaged)
        with pytest.raises(ValueError, match="is not a complete report of errors: run"):
            read_word_edits(path)
