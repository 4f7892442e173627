"""The equal error rate against SpeechBrain's slow one, and its interval against plain counting."""

import numpy as np
import pytest
import torch
from speechbrain.utils.metric_stats import EER

from speechbrain_pom.data.trials import Trial, draw_trials
from speechbrain_pom.probe.verification import cosine_scores, eer_interval, eer_of_scores
from speechbrain_pom.utils.seeding import philox, uniform


@pytest.mark.parametrize(("num_same", "num_different"), [(1, 1), (3, 500), (63, 63), (40, 7)])
@pytest.mark.parametrize("digits", [1, 6])  # with many equal scores, and without
@pytest.mark.parametrize("distance", [-1.0, 0.0, 1.0, 9.0])
def test_it_is_the_number_of_speechbrain(num_same, num_different, digits, distance):
    for seed in range(3):
        torch.manual_seed(seed)
        same = (torch.randn(num_same) + distance).round(decimals=digits)
        different = torch.randn(num_different).round(decimals=digits)
        assert eer_of_scores(same, different) == EER(same, different)[0]


def trials_of(num_speakers, num_utterances, noise, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_speakers, 8, generator=generator)
    speakers = {f"{s}-{u}": str(s) for s in range(num_speakers) for u in range(num_utterances)}
    vectors = {
        key: centres[int(name)] + noise * torch.randn(8, generator=generator)
        for key, name in speakers.items()
    }
    trials = draw_trials(speakers, 2000)
    return trials, cosine_scores(trials, vectors), speakers


def eer_of(trials, scores):
    same = torch.tensor([trial.is_same for trial in trials])
    return eer_of_scores(scores[same], scores[~same])


def test_the_interval_holds_the_rate_and_narrows_with_speakers():
    widths = []
    for num_speakers in (5, 40):
        trials, scores, speakers = trials_of(num_speakers, 6, 1.0)
        low, high = eer_interval(trials, scores, speakers, 200)
        assert 0 <= low <= eer_of(trials, scores) <= high <= 1
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


def test_the_interval_does_not_depend_on_the_order_of_trials():
    trials, scores, speakers = trials_of(6, 5, 1.0)
    backwards = eer_interval(trials[::-1], scores.flip(0), speakers, 50)
    assert backwards == eer_interval(trials, scores, speakers, 50)


def test_drawn_speakers_are_counted_as_copies():
    """A draw as a longer list: each trial as often as its speakers were drawn."""
    trials, scores, speakers = trials_of(6, 4, 1.0)
    names = sorted(set(speakers.values()))
    rates = []
    for draw in range(30):
        drawn = (uniform(philox("speakers of trials", draw), len(names)) * len(names)).astype(int)
        copies = {name: int((drawn == place).sum()) for place, name in enumerate(names)}
        chosen = []
        for place, trial in enumerate(trials):
            one, two = copies[speakers[trial.enrolment]], copies[speakers[trial.test]]
            chosen += [place] * (one if trial.is_same else one * two)
        rates.append(eer_of([trials[place] for place in chosen], scores[chosen]))
    expected = np.percentile(rates, [2.5, 97.5])
    assert eer_interval(trials, scores, speakers, 30) == pytest.approx(tuple(expected), abs=1e-6)


def test_draws_without_both_kinds_are_left_out():
    speakers = {"a1": "a", "a2": "a", "b1": "b"}
    trials = [Trial("a1", "a2", True), Trial("a1", "b1", False)]
    assert eer_interval(trials, torch.tensor([1.0, 0.0]), speakers, 40) == (0.0, 0.0)
    assert eer_interval(trials[:1], torch.tensor([1.0]), speakers, 40) == (0.0, 1.0)
