"""Which frames wav2vec 2.0 masks: spans, filled up by single frames to a given number.

Masks are functions of the utterance, the seed and the epoch: they do not depend on the partners
in the batch, on the number of workers, or on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import permutation, philox, uniform

MASK_SCOPES = ("utterance", "batch")


def check_mask_options(mask_prob: float, mask_length: int, scope: str) -> None:
    """Refuse mask options that cannot work.

    Arguments
    ---------
    mask_prob : float
        Share of the frames in spans, were there no overlaps and roundings.
    mask_length : int
        Frames in a span.
    scope : str
        ``"utterance"`` or ``"batch"``.

    Raises
    ------
    UserError
        If the scope does not exist, or nothing or everything would be masked.

    Example
    -------
    >>> check_mask_options(mask_prob=0.65, mask_length=10, scope="utterance")
    >>> check_mask_options(mask_prob=1.0, mask_length=10, scope="utterance")
    Traceback (most recent call last):
        ...
    speechbrain_pom.utils.errors.UserError: mask_prob = 1.0: give a share of the frames above 0 \
and below 1
    """
    if scope not in MASK_SCOPES:
        raise UserError(f"mask_scope = {scope!r} does not exist: choose one of {MASK_SCOPES}")
    if not isinstance(mask_length, int) or mask_length < 1:
        raise UserError(f"mask_length = {mask_length}: give a whole number of frames, at least 1")
    if not 0 < mask_prob < 1:
        raise UserError(f"mask_prob = {mask_prob}: give a share of the frames above 0 and below 1")


def min_frames(mask_length: int) -> int:
    """Frames that an utterance needs: two to mask, so that one is a negative, and one to see.

    >>> min_frames(10), min_frames(1)
    (11, 3)
    """
    return max(mask_length, 2) + 1


def why_unmaskable(num_frames: int, mask_length: int) -> str | None:
    """Why nothing of an utterance of `num_frames` encoder frames could be predicted, or None.

    >>> why_unmaskable(10, mask_length=10)
    '10 frames are too short for masked and visible ones: masks of 10 need 11'
    >>> why_unmaskable(11, mask_length=10)
    """
    needed = min_frames(mask_length)
    if num_frames >= needed:
        return None
    return (
        f"{num_frames} frames are too short for masked and visible ones: "
        f"masks of {mask_length} need {needed}"
    )


def sample_masks(
    num_frames: Sequence[int],
    ids: Sequence[str],
    *,
    mask_prob: float,
    mask_length: int,
    scope: str,
    seed: int,
    epoch: int | None,
    step: int = 0,
    rank: int = 0,
    width: int | None = None,
) -> np.ndarray:
    """Draw the masks of a batch.

    ``n = floor(mask_prob * num_frames / mask_length + u + 1)`` spans of ``mask_length`` frames,
    ``u`` uniform in [0, 1), start at distinct frames and may overlap; then single frames are
    added, uniform among the others, until ``n * mask_length`` frames are masked (as SpeechBrain's
    `compute_mask`, for wav2vec 2.0). Every start is possible at which the span fits, and at least
    one frame stays visible. An utterance of fewer than `min_frames` gets no mask.

    With ``scope="utterance"`` a row is a function of (seed, epoch, id) and of its own length.
    With ``scope="batch"``, the published way, n is drawn from (seed, epoch, step, rank) and
    bounded by the shortest utterance, so that a short one lowers the share of its partners.
    With ``epoch=None`` (validation) each mask is drawn from (seed, id), whatever the scope.

    Arguments
    ---------
    num_frames : sequence of int
        (B,) valid encoder frames of each utterance.
    ids : sequence of str
        (B,) utterance ids.
    mask_prob : float
        Share of the frames in spans, were there no overlaps and roundings (published: 0.65).
    mask_length : int
        Frames in a span (published: 10).
    scope : str
        ``"utterance"`` or ``"batch"``.
    seed : int
        Seed of the run.
    epoch : int or None
        Epoch, or None for masks that are the same in every epoch.
    step : int
        Batch within the epoch; used by ``scope="batch"``.
    rank : int
        Rank of this process; used by ``scope="batch"``.
    width : int, optional
        Frames of the padded batch.

    Returns
    -------
    numpy.ndarray
        (B, width or max(num_frames)) boolean, True = masked, right padded with False.

    Example
    -------
    >>> options = dict(mask_prob=0.65, mask_length=10, scope="utterance", seed=1000, epoch=1)
    >>> alone = sample_masks([498], ["a"], **options)
    >>> batch = sample_masks([498, 600], ["a", "b"], **options)
    >>> bool((alone[0] == batch[0, :498]).all()), int(alone.sum())
    (True, 330)
    """
    mask = np.zeros((len(ids), width or max(num_frames)), dtype=bool)
    rows = [row for row, length in enumerate(num_frames) if length >= min_frames(mask_length)]
    shared = None
    if scope == "batch" and epoch is not None and rows:
        bits = philox("wav2vec2 mask", "batch", seed, epoch, step, rank)
        shortest = min(num_frames[row] for row in rows)
        shared = _num_spans(shortest, mask_prob, mask_length, bits)
    when = "valid" if epoch is None else epoch
    for row in rows:
        bits = philox("wav2vec2 mask", "utterance", seed, when, ids[row])
        length = num_frames[row]
        number = shared or _num_spans(length, mask_prob, mask_length, bits)
        mask[row, :length] = _draw_spans(length, number, mask_length, bits)
    return mask


def _num_spans(num_frames, mask_prob, mask_length, bits):
    number = int(mask_prob * num_frames / mask_length + uniform(bits, 1)[0] + 1)
    fewest = -(-2 // mask_length)  # two masked frames, so that each has a negative
    return max(min(number, (num_frames - 1) // mask_length), fewest)


def _draw_spans(num_frames, number, mask_length, bits):
    """A mask (num_frames,) with exactly number * mask_length masked frames."""
    mask = np.zeros(num_frames, dtype=bool)
    starts = permutation(bits, num_frames - mask_length + 1)[:number]
    mask[starts[:, None] + np.arange(mask_length)] = True
    free = np.flatnonzero(~mask)
    missing = number * mask_length - (num_frames - len(free))
    mask[free[permutation(bits, len(free))[:missing]]] = True
    return mask
