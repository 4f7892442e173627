"""Sums over the chunks of a stream, in a state of constant size that does not age.

Sums are in float64 and counts are integers: after a week they are as exact as after a second.
Limited left context keeps the sum of each chunk and adds them up, and subtracts nothing. Sums with
a half-life are multiplied from chunk to chunk, and so are counts, in float64.
"""

from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor

from speechbrain_pom.ops.common.chunks import decay_of
from speechbrain_pom.ops.common.sums import TimeSums


class RunningSums(NamedTuple):
    """The sum of all chunks so far, for unlimited left context.

    Arguments
    ---------
    sums : torch.Tensor
        (B, 1, E) float64.
    counts : torch.Tensor
        (B, 1, 1) int64: frames.

    Example
    -------
    >>> state = first_sums(1, 3, None)
    >>> for value in (1.0, 3.0):
    ...     visible, state = state.add(TimeSums(torch.full((1, 1, 3), value), torch.ones(1, 1, 1)))
    >>> visible.mean()
    tensor([[[2., 2., 2.]]], dtype=torch.float64)
    """

    sums: Tensor
    counts: Tensor

    def add(self, chunk: TimeSums) -> tuple[TimeSums, "RunningSums"]:
        """What the frames of the next chunk see, and the next state; `chunk` has its sums."""
        visible = self.sums + chunk.sums, self.counts + chunk.counts.to(torch.int64)
        return TimeSums(*visible), RunningSums(*visible)

    def emptied(self) -> "RunningSums":
        """The state of streams whose next chunk sees nothing before it."""
        return RunningSums(*map(torch.zeros_like, self))


class FadingSums(NamedTuple):
    """The sum of all chunks so far, each multiplied by a factor whenever another one comes.

    Arguments
    ---------
    sums : torch.Tensor
        (B, 1, E) float64.
    counts : torch.Tensor
        (B, 1, 1) float64: frames.
    decay : torch.Tensor
        (B, 1, 1) float64: the factor, 0.5 ** (1 / half-life in chunks).

    Example
    -------
    >>> state = first_sums(1, 1, None, half_life_chunks=1.0)
    >>> for value in (2.0, 3.0):
    ...     visible, state = state.add(TimeSums(torch.full((1, 1, 1), value), torch.ones(1, 1, 1)))
    >>> visible.sums.item(), visible.counts.item()
    (4.0, 1.5)
    """

    sums: Tensor
    counts: Tensor
    decay: Tensor

    def add(self, chunk: TimeSums) -> tuple[TimeSums, "FadingSums"]:
        """What the frames of the next chunk see, and the next state; `chunk` has its sums."""
        sums = self.decay * self.sums + chunk.sums
        counts = self.decay * self.counts + chunk.counts
        return TimeSums(sums, counts), FadingSums(sums, counts, self.decay.clone())

    def emptied(self) -> "FadingSums":
        """The state of streams whose next chunk sees nothing before it."""
        zeros = torch.zeros_like(self.sums), torch.zeros_like(self.counts)
        return FadingSums(*zeros, self.decay.clone())


class RingSums(NamedTuple):
    """The sums of the last left + 1 chunks, the newest last, for limited left context.

    Arguments
    ---------
    sums : torch.Tensor
        (B, left + 1, E) float64; zeros for chunks before the stream.
    counts : torch.Tensor
        (B, left + 1, 1) int64.

    Example
    -------
    >>> state = first_sums(1, 3, left_context_chunks=0)
    >>> for value in (1.0, 3.0):
    ...     visible, state = state.add(TimeSums(torch.full((1, 1, 3), value), torch.ones(1, 1, 1)))
    >>> visible.mean()
    tensor([[[3., 3., 3.]]], dtype=torch.float64)
    """

    sums: Tensor
    counts: Tensor

    def add(self, chunk: TimeSums) -> tuple[TimeSums, "RingSums"]:
        """What the frames of the next chunk see, and the next state; `chunk` has its sums."""
        counts = chunk.counts.to(torch.int64).expand(self.sums.shape[0], 1, 1)
        # Moved up by one, not written in a circle: streams of a batch may begin at any time, and
        # the order in which chunks are added up is the same in each step.
        state = RingSums(
            torch.cat([self.sums[:, 1:], chunk.sums.to(self.sums.dtype)], dim=1),
            torch.cat([self.counts[:, 1:], counts], dim=1),
        )
        return TimeSums(state.sums.sum(1, keepdim=True), state.counts.sum(1, keepdim=True)), state

    def emptied(self) -> "RingSums":
        """The state of streams whose next chunk sees nothing before it."""
        return RingSums(*map(torch.zeros_like, self))


ChunkSums: TypeAlias = RunningSums | FadingSums | RingSums


def first_sums(
    batch_size: int,
    size: int,
    left_context_chunks: int | None,
    device: torch.device | str | None = None,
    half_life_chunks: float | None = None,
) -> ChunkSums:
    """The state before the first chunk.

    Arguments
    ---------
    batch_size : int
        B, streams.
    size : int
        E, width of the sums.
    left_context_chunks : int, optional
        Chunks that a frame sees to the left of its own; None: all.
    device : torch.device or str, optional
        Where it is kept.
    half_life_chunks : float, optional
        Chunks after which a sum is half of what it was; only with all of the past.

    Returns
    -------
    RunningSums, FadingSums or RingSums

    Example
    -------
    >>> first_sums(2, 8, left_context_chunks=3).sums.shape
    torch.Size([2, 4, 8])
    """
    rows = 1 if left_context_chunks is None else left_context_chunks + 1
    sums = torch.zeros(batch_size, rows, size, dtype=torch.float64, device=device)
    if half_life_chunks is not None:
        counts = sums.new_zeros(batch_size, 1, 1)
        return FadingSums(sums, counts, torch.full_like(counts, decay_of(half_life_chunks)))
    counts = torch.zeros(batch_size, rows, 1, dtype=torch.int64, device=device)
    return (RunningSums if left_context_chunks is None else RingSums)(sums, counts)
