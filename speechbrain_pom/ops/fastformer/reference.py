"""Slow, obvious version of Fastformer: the truth that the fast path is tested against."""

import torch
import torch.nn.functional as F


def fastformer(
    frames, query_proj, query_attn, key_proj, key_attn, out_proj, *, key_padding_mask=None
):
    """Fastformer; see `speechbrain_pom.ops.fastformer`.

    Frames of padding are no different from others in what they get.
    """
    dtype = torch.promote_types(frames.dtype, torch.float32)
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
