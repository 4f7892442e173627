"""The dtype of sums over time and of products of activations."""

import torch


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32, or float64 for float64: fp16 overflows in products, bf16 rounds frames away in sums."""
    return torch.promote_types(dtype, torch.float32)
