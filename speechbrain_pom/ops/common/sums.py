"""Means over the frames that each frame may see, in linear time and memory.

The mean is kept as a sum and a count until the end, and the sums always run in fp32 or better.
No sum is ever formed by subtracting two others: what a frame may not see does not take part in
its mean at all, so it changes nothing, not even the last bit.
"""

from typing import NamedTuple

import torch

from speechbrain_pom.ops.common.masks import ChunkMask


class TimeSums(NamedTuple):
    """What a mixer needs to know of a sequence, as sums over time: those of its parts add up.

    Example
    -------
    >>> one = torch.ones(1, 1, 1)
    >>> (TimeSums(3 * one, one) + TimeSums(6 * one, 2 * one)).mean()
    tensor([[[3.]]])
    """

    sums: torch.Tensor  # (B, 1, E), fp32 or better
    counts: torch.Tensor  # (B or 1, 1, 1): valid frames of each utterance

    def __add__(self, other):
        return TimeSums(self.sums + other.sums, self.counts + other.counts)

    def mean(self):
        """(B, 1, E); zeros for an utterance without a frame."""
        return means(*self, None)


class SoftmaxSums(NamedTuple):
    """As `TimeSums` for a mean with softmax weights: exp(score - peak) is what is added up.

    Example
    -------
    >>> scores, values = torch.randn(1, 5, 1), torch.randn(1, 5, 2)
    >>> parts = [softmax_sums(scores[:, t:t + 2], values[:, t:t + 2], None) for t in (0, 2, 4)]
    >>> whole = parts[0] + parts[1] + parts[2]
    >>> torch.allclose(whole.mean(), scores.softmax(1).transpose(1, 2) @ values, atol=1e-6)
    True
    """

    sums: torch.Tensor  # (B, H, d): weighted values, of each head
    weights: torch.Tensor  # (B, H, 1)
    peaks: torch.Tensor  # (B, H, 1): the largest score
    global_query: torch.Tensor | None = None  # (B, 1, d): what the scores depend on, if anything

    def __add__(self, other):
        peaks = torch.maximum(self.peaks, other.peaks)
        mine, theirs = (self.peaks - peaks).exp(), (other.peaks - peaks).exp()
        return SoftmaxSums(
            mine * self.sums + theirs * other.sums,
            mine * self.weights + theirs * other.weights,
            peaks,
            self.global_query,
        )

    def mean(self):
        """(B, H, d); zeros for an utterance without a frame."""
        return self.sums / self.weights.clamp(min=torch.finfo(self.weights.dtype).tiny)


def softmax_sums(scores, values, padding):
    """The softmax-weighted sums over time of a part of a sequence.

    Arguments
    ---------
    scores : torch.Tensor
        (B, T, H).
    values : torch.Tensor
        (B, T, d), finite in the padding too.
    padding : torch.Tensor or None
        (B, T) boolean, True = padding.

    Returns
    -------
    SoftmaxSums
        In fp32 or better.
    """
    dtype = torch.promote_types(values.dtype, torch.float32)
    scores = scores.to(dtype)
    if padding is not None:  # the smallest number instead of -inf: all padding is no NaN
        scores = scores.masked_fill(padding.unsqueeze(-1), torch.finfo(dtype).min)
    peaks = scores.amax(1, keepdim=True)
    weights = zero_padding((scores - peaks).exp(), padding).transpose(1, 2)
    with torch.autocast(values.device.type, enabled=False):
        sums = weights @ values.to(dtype)
    return SoftmaxSums(sums, weights.sum(2, keepdim=True), peaks.transpose(1, 2))


def moved(summary, *where):
    """A summary with its tensors on another device or of another dtype.

    Arguments
    ---------
    summary : TimeSums or SoftmaxSums
    *where
        As `torch.Tensor.to` takes it.

    Returns
    -------
    TimeSums or SoftmaxSums

    Example
    -------
    >>> moved(TimeSums(torch.zeros(1, 1, 3), torch.ones(1, 1, 1)), torch.float64).sums.dtype
    torch.float64
    """
    return type(summary)(*(None if part is None else part.to(*where) for part in summary))


def zero_padding(frames, padding):
    """Frames with zeros in the padding, even where that holds NaN.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d).
    padding : torch.Tensor or None
        (B, T) boolean, True = padding.

    Returns
    -------
    torch.Tensor
        (B, T, d); the same tensor without a mask.

    Example
    -------
    >>> zero_padding(torch.ones(1, 3, 1), torch.tensor([[False, False, True]])).flatten()
    tensor([1., 1., 0.])
    """
    return frames if padding is None else frames.masked_fill(padding.unsqueeze(-1), 0.0)


