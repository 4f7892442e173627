"""The dtype of sums over time and of products of activations."""

import torch


def compute_dtype(dtype):
    """fp32, or float64 for float64: fp16 overflows and bf16 rounds away in products of k factors.

    Arguments
    ---------
    dtype : torch.dtype
        Of the frames and weights.

    Returns
    -------
    torch.dtype

    Example
    -------
    >>> compute_dtype(torch.bfloat16)
    torch.float32
    """
    return torch.promote_types(dtype, torch.float32)
