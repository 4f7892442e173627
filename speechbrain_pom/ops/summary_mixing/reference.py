"""Slow, obvious version of SummaryMixing: the truth that the fast path is tested against."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.reference import masked_mean


def summary_mixing(
    query: Tensor,
    summary_layers: Sequence[tuple[Tensor, Tensor]],
    local_layers: Sequence[tuple[Tensor, Tensor]] | None = None,
    merge: tuple[Tensor, Tensor] | None = None,
    *,
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
    activation: str = "gelu",
    local_norm: tuple[Tensor, Tensor] | None = None,
    summary_norm: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """SummaryMixing, without dropout; see `speechbrain_pom.ops.summary_mixing`.

    Padded queries get an output like any other.
    """
    dtype = compute_dtype(query.dtype)

    def act(values):
        return F.gelu(values) if activation == "gelu" else values * values.sigmoid()

    def normalised(values, norm):
        if norm is None:
            return values
        variance = values.var(-1, unbiased=False, keepdim=True)
        centred = (values - values.mean(-1, keepdim=True)) / torch.sqrt(variance + 1e-5)
        return centred * norm[0].to(dtype) + norm[1].to(dtype)

    def mlp(frames, layers):
        for weight, bias in layers:
            dense = torch.block_diag(*weight.to(dtype).transpose(1, 2))  # (out, in)
            frames = act(F.linear(frames, dense, bias.to(dtype).flatten()))
        return frames

    with torch.autocast(query.device.type, enabled=False):
        summary = mlp((query if key is None else key).to(dtype), summary_layers)
        mixed = masked_mean(summary, key_padding_mask, attn_mask, query.shape[1])
        mixed = normalised(mixed, summary_norm)
        if local_layers is not None:
            local = normalised(mlp(query.to(dtype), local_layers), local_norm)
            joined = torch.cat([local, mixed], dim=-1)
            mixed = act(F.linear(joined, *(tensor.to(dtype) for tensor in merge)))
    return mixed.to(query.dtype)