def window_sums(chunk_sums, left_context_chunks):
    """Sum of each chunk and a number of chunks to its left, in O(number of chunks).

    A limited window is the suffix of one block of chunks plus the prefix of the next
    (van Herk 1992), so nothing outside of it is added and taken away again.

    Arguments
    ---------
    chunk_sums : torch.Tensor
        (B, C, E).
    left_context_chunks : int or None
        Chunks to the left; None: all.

    Returns
    -------
    torch.Tensor
        (B, C, E).

    Example
    -------
    >>> window_sums(torch.tensor([1.0, 2.0, 4.0, 8.0]).view(1, 4, 1), 1).flatten()
    tensor([ 1.,  3.,  6., 12.])
    """
    if left_context_chunks is None:
        return chunk_sums.cumsum(dim=1)
    batch, num_chunks, dim = chunk_sums.shape
    width = min(left_context_chunks + 1, num_chunks)
    blocks = -(-num_chunks // width)
    padded = torch.nn.functional.pad(chunk_sums, (0, 0, 0, blocks * width - num_chunks))
    padded = padded.view(batch, blocks, width, dim)
    prefix = padded.cumsum(dim=2)
    # Chunk r of a block also needs the chunks after r of the block before.
    suffix = padded.flip(2).cumsum(dim=2).flip(2)
    carried = torch.nn.functional.pad(suffix[:, :-1, 1:], (0, 0, 0, 1, 1, 0))
    return (prefix + carried).reshape(batch, blocks * width, dim)[:, :num_chunks]


def chunk_sums(values, chunk_size):
    """Sum of the frames of each chunk.

    Arguments
    ---------
    values : torch.Tensor
        (B, T, E).
    chunk_size : int
        Frames per chunk; the last one may be partial.

    Returns
    -------
    torch.Tensor
        (B, ceil(T / chunk_size), E).

    Example
    -------
    >>> chunk_sums(torch.ones(1, 5, 1), 2).flatten()
    tensor([2., 2., 1.])
    """
    batch, num_frames, dim = values.shape
    missing = -num_frames % chunk_size
    if missing:
        values = torch.nn.functional.pad(values, (0, 0, 0, missing))
    return values.view(batch, -1, chunk_size, dim).sum(dim=2)


def count_frames(frames, padding, chunk_size):
    """Number of valid frames, in all or per chunk.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d), for size and device.
    padding : torch.Tensor or None
        (B, T) boolean, True = padding.
    chunk_size : int or None
        Frames per chunk; None: all frames together.

    Returns
    -------
    torch.Tensor
        (B, C, 1) or (1, C, 1), C = 1 without chunks; fp32 or better.

    Example
    -------
    >>> count_frames(torch.zeros(1, 5, 2), None, 2).flatten()
    tensor([2., 2., 1.])
    """
    dtype = torch.promote_types(frames.dtype, torch.float32)
    if padding is None:
        valid = frames.new_ones(1, frames.shape[1], 1, dtype=dtype)
    else:
        valid = (~padding).to(dtype).unsqueeze(-1)
    return valid.sum(1, keepdim=True) if chunk_size is None else chunk_sums(valid, chunk_size)


def means(sums, counts, visibility, padding=None):
    """The mean that each query, or each chunk of queries, sees.

    Arguments
    ---------
    sums : torch.Tensor
        (B, C, E): of all frames (C = 1), of each chunk, or the features of each frame (C = T).
    counts : torch.Tensor
        (B or 1, C, 1): valid frames in them.
    visibility : None, ChunkMask or torch.Tensor
        As `parse_attn_mask` returns it; a tensor (num_queries, T) with the features of each frame.
    padding : torch.Tensor, optional
        (B, T): for features of each frame, which of them do not count.

    Returns
    -------
    torch.Tensor
        (B, 1, E), (B, C, E), or (B, num_queries, E). What sees no frame gets zeros.

    Example
    -------
    >>> sums, counts = torch.tensor([[[1.0], [3.0], [5.0]]]), torch.ones(1, 3, 1)
    >>> means(sums, counts, ChunkMask(1)).flatten()
    tensor([1., 2., 3.])
    """
    if isinstance(visibility, ChunkMask):
        left = visibility.left_context_chunks
        sums, counts = window_sums(sums, left), window_sums(counts, left)
    elif visibility is not None:
        if padding is not None:
            # masked_fill rather than a product: padding may hold anything, even NaN.
            sums = sums.masked_fill(padding.unsqueeze(-1), 0.0)
        visible = (~visibility).to(sums.dtype)  # (num_queries, T), shared by the batch
        sums, counts = visible @ sums, visible @ counts
    return sums / counts.clamp(min=1)


def rows_of_frames(state, chunk_size, start, stop):
    """The rows of (B, C, E) that the frames start to stop belong to, broadcastable to them.

    Arguments
    ---------
    state : torch.Tensor
        (B, 1, E) without chunks, else (B, C, E).
    chunk_size : int or None
        Frames per row; None: one row for all.
    start, stop : int
        Range of frames; start is a multiple of the chunk size.

    Returns
    -------
    torch.Tensor
        (B, 1, E) or (B, stop - start, E).

    Example
    -------
    >>> rows_of_frames(torch.tensor([[[1.0], [2.0], [3.0]]]), 2, 2, 5).flatten()
    tensor([2., 2., 3.])
    """
    if chunk_size is None:
        return state
    if chunk_size == 1:
        return state[:, start:stop]
    rows = state[:, start // chunk_size : -(-stop // chunk_size)]
    return rows.repeat_interleave(chunk_size, dim=1)[:, : stop - start]
