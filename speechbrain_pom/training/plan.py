"""The plan of an epoch: which utterances form a batch, and who takes which batch when."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from speechbrain_pom.training.cutting import (
    cut_by_duration,
    padded_durations,
    split_to_multiple,
)
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import permutation, uniform


class Batching(NamedTuple):
    """How batches are made.

    Arguments
    ---------
    order : str
        `"random"`, `"ascending"` or `"descending"`.
    max_batch_duration_s : float or None
        Limit of the padded duration of a batch in seconds.
    batch_size : int or None
        Limit of its number of utterances.
    num_buckets : int
        Random order: utterances move within this part of the whole audio.
    num_columns : int
        Batches that are taken side by side: the number of batches is a multiple of it.
    """

    order: str
    max_batch_duration_s: float | None
    batch_size: int | None
    num_buckets: int
    num_columns: int


class Plan(NamedTuple):
    """The batches of an epoch.

    Arguments
    ---------
    sequence : numpy.ndarray
        (num_utterances,) utterances; those of a batch stand together.
    bounds : numpy.ndarray
        (num_batches + 1,) where batches begin in it.
    batches : numpy.ndarray
        (num_steps, num_columns) numbers of batches.
    padded_s : float
        Padded duration of all batches together.
    """

    sequence: np.ndarray
    bounds: np.ndarray
    batches: np.ndarray
    padded_s: float


def plan_epoch(
    ranking: np.ndarray, durations_s: np.ndarray, how: Batching, bits: np.random.Philox
) -> Plan:
    """Plan an epoch over utterances that are ranked by their durations."""
    sequence = _arrange(ranking, durations_s, how, bits)
    durations_s = durations_s[sequence]
    bounds = split_to_multiple(durations_s, _cut(durations_s, how), how.num_columns)
    if bounds is None:
        raise UserError(
            f"{len(durations_s)} utterances, one per batch, cannot be shared out"
            f" evenly among {how.num_columns} processes: allow larger batches"
            " (max_batch_duration_s or batch_size), fewer batches_per_step or fewer processes"
        )
    padded_s = padded_durations(durations_s, bounds)
    return Plan(sequence, bounds, _share_out(padded_s, how, bits), float(padded_s.sum()))


def plan_by_windows(
    ranking: np.ndarray,
    durations_s: np.ndarray,
    shards: np.ndarray,
    window: int,
    how: Batching,
    bits: np.random.Philox,
) -> Plan:
    """Plan an epoch that reads a few shards at a time, in an order that is new in each epoch.

    `shards` (num_utterances,) says where each utterance is; `window` is the number of shards from
    which batches are mixed before the next ones are opened.
    """
    num_shards = int(shards.max()) + 1
    place = np.empty(num_shards, dtype=np.int64)
    place[permutation(bits, num_shards)] = np.arange(num_shards) // window
    windows = place[shards[ranking]]
    order = np.argsort(windows, kind="stable")  # by window, in each by duration
    edges = np.searchsorted(windows[order], np.unique(windows))
    parts = [
        plan_epoch(ranking[rows], durations_s, how, bits) for rows in np.split(order, edges[1:])
    ]
    starts = np.cumsum([0, *(len(part.sequence) for part in parts)])
    first = np.cumsum([0, *(len(part.bounds) - 1 for part in parts)])
    bounds = [part.bounds[:-1] + start for part, start in zip(parts, starts, strict=False)]
    return Plan(
        np.concatenate([part.sequence for part in parts]),
        np.append(np.concatenate(bounds), starts[-1]),
        np.concatenate([part.batches + n for part, n in zip(parts, first, strict=False)]),
        sum(part.padded_s for part in parts),
    )


def _arrange(ranking, durations_s, how, bits):
    """Order the utterances by length, for random order only roughly."""
    if how.order == "ascending":
        return ranking
    if how.order == "descending":
        return ranking[::-1]
    if how.batch_size is None:
        sizes, limit = durations_s[ranking], how.max_batch_duration_s
    else:
        sizes, limit = np.ones(len(ranking)), how.batch_size
    position = np.cumsum(sizes)
    del sizes
    window = max(position[-1] / how.num_buckets, 2 * limit)
    noise = uniform(bits, len(position))
    noise *= window
    position += noise
    del noise
    order = np.argsort(position, kind="stable")
    del position
    return ranking[order]


def _cut(durations_s, how):
    """Return the bounds (num_batches + 1,) of batches that are as full as possible."""
    num_utterances = len(durations_s)
    if how.batch_size is not None:
        return np.append(np.arange(0, num_utterances, how.batch_size), num_utterances)
    return cut_by_duration(durations_s, how.max_batch_duration_s)


def _share_out(padded_s, how, bits):
    """Return which batch each column takes at each step, (steps, columns)."""
    if how.order != "random":
        return np.arange(len(padded_s)).reshape(-1, how.num_columns)
    # Batches of one step: equally full to within a factor of two, then of similar length.
    emptiness = np.floor(np.log2(padded_s.max() / padded_s))
    similar = np.argsort(emptiness, kind="stable").reshape(-1, how.num_columns)
    return similar[permutation(bits, len(similar))]
