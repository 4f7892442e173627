"""Sums of chunks and of what they see of their past, in O(C): all of it, a window, or fading.

No sum is formed by subtracting two others or by dividing by a small factor: a hidden chunk takes no
part in any sum, so it changes no bit, and nothing grows.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask


def visible_sums(sums: Tensor, mask: ChunkMask) -> Tensor:
    """What each chunk of a mask sees, (B, C, E), from the sums (B, C, E) of the chunks.

    B may be a multiple of the utterances that the mask has resets of.

    >>> sums = torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1)
    >>> visible_sums(sums, ChunkMask(9, half_life_chunks=1.0)).flatten()
    tensor([ 1.0000,  2.5000,  5.2500, 10.6250])
    >>> visible_sums(sums, ChunkMask(9, 1, resets=[[2]])).flatten()
    tensor([ 1.,  3.,  4., 12.])
    """
    starts = mask.starts(sums.shape[1], sums.device)
    if starts is not None:
        starts = starts.repeat(len(sums) // len(starts), 1, 1)
    if mask.half_life_chunks is None:
        return window_sums(sums, mask.left_context_chunks, starts)
    return running_sums(sums, mask.decay, starts)


def running_sums(sums: Tensor, decay: float = 1.0, starts: Tensor | None = None) -> Tensor:
    """Sum of each chunk and of those before it, times `decay` for each chunk in between.

    Chunks in pairs: the sums at the ends of pairs are a running sum of half the length, and the
    others come from those. All factors are at most 1.

    Arguments
    ---------
    sums : torch.Tensor
        (B, C, E)
    decay : float
        From 0 to 1.
    starts : torch.Tensor, optional
        (B, C, 1) boolean: chunks that see nothing before them.

    Returns
    -------
    torch.Tensor
        (B, C, E)

    Example
    -------
    >>> running_sums(torch.tensor([[[4.0], [2.0], [1.0]]]), decay=0.5).flatten()
    tensor([4., 4., 3.])
    """
    num_chunks = sums.shape[1]
    if num_chunks < 2:
        return sums
    if num_chunks % 2:
        sums = F.pad(sums, (0, 0, 0, 1))
        starts = None if starts is None else F.pad(starts, (0, 0, 0, 1))
    first, second = sums[:, ::2], sums[:, 1::2]
    first_starts = second_starts = pair_starts = None
    if starts is not None:
        first_starts, second_starts = starts[:, ::2], starts[:, 1::2]
        pair_starts = first_starts | second_starts
    pairs = second + _earlier(first, decay, second_starts)
    ends = running_sums(pairs, decay**2, pair_starts)
    before = F.pad(ends[:, :-1], (0, 0, 1, 0))
    both = torch.stack([first + _earlier(before, decay, first_starts), ends], dim=2)
    return both.flatten(1, 2)[:, :num_chunks]


def _earlier(sums, decay, starts):
    """What chunks see of the sums before them; what they do not see may be NaN."""
    sums = sums if decay == 1.0 else decay * sums
    return sums if starts is None else sums.masked_fill(starts, 0.0)


def window_sums(
    sums: Tensor, left_context_chunks: int | None, starts: Tensor | None = None
) -> Tensor:
    """Sum (B, C, E) of each chunk and a number of chunks to its left (None: all), in O(C).

    A limited window is the suffix of one block of chunks plus the prefix of the next
    (van Herk 1992), so nothing outside it is added and subtracted again. `starts` as for
    `running_sums`.

    >>> window_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1), 1).flatten()
    tensor([ 1.,  3.,  6., 12.])
    """
    if left_context_chunks is None:
        return sums.cumsum(dim=1) if starts is None else running_sums(sums, starts=starts)
    batch, num_chunks, dim = sums.shape
    width = min(left_context_chunks + 1, num_chunks)
    blocks = -(-num_chunks // width)
    padding = (0, 0, 0, blocks * width - num_chunks)
    padded = F.pad(sums, padding).view(batch, blocks, width, dim)
    if starts is None:
        prefix = padded.cumsum(dim=2)
    else:
        starts = F.pad(starts, padding).view(batch, blocks, width, 1)
        prefix = running_sums(padded.flatten(0, 1), starts=starts.flatten(0, 1)).view_as(padded)
        since = starts.flip(2).cumsum(2).flip(2) - starts.int()  # starts after a chunk in its block
        padded = padded.masked_fill(since > 0, 0.0)
    suffix = padded.flip(2).cumsum(dim=2).flip(2)
    # Chunk r of a block also needs the chunks after r of the block before.
    carried = F.pad(suffix[:, :-1, 1:], (0, 0, 0, 1, 1, 0))
    if starts is not None:
        carried = carried.masked_fill(starts.cumsum(2) > 0, 0.0)
    return (prefix + carried).reshape(batch, blocks * width, dim)[:, :num_chunks]
