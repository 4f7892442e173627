"""Means over the frames that each frame may see, in linear time and memory.

The mean is kept as a sum and a count until the end, and the sums always run in fp32 or better.
No sum is ever formed by subtracting two others: what a frame may not see does not take part in
its mean at all, so it changes nothing, not even the last bit.
"""

import torch

from speechbrain_pom.ops.visibility import ChunkMask


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
    """Sum of the frames of each chunk: (B, T, E) to (B, ceil(T / chunk_size), E)."""
    batch, num_frames, dim = values.shape
    missing = -num_frames % chunk_size
    if missing:
        values = torch.nn.functional.pad(values, (0, 0, 0, missing))
    return values.view(batch, -1, chunk_size, dim).sum(dim=2)


class MeanAccumulator:
    """Collects frames block by block and gives the mean that each query frame sees.

    Arguments
    ---------
    visibility : None, ChunkMask or torch.Tensor
        As `parse_attn_mask` returns it.

    Example
    -------
    >>> mean = MeanAccumulator(ChunkMask(1))
    >>> mean.add(torch.tensor([[[1.0], [3.0]]]))
    >>> mean.add(torch.tensor([[[5.0]]]))
    >>> mean.state().flatten()
    tensor([1., 2., 3.])
    """

    def __init__(self, visibility):
        self.visibility = visibility
        self._sums = []
        self._counts = []

    def add(self, features, padding=None):
        """Add a block of frames.

        Arguments
        ---------
        features : torch.Tensor
            (B, t, E), fp32 or better. For a `ChunkMask`, t is a multiple of the chunk size in all
            blocks but the last.
        padding : torch.Tensor, optional
            (B, t) boolean, True = padding.
        """
        if padding is None:
            valid = features.new_ones(1, features.shape[1], 1)
        else:
            # masked_fill rather than a product: padding may hold anything, even NaN.
            features = features.masked_fill(padding.unsqueeze(-1), 0.0)
            valid = (~padding).to(features.dtype).unsqueeze(-1)
        if self.visibility is None:
            features, valid = features.sum(1, keepdim=True), valid.sum(1, keepdim=True)
            if self._sums:
                self._sums[0] = self._sums[0] + features
                self._counts[0] = self._counts[0] + valid
                return
        elif isinstance(self.visibility, ChunkMask):
            features = chunk_sums(features, self.visibility.chunk_size)
            valid = chunk_sums(valid, self.visibility.chunk_size)
        self._sums.append(features)
        self._counts.append(valid)

    def state(self):
        """The means: (B, 1, E), (B, C, E) for C chunks, or (B, num_queries, E) for other masks.

        A query that sees no frame gets zeros.
        """
        sums, counts = (_join(parts) for parts in (self._sums, self._counts))
        if isinstance(self.visibility, ChunkMask):
            left = self.visibility.left_context_chunks
            sums, counts = window_sums(sums, left), window_sums(counts, left)
        elif self.visibility is not None:
            visible = (~self.visibility).to(sums.dtype)  # (num_queries, num_keys), no batch
            sums, counts = visible @ sums, visible @ counts
        return sums / counts.clamp(min=1)


def _join(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def state_of_frames(state, visibility, start, stop):
    """The rows of the state that the query frames start to stop see, broadcastable to them.

    Arguments
    ---------
    state : torch.Tensor
        From `MeanAccumulator.state`.
    visibility : None, ChunkMask or torch.Tensor
        The same as there.
    start, stop : int
        Range of query frames; for a `ChunkMask`, start is a multiple of the chunk size.

    Returns
    -------
    torch.Tensor
        (B, 1, E) or (B, stop - start, E).
    """
    if visibility is None:
        return state
    if isinstance(visibility, ChunkMask):
        size = visibility.chunk_size
        rows = state[:, start // size : -(-stop // size)]
        return rows.repeat_interleave(size, dim=1)[:, : stop - start]
    return state[:, start:stop]
