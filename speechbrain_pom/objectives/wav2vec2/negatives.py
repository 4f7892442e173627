"""Which masked frames are the negatives of a masked frame: others of the same utterance."""

from __future__ import annotations

import numpy as np

from speechbrain_pom.utils.seeding import philox, uniform


def sample_negatives(
    num_masked: int, num_negatives: int, *, seed: int, epoch: int | None, utterance_id: str
) -> np.ndarray:
    """Draw the negatives of all masked frames of an utterance.

    Each is uniform over the other masked frames of the utterance, with replacement: a function of
    (seed, epoch, id), or of (seed, id) with ``epoch=None`` (validation).

    Arguments
    ---------
    num_masked : int
        Masked frames of the utterance; with fewer than two there are no negatives.
    num_negatives : int
        K, for each masked frame.
    seed : int
        Seed of the run.
    epoch : int or None
        Epoch, or None for the same negatives in every epoch.
    utterance_id : str
        Of the utterance.

    Returns
    -------
    numpy.ndarray
        (num_masked, K) int64: numbers among the masked frames of the utterance.

    Example
    -------
    >>> drawn = sample_negatives(3, 100, seed=1000, epoch=1, utterance_id="a")
    >>> drawn.shape, sorted(set(drawn[1].tolist()))
    ((3, 100), [0, 2])
    """
    if num_masked < 2:
        return np.zeros((num_masked, 0), dtype=np.int64)
    when = "valid" if epoch is None else epoch
    bits = philox("wav2vec2 negatives", seed, when, utterance_id)
    numbers = uniform(bits, num_masked * num_negatives) * (num_masked - 1)
    numbers = numbers.astype(np.int64).reshape(num_masked, num_negatives)
    return numbers + (numbers >= np.arange(num_masked)[:, None])  # all but the frame itself
