"""Which frames BEST-RQ masks, and which encoder frames it predicts.

Masks are functions of the utterance, the seed and the epoch: they do not depend on the partners
in the batch, on the number of workers, or on what was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from speechbrain_pom.encoder.lengths import num_whole_blocks, padding_mask
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import permutation, philox, uniform

MASK_SCOPES = ("batch", "utterance")
_MIN_BLOCKS = 2  # one to mask, and one to see


def check_mask_options(
    mask_prob: float, mask_length: int, stride: int = 4, scope: str = "utterance"
) -> None:
    """Refuse mask options that cannot work.

    Arguments
    ---------
    mask_prob : float
        Probability that a frame starts a mask.
    mask_length : int
        Frames in a mask.
    stride : int
        Feature frames per encoder frame.
    scope : str
        ``"batch"`` or ``"utterance"``.

    Raises
    ------
    UserError
        If the scope does not exist, nothing or everything would be masked, or masks would leave
        encoder frames half visible.

    Example
    -------
    >>> check_mask_options(mask_prob=0.15, mask_length=4)
    >>> check_mask_options(mask_prob=0.25, mask_length=4)
    Traceback (most recent call last):
        ...
    speechbrain_pom.utils.errors.UserError: mask_prob = 0.25 with mask_length = 4 would mask every \
frame: mask_prob must be below 1 / mask_length = 0.25
    """
    if scope not in MASK_SCOPES:
        raise UserError(f"mask_scope = {scope!r} does not exist: choose one of {MASK_SCOPES}")
    if not isinstance(mask_length, int) or mask_length < 1 or mask_length % stride != 0:
        raise UserError(
            f"mask_length = {mask_length} frames must be a positive multiple of {stride}, the"
            " feature frames per encoder frame: other masks leave predicted frames half visible"
        )
    if not mask_prob > 0:
        raise UserError(f"mask_prob = {mask_prob} would mask nothing: it must be above 0")
    if mask_prob * mask_length >= 1:
        raise UserError(
            f"mask_prob = {mask_prob} with mask_length = {mask_length} would mask every frame:"
            f" mask_prob must be below 1 / mask_length = {1 / mask_length:g}"
        )


def why_unmaskable(num_frames: int, mask_length: int) -> str | None:
    """Why nothing of an utterance of `num_frames` feature frames could be predicted, or None.

    Example
    -------
    >>> why_unmaskable(7, mask_length=4)
    '7 frames are too short for a mask: one of 4 needs 8'
    >>> why_unmaskable(8, mask_length=4)
    """
    needed = _MIN_BLOCKS * mask_length
    if num_frames >= needed:
        return None
    return f"{num_frames} frames are too short for a mask: one of {mask_length} needs {needed}"


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
) -> torch.Tensor:
    """Draw the masks of a batch.

    ``floor(mask_prob * num_frames + u)`` blocks of ``mask_length`` frames, ``u`` uniform in
    [0, 1), are drawn without replacement from the whole blocks of the utterance (as SpeechBrain's
    `compute_mask` does): at least one and never all. An utterance with fewer than two whole blocks
    gets none.

    With ``scope="utterance"`` a row is a function of (seed, epoch, id) and of its own length.
    With ``scope="batch"``, the published way, one mask drawn from (seed, epoch, step, rank) and
    bounded by the shortest utterance (of those with two blocks or more) is shared by all of them,
    so that a short utterance lowers the masked share of its partners.
    With ``epoch=None`` (validation) each mask is drawn from (seed, id), whatever the scope.

    Arguments
    ---------
    num_frames : sequence of int
        (B,) valid feature frames of each utterance.
    ids : sequence of str
        (B,) utterance ids.
    mask_prob : float
        Probability that a frame starts a mask (paper: 0.15).
    mask_length : int
        Frames in a mask (paper: 4).
    scope : str
        ``"batch"`` or ``"utterance"``.
    seed : int
        Seed of the run.
    epoch : int or None
        Epoch, or None for masks that are the same in every epoch.
    step : int
        Batch within the epoch; used by ``scope="batch"``.
    rank : int
        Rank of this process; used by ``scope="batch"``.

    Returns
    -------
    torch.Tensor
        (B, max(num_frames)) boolean on the CPU, True = masked, right padded with False.

    Raises
    ------
    UserError
        If the options cannot work, or there is not one id per utterance.

    Example
    -------
    >>> options = dict(mask_prob=0.15, mask_length=4, scope="utterance", seed=1000, epoch=1)
    >>> alone = sample_masks([100], ["a"], **options)
    >>> batch = sample_masks([100, 250], ["a", "b"], **options)
    >>> torch.equal(alone[0], batch[0, :100]), batch.shape
    (True, torch.Size([2, 250]))
    """
    check_mask_options(mask_prob, mask_length, stride=1, scope=scope)
    if len(num_frames) != len(ids):
        raise UserError(f"{len(num_frames)} lengths with {len(ids)} ids: give one id per length")

    mask = np.zeros((len(ids), max(num_frames)), dtype=bool)
    if scope == "batch" and epoch is not None:
        rows = [i for i, n in enumerate(num_frames) if n >= _MIN_BLOCKS * mask_length]
        if rows:
            bits = philox("mask", "batch", seed, epoch, step, rank)
            shortest = min(num_frames[i] for i in rows)
            mask[rows, :shortest] = _draw_blocks(shortest, mask_prob, mask_length, bits)
    else:
        when = "valid" if epoch is None else epoch
        for row, (length, utterance_id) in enumerate(zip(num_frames, ids, strict=True)):
            bits = philox("mask", "utterance", seed, when, utterance_id)
            mask[row, :length] = _draw_blocks(length, mask_prob, mask_length, bits)
    return torch.from_numpy(mask)


def predicted_positions(
    mask: torch.Tensor, num_frames: Sequence[int] | torch.Tensor, stride: int = 4
) -> torch.Tensor:
    """Find the encoder frames to predict: those whose feature frames are all masked and valid.

    Arguments
    ---------
    mask : torch.Tensor
        (B, T) boolean, True = masked. Pad it like the features (`pad_to_multiple`) for one
        position per encoder frame.
    num_frames : sequence of int or torch.Tensor
        (B,) valid feature frames of each utterance.
    stride : int
        Feature frames per encoder frame.

    Returns
    -------
    torch.Tensor
        (B, T // stride) boolean, on the device of ``mask``.

    Example
    -------
    >>> mask = torch.tensor([[True] * 6 + [False] * 2])
    >>> predicted_positions(mask, [7])
    tensor([[ True, False]])
    """
    num_utterances, num_blocks = mask.shape[0], mask.shape[1] // stride
    blocks = mask[:, : num_blocks * stride].reshape(num_utterances, num_blocks, stride)
    whole = num_whole_blocks(torch.as_tensor(num_frames, device=mask.device), stride)
    return blocks.all(dim=-1) & ~padding_mask(whole, num_blocks)


def _draw_blocks(
    num_frames: int, mask_prob: float, mask_length: int, bits: np.random.Philox
) -> np.ndarray:
    """Return the mask (num_frames,) of one utterance."""
    mask = np.zeros(num_frames, dtype=bool)
    num_blocks = num_frames // mask_length
    if num_blocks < _MIN_BLOCKS:
        return mask
    num_masked = int(mask_prob * num_frames + uniform(bits, 1)[0])
    num_masked = min(max(num_masked, 1), num_blocks - 1)
    blocks = np.zeros(num_blocks, dtype=bool)
    blocks[permutation(bits, num_blocks)[:num_masked]] = True
    mask[: num_blocks * mask_length] = blocks.repeat(mask_length)
    return mask
