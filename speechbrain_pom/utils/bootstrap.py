"""Rates of errors or successes over utterances, with bootstrap intervals."""

import functools
from collections.abc import Iterable

import numpy as np
from confidence_intervals import get_bootstrap_indices, get_conf_int

_MOST_KEPT = 2**23  # indices: 32 MB, which is 1000 trials of 8,000 utterances


def rate_with_interval(
    counts: dict[str, tuple[int, int]], num_bootstrap: int
) -> tuple[float, float, float]:
    """A rate in percent, and the ends of its 95 % interval.

    `counts` maps an utterance id to (events, chances), such as edits and words. Utterances are
    drawn with replacement; trial i draws with seed i, so that systems are resampled alike.

    >>> rate_with_interval({"a": (1, 2), "b": (0, 2)}, num_bootstrap=100)
    (25.0, 0.0, 50.0)
    """
    pairs = np.array([counts[key] for key in sorted(counts)])
    return ratio_with_interval(pairs[:, 0], pairs[:, 1], num_bootstrap)


def ratio_with_interval(
    numerators: np.ndarray, denominators: np.ndarray, num_bootstrap: int
) -> tuple[float, float, float]:
    """The ratio of two sums in percent, and the ends of its 95 % interval.

    Items are drawn with replacement, each with its numerator and denominator; trial i draws with
    seed i.

    >>> ratio_with_interval(np.array([1, 0]), np.array([2, 2]), num_bootstrap=100)
    (25.0, 0.0, 50.0)
    """
    draws = _draws(len(numerators), num_bootstrap)
    trials = [100.0 * numerators[draw].sum() / denominators[draw].sum() for draw in draws]
    ends = get_conf_int(trials, alpha=5)
    ratio = 100.0 * numerators.sum() / denominators.sum()
    return float(ratio), *map(float, ends)


def _draws(num_items: int, num_bootstrap: int) -> Iterable[np.ndarray]:
    """The items of each trial, kept for the next system where that takes little memory."""
    if num_items * num_bootstrap <= _MOST_KEPT:
        return _kept_draws(num_items, num_bootstrap)
    return (get_bootstrap_indices(num_items, random_state=trial) for trial in range(num_bootstrap))


@functools.lru_cache(maxsize=4)
def _kept_draws(num_items, num_bootstrap):
    draws = np.empty((num_bootstrap, num_items), dtype=np.int32)
    for trial in range(num_bootstrap):
        draws[trial] = get_bootstrap_indices(num_items, random_state=trial)
    draws.setflags(write=False)
    return draws
