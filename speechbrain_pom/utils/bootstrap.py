"""Rates of errors or successes over utterances, with bootstrap intervals."""

import numpy as np
from confidence_intervals import evaluate_with_conf_int


def rate_with_interval(
    counts: dict[str, tuple[int, int]], num_bootstrap: int
) -> tuple[float, float, float]:
    """A rate in percent, and the ends of its 95 % interval.

    `counts` maps an utterance id to (events, chances), such as edits and words. Utterances are
    drawn with replacement; trial i draws with seed i, so that systems are resampled alike.

    >>> rate_with_interval({"a": (1, 2), "b": (0, 2)}, num_bootstrap=100)
    (25.0, 0.0, 50.0)
    """
    pairs = [counts[key] for key in sorted(counts)]
    rate, (low, high) = evaluate_with_conf_int(
        samples=np.array([num_edits for num_edits, _ in pairs]),
        labels=np.array([num_tokens for _, num_tokens in pairs]),
        metric=lambda num_tokens, num_edits: 100.0 * num_edits.sum() / num_tokens.sum(),
        num_bootstraps=num_bootstrap,
        alpha=5,
    )
    return float(rate), float(low), float(high)
