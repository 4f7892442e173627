"""Bounds of batches over utterances in their order: cut as full as possible, then shared evenly."""

from __future__ import annotations

import heapq

import numpy as np

from speechbrain_pom.data.texts import Texts


def rank_by_duration(durations_s: np.ndarray, ids: Texts) -> np.ndarray:
    """Utterances by duration, ties by id, whatever their order is: (num_utterances,) integers.

    >>> rank_by_duration(np.array([2.0, 1.0, 2.0]), Texts.of(["b", "c", "a"])).tolist()
    [1, 2, 0]
    """
    if ids.is_increasing:  # as manifests are
        ranking = np.argsort(durations_s, kind="stable")
    else:
        order = ids.order
        ranking = order[np.argsort(durations_s[order], kind="stable")]
    return ranking.astype(np.int32) if len(ranking) < 2**31 else ranking


def cut_by_duration(durations_s: np.ndarray, max_batch_duration_s: float) -> np.ndarray:
    """Return the bounds (num_batches + 1,) of batches filled up to a padded duration.

    >>> cut_by_duration(np.array([1.0, 2.0, 2.0, 5.0]), 6.0).tolist()
    [0, 3, 4]
    """
    bounds, guess = [0], 16
    while bounds[-1] < len(durations_s):
        start = bounds[-1]
        size = _first_batch(durations_s[start:], max_batch_duration_s, guess)
        bounds.append(start + size)
        guess = size + size // 4 + 2  # neighbours are of similar length
    return np.array(bounds)


def _first_batch(durations_s, max_batch_duration_s, guess):
    """How many utterances fill the first batch, at least one; ``guess`` only saves time."""
    while True:
        longest_s = np.maximum.accumulate(durations_s[:guess])
        padded_s = longest_s * np.arange(1, len(longest_s) + 1)
        size = int(padded_s.searchsorted(max_batch_duration_s, side="right"))
        if size < len(padded_s) or guess >= len(durations_s):
            return max(size, 1)
        guess *= 2


def padded_durations(durations_s: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return the longest utterance x number of utterances of each batch, in seconds.

    >>> padded_durations(np.array([1.0, 2.0, 5.0]), np.array([0, 2, 3])).tolist()
    [4.0, 5.0]
    """
    return np.maximum.reduceat(durations_s, bounds[:-1]) * np.diff(bounds)


def split_to_multiple(
    durations_s: np.ndarray, bounds: np.ndarray, divisor: int
) -> np.ndarray | None:
    """Halve the largest batch, the first of equals, until ``divisor`` divides their number.

    None if no batch is left that could be halved.

    >>> split_to_multiple(np.ones(6), np.array([0, 2, 6]), 3).tolist()
    [0, 2, 4, 6]
    """
    num_splits = -(len(bounds) - 1) % divisor
    padded_s = np.where(np.diff(bounds) > 1, padded_durations(durations_s, bounds), 0.0)
    largest = np.argsort(-padded_s, kind="stable")[:num_splits]  # others cannot have their turn
    heap = [
        (-padded_s[batch], int(bounds[batch]), int(bounds[batch + 1]))
        for batch in largest
        if padded_s[batch] > 0
    ]
    middles = []
    for _ in range(num_splits):
        if not heap:
            return None
        _, start, end = heapq.heappop(heap)
        middle = (start + end) // 2
        middles.append(middle)
        for low, high in ((start, middle), (middle, end)):
            if high - low > 1:
                heapq.heappush(heap, (-durations_s[low:high].max() * (high - low), low, high))
    return np.sort(np.append(bounds, middles).astype(bounds.dtype))
