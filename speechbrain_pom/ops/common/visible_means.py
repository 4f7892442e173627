"""The mean of what each frame may see, for any mask that `parse_attn_mask` returns."""

import torch

from speechbrain_pom.ops.common.masks import ChunkMask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import (
    chunk_sums,
    count_frames,
    means,
    rows_of_frames,
    zero_padding,
)


def sums_over_time(values, padding):
    """Sums over time, in fp32 or better.

    Arguments
    ---------
    values : torch.Tensor
        (B, S, E).
    padding : torch.Tensor or None
        (B, S) boolean, True = padding.

    Returns
    -------
    torch.Tensor
        (B, 1, E).

    Example
    -------
    >>> sums_over_time(torch.ones(1, 3, 1), torch.tensor([[False, False, True]])).item()
    2.0
    """
    return zero_padding(values, padding).sum(1, keepdim=True, dtype=compute_dtype(values.dtype))


def visible_means(values, padding, visibility):
    """Means over what is visible, in fp32 or better.

    Arguments
    ---------
    values : torch.Tensor
        (B, S, E).
    padding : torch.Tensor or None
        (B, S) boolean, True = padding.
    visibility : None, ChunkMask or torch.Tensor
        As `parse_attn_mask` returns it.

    Returns
    -------
    torch.Tensor
        (B, C, E): one row for all frames, or one per chunk or query.

    Example
    -------
    >>> values = torch.tensor([[[1.0], [3.0], [5.0]]])
    >>> visible_means(values, None, ChunkMask(1)).flatten()
    tensor([1., 2., 3.])
    """
    dtype = compute_dtype(values.dtype)
    if isinstance(visibility, torch.Tensor):  # a mask without structure: a mean for each query
        return means(values.to(dtype), count_frames(values, padding, 1), visibility, padding)
    if visibility is None:
        return means(sums_over_time(values, padding), count_frames(values, padding, None), None)
    values = zero_padding(values, padding)
    counts = count_frames(values, padding, visibility.chunk_size)
    return means(chunk_sums(values.to(dtype), visibility.chunk_size), counts, visibility)


def rows_of_queries(state, visibility, num_frames):
    """The rows of the means that the frames see.

    Arguments
    ---------
    state : torch.Tensor
        From `visible_means`.
    visibility : None, ChunkMask or torch.Tensor
        The same.
    num_frames : int
        T.

    Returns
    -------
    torch.Tensor
        (B, 1, E), or (B, T, E) with a mask.

    Example
    -------
    >>> rows_of_queries(torch.tensor([[[1.0], [2.0]]]), ChunkMask(2), 3).flatten()
    tensor([1., 1., 2.])
    """
    chunked = isinstance(visibility, ChunkMask)
    return rows_of_frames(state, visibility.chunk_size if chunked else None, 0, num_frames)
