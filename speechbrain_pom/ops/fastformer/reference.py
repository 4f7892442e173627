"""Slow, obvious version of Fastformer: the truth that the fast path is tested against."""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype


def fastformer(
    frames: Tensor,
    query_proj: tuple[Tensor, Tensor],
    query_attn: tuple[Tensor, Tensor],
    key_proj: tuple[Tensor, Tensor],
    key_attn: tuple[Tensor, Tensor],
    out_proj: tuple[Tensor, Tensor],
    *,
    key_padding_mask: Tensor | None = None,
) -> Tensor:
    """Fastformer; see `speechbrain_pom.ops.fastformer`.

    Padded frames get an output like any other.
    """
    dtype = compute_dtype(frames.dtype)
    num_heads = query_attn[0].shape[0]
    d_head = frames.shape[-1] // num_heads

    def linear(x, layer):
        return F.linear(x, *(tensor.to(dtype) for tensor in layer))

    def attend(vectors, layer):
        """The sum over time, each head with its softmax: (B, T, d) to (B, 1, d)."""
        scores = linear(vectors, layer) / d_head**0.5  # (B, T, nhead)
        if key_padding_mask is not None:
            scores = scores.masked_fill(key_padding_mask.unsqueeze(-1), -torch.inf)
        weights = scores.softmax(dim=1).repeat_interleave(d_head, dim=-1)
        return (weights * vectors).sum(dim=1, keepdim=True)

    with torch.autocast(frames.device.type, enabled=False):
        query = linear(frames.to(dtype), query_proj)
        product = linear(frames.to(dtype), key_proj) * attend(query, query_attn)
        mixed = linear(attend(product, key_attn) * query, out_proj) + query
    return mixed.to(frames.dtype)
