"""The mean of what each frame may see, for any mask that `parse_attn_mask` returns."""

import torch
from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import (
    chunk_sums,
    count_frames,
    sums_over_time,
    zero_padding,
)
from speechbrain_pom.ops.common.windows import visible_sums


def means(sums: Tensor, counts: Tensor, mask: AttnMask, padding: Tensor | None = None) -> Tensor:
    """The mean that each query, or each chunk of queries, sees.

    Arguments
    ---------
    sums : torch.Tensor
        (B, C, E): of all frames (C = 1), of each chunk, or the features of each frame (C = T).
    counts : torch.Tensor
        (B or 1, C, 1): valid frames in them.
    mask : None, ChunkMask or torch.Tensor
        As `parse_attn_mask` returns it; a tensor (num_queries, T) needs the features of each frame.
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
    if isinstance(mask, ChunkMask):
        if mask.resets is not None:
            counts = counts.expand(len(sums), -1, -1)
        sums, counts = visible_sums(sums, mask), visible_sums(counts, mask)
    elif mask is not None:
        visible = (~mask).to(sums.dtype)  # (num_queries, T), shared by the batch
        sums, counts = visible @ zero_padding(sums, padding), visible @ counts
    return sums / counts.clamp(min=1)


def visible_means(values: Tensor, padding: Tensor | None, mask: AttnMask) -> Tensor:
    """Means of values (B, S, E) over what is visible, in fp32 or better.

    They are (B, C, E): one row for all frames, or one for each chunk or query.

    >>> values = torch.tensor([[[1.0], [3.0], [5.0]]])
    >>> visible_means(values, None, ChunkMask(1)).flatten()
    tensor([1., 2., 3.])
    """
    dtype = compute_dtype(values.dtype)
    if isinstance(mask, torch.Tensor):  # a mask without structure: a mean for each query
        return means(values.to(dtype), count_frames(values, padding, 1), mask, padding)
    if mask is None:
        return means(sums_over_time(values, padding), count_frames(values, padding, None), None)
    values = zero_padding(values, padding)
    counts = count_frames(values, padding, mask.chunk_size)
    return means(chunk_sums(values.to(dtype), mask.chunk_size), counts, mask)


def rows_of_frames(state: Tensor, chunk_size: int | None, start: int, stop: int) -> Tensor:
    """The rows of a state that the frames start to stop see, broadcastable to those frames.

    The state is (B, C, E) with a row for each chunk, or (B, 1, E) without chunks; start is a
    multiple of the chunk size.

    >>> rows_of_frames(torch.tensor([[[1.0], [2.0], [3.0]]]), 2, 2, 5).flatten()
    tensor([2., 2., 3.])
    """
    if chunk_size is None:
        return state
    if chunk_size == 1:
        return state[:, start:stop]
    rows = state[:, start // chunk_size : -(-stop // chunk_size)]
    return rows.repeat_interleave(chunk_size, dim=1)[:, : stop - start]


def rows_of_queries(state: Tensor, mask: AttnMask, num_frames: int) -> Tensor:
    """The rows of `visible_means` that all frames see: (B, 1, E), or (B, T, E) with a mask.

    >>> rows_of_queries(torch.tensor([[[1.0], [2.0]]]), ChunkMask(2), 3).flatten()
    tensor([1., 1., 2.])
    """
    chunked = isinstance(mask, ChunkMask)
    return rows_of_frames(state, mask.chunk_size if chunked else None, 0, num_frames)
