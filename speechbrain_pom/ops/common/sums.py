"""Sums over time, in linear time and memory: of a sequence, its chunks, and windows of chunks.

Sums are in fp32 or better, and none is formed by subtracting two others: a hidden frame takes no
part in any sum, so it changes no bit.
"""

from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype


class TimeSums(NamedTuple):
    """What a mixer knows of a sequence, as sums over time: those of its parts add up.

    Arguments
    ---------
    sums : torch.Tensor
        (B, 1, E), fp32 or better.
    counts : torch.Tensor
        (B or 1, 1, 1): valid frames of each utterance.

    Example
    -------
    >>> one = torch.ones(1, 1, 1)
    >>> (TimeSums(3 * one, one) + TimeSums(6 * one, 2 * one)).mean()
    tensor([[[3.]]])
    """

    sums: Tensor
    counts: Tensor

    def __add__(self, other: "TimeSums") -> "TimeSums":
        return TimeSums(self.sums + other.sums, self.counts + other.counts)

    def mean(self) -> Tensor:
        """(B, 1, E); zeros for an utterance without a frame."""
        return self.sums / self.counts.clamp(min=1)


Summary = TypeVar("Summary", bound=tuple)


def moved(summary: Summary, *where: torch.device | torch.dtype | str) -> Summary:
    """A summary with its tensors on another device or in another dtype, as `torch.Tensor.to`.

    >>> moved(TimeSums(torch.zeros(1, 1, 3), torch.ones(1, 1, 1)), torch.float64).sums.dtype
    torch.float64
    """
    return type(summary)(*(None if part is None else part.to(*where) for part in summary))


def zero_padding(frames: Tensor, padding: Tensor | None) -> Tensor:
    """Frames (B, T, d) with zeros where the mask (B, T) is True, even if the padding holds NaN.

    >>> zero_padding(torch.ones(1, 3, 1), torch.tensor([[False, False, True]])).flatten()
    tensor([1., 1., 0.])
    """
    # masked_fill, not a product: zero times NaN is NaN.
    return frames if padding is None else frames.masked_fill(padding.unsqueeze(-1), 0.0)


def sums_over_time(values: Tensor, padding: Tensor | None) -> Tensor:
    """Sums (B, 1, E) of the valid frames of values (B, S, E).

    >>> sums_over_time(torch.ones(1, 3, 1), torch.tensor([[False, False, True]])).item()
    2.0
    """
    return zero_padding(values, padding).sum(1, keepdim=True, dtype=compute_dtype(values.dtype))


def chunk_sums(values: Tensor, chunk_size: int) -> Tensor:
    """Sums (B, ceil(T / chunk_size), E) of the frames of each chunk of values (B, T, E).

    >>> chunk_sums(torch.ones(1, 5, 1), 2).flatten()
    tensor([2., 2., 1.])
    """
    batch, num_frames, dim = values.shape
    missing = -num_frames % chunk_size
    if missing:
        values = F.pad(values, (0, 0, 0, missing))
    return values.view(batch, -1, chunk_size, dim).sum(dim=2)


def count_frames(frames: Tensor, padding: Tensor | None, chunk_size: int | None) -> Tensor:
    """Number of valid frames (B or 1, C, 1), in all (chunk_size None, C = 1) or per chunk.

    >>> count_frames(torch.zeros(1, 5, 2), None, 2).flatten()
    tensor([2., 2., 1.])
    """
    dtype = compute_dtype(frames.dtype)
    if padding is None:
        valid = frames.new_ones(1, frames.shape[1], 1, dtype=dtype)
    else:
        valid = (~padding).to(dtype).unsqueeze(-1)
    return valid.sum(1, keepdim=True) if chunk_size is None else chunk_sums(valid, chunk_size)
