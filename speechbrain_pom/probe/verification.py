"""Scores of trials, their equal error rate, and its interval over speakers.

The equal error rate is SpeechBrain's (`speechbrain.utils.metric_stats.EER`): the mean of the rates
of misses and of false alarms at the threshold, among the scores, where they differ least. Here it
takes one sort in place of a pass over all trials for each threshold.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from speechbrain_pom.data.trials import Trial
from speechbrain_pom.utils.seeding import philox, uniform

_NEARLY_EQUAL = 1e-6  # far above the rounding of fp32 rates, far below one of a million trials


def cosine_scores(trials: Sequence[Trial], embeddings: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The cosine of the two embeddings of each trial.

    Arguments
    ---------
    trials : sequence of speechbrain_pom.data.trials.Trial
        With the IDs of utterances.
    embeddings : dict of str to torch.Tensor
        Utterance ID to (d,).

    Returns
    -------
    torch.Tensor
        (trials,), on the CPU.

    Example
    -------
    >>> vectors = {"a": torch.tensor([1.0, 0.0]), "b": torch.tensor([2.0, 0.0])}
    >>> cosine_scores([Trial("a", "b", True)], vectors)
    tensor([1.])
    """
    keys = sorted({key for trial in trials for key in (trial.enrolment, trial.test)})
    place = {key: position for position, key in enumerate(keys)}
    vectors = torch.stack([embeddings[key].float().cpu() for key in keys])
    vectors = torch.nn.functional.normalize(vectors, dim=-1)
    first = torch.tensor([place[trial.enrolment] for trial in trials])
    second = torch.tensor([place[trial.test] for trial in trials])
    return (vectors[first] * vectors[second]).sum(-1)


def eer_of_scores(same: torch.Tensor, different: torch.Tensor) -> float:
    """The equal error rate of scores, from 0 to 1.

    Arguments
    ---------
    same, different : torch.Tensor
        Scores of trials of one speaker, and of two.

    Returns
    -------
    float
        The very number of SpeechBrain's `EER`.

    Example
    -------
    >>> eer_of_scores(torch.tensor([0.9, 0.4]), torch.tensor([0.5, 0.1]))
    0.5
    """
    thresholds = torch.unique(torch.cat([same, different]))  # sorted
    accepted = len(different) - torch.searchsorted(different.sort()[0], thresholds, right=True)
    missed = torch.searchsorted(same.sort()[0], thresholds, right=True)
    false_alarms = accepted.float() / len(different)
    misses = missed.float() / len(same)
    gaps = (false_alarms - misses).abs()
    # Of thresholds that are equally good SpeechBrain takes the first, comparing fp32 with fp64.
    best = None
    for place in (gaps <= gaps.min() + _NEARLY_EQUAL).nonzero().flatten().tolist():
        rates = false_alarms[place].item(), misses[place].item()
        if best is None or gaps[place].item() < abs(best[0] - best[1]):
            best = rates
    return sum(best) / 2


def eer_interval(
    trials: Sequence[Trial],
    scores: torch.Tensor,
    speakers: Mapping[str, str],
    num_bootstrap: int = 1000,
) -> tuple[float, float]:
    """The ends of the 95 % interval of an equal error rate, for other speakers of the same kind.

    Speakers are drawn with replacement, and their trials with them: one of two speakers counts as
    often as the product of their draws. The trials of a speaker are far from independent, so that
    an interval over trials would be much too narrow. Draw i depends on i alone: systems that are
    tested on the same trials are resampled alike. Draws without both kinds of trials are left out.

    Arguments
    ---------
    trials : sequence of speechbrain_pom.data.trials.Trial
    scores : torch.Tensor
        (trials,)
    speakers : dict of str to str
        Utterance ID to speaker.
    num_bootstrap : int
        Number of draws.

    Returns
    -------
    tuple of float
        Both ends, from 0 to 1.

    Example
    -------
    >>> speakers = {key: key[0] for key in ("a1", "a2", "b1", "b2", "c1", "c2")}
    >>> same = [Trial(f"{s}1", f"{s}2", True) for s in "abc"]
    >>> different = [Trial("a1", "b1", False), Trial("b1", "c1", False), Trial("a1", "c1", False)]
    >>> eer_interval(same + different, torch.tensor([3.0, 3, 3, 1, 1, 1]), speakers, 20)
    (0.0, 0.0)
    """
    names = sorted({speakers[key] for one in trials for key in (one.enrolment, one.test)})
    place = {name: position for position, name in enumerate(names)}
    order = torch.argsort(scores, stable=True).tolist()
    values = scores[order].double().numpy()
    first = np.array([place[speakers[trials[i].enrolment]] for i in order])
    second = np.array([place[speakers[trials[i].test]] for i in order])
    is_same = np.array([trials[i].is_same for i in order])
    last_of_value = np.append(values[1:] != values[:-1], True)
    rates = []
    for draw in range(num_bootstrap):
        drawn = (uniform(philox("speakers of trials", draw), len(names)) * len(names)).astype(int)
        times = np.bincount(drawn, minlength=len(names))
        weights = np.where(is_same, times[first], times[first] * times[second])
        rate = _weighted_eer(weights, is_same, last_of_value)
        if rate is not None:
            rates.append(rate)
    if not rates:
        return 0.0, 1.0
    low, high = np.percentile(rates, [2.5, 97.5])
    return float(low), float(high)


def _weighted_eer(weights, is_same, last_of_value):
    """The equal error rate of trials that are sorted by score; None without one of the kinds."""
    same, different = np.where(is_same, weights, 0), np.where(is_same, 0, weights)
    num_same, num_different = same.sum(), different.sum()
    if not num_same or not num_different:
        return None
    misses = np.cumsum(same)[last_of_value] / num_same
    false_alarms = 1 - np.cumsum(different)[last_of_value] / num_different
    best = np.argmin(np.abs(misses - false_alarms))
    return (misses[best] + false_alarms[best]) / 2
