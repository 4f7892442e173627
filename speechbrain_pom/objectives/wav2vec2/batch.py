"""The masked frames of a batch: where they are, their negatives, and what stands in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from speechbrain_pom.objectives.wav2vec2.negatives import sample_negatives


class MaskedFrames(NamedTuple):
    """The N masked frames of a batch (B, T), of at most M in an utterance.

    Arguments
    ---------
    mask : torch.Tensor
        (B, T) boolean.
    index : torch.Tensor
        (N,) where they are among the B * T frames, utterance after utterance.
    counts : list of int
        (B,) masked frames of each utterance.
    rows : torch.Tensor
        (B, M) numbers below N: the masked frames of each utterance; in padding any.
    negatives : torch.Tensor
        (B, M, K) numbers below M, of the same utterance; -1 in padding.
    """

    mask: torch.Tensor
    index: torch.Tensor
    counts: list[int]
    rows: torch.Tensor
    negatives: torch.Tensor


def find_masked(
    mask: np.ndarray,
    ids: Sequence[str],
    num_negatives: int,
    *,
    seed: int,
    epoch: int | None,
    device: torch.device | str = "cpu",
) -> MaskedFrames:
    """The masked frames of a mask (B, T), with their negatives, on a device.

    Arguments
    ---------
    mask : numpy.ndarray
        (B, T) boolean.
    ids : sequence of str
        (B,) utterance ids.
    num_negatives : int
        K, of each masked frame.
    seed : int
        Seed of the run.
    epoch : int or None
        Epoch, or None for the same negatives in every epoch.
    device : torch.device or str
        Of the result.

    Returns
    -------
    MaskedFrames

    Example
    -------
    >>> mask = np.array([[True, False, True, True], [True, True, False, False]])
    >>> found = find_masked(mask, ["a", "b"], 100, seed=1000, epoch=1)
    >>> found.index, found.counts, found.negatives.shape
    (tensor([0, 2, 3, 4, 5]), [3, 2], torch.Size([2, 3, 100]))
    """
    counts = mask.sum(1)
    most = int(counts.max())
    first = np.cumsum(counts) - counts
    times = np.arange(most)
    rows = np.where(times < counts[:, None], first[:, None] + times, 0)
    negatives = np.full((len(ids), most, num_negatives), -1, dtype=np.int32)
    for number, (count, key) in enumerate(zip(counts.tolist(), ids, strict=True)):
        if count > 1:
            negatives[number, :count] = sample_negatives(
                count, num_negatives, seed=seed, epoch=epoch, utterance_id=key
            )
    arrays = mask, np.flatnonzero(mask), rows, negatives
    mask, index, rows, negatives = (torch.from_numpy(array).to(device) for array in arrays)
    return MaskedFrames(mask, index, counts.tolist(), rows, negatives.long())


class MaskVector(nn.Module):
    """The learnt vector that stands in place of masked frames.

    Arguments
    ---------
    d_model : int
        Its width, that of the encoder's frames.

    Example
    -------
    >>> MaskVector(768)().shape
    torch.Size([768])
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(d_model))

    def forward(self) -> torch.Tensor:
        """(d_model,)."""
        return self.weight
