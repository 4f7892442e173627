"""Slow, obvious version of SummaryMixing: the truth that the fast path is tested against."""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.common.reference import masked_mean


def summary_mixing(
    query,
    summary_layers,
    local_layers=None,
    merge=None,
    *,
    key=None,
    key_padding_mask=None,
    attn_mask=None,
):
    """SummaryMixing, without dropout; see `speechbrain_pom.ops.summary_mixing`.

    Frames of padding are no different from others in what they get.
    """
    dtype = torch.promote_types(query.dtype, torch.float32)

    def mlp(frames, layers):
        for weight, bias in layers:
            dense = torch.block_diag(*weight.to(dtype).transpose(1, 2))  # (out, in)
            frames = F.gelu(F.linear(frames, dense, bias.to(dtype).flatten()))
        return frames

    with torch.autocast(query.device.type, enabled=False):
        summary = mlp((query if key is None else key).to(dtype), summary_layers)
        mixed = masked_mean(summary, key_padding_mask, attn_mask, query.shape[1])
        if local_layers is not None:
            joined = torch.cat([mlp(query.to(dtype), local_layers), mixed], dim=-1)
            mixed = F.gelu(F.linear(joined, *(tensor.to(dtype) for tensor in merge)))
    return mixed.to(query.dtype)
