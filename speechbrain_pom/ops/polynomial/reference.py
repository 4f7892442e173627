"""Slow, obvious version of PoM: the truth that every fast path is tested against.

Written from the equations (README.md in the folder above), in fp32 at least, with explicit (T, T)
weights. The signature is that of the public function.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.masks import AttnMask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.reference import masked_mean


def polynomial_features(
    x: Tensor, weight: Tensor, bias: Tensor | None, degree: int, activation: str = "gelu_product"
) -> Tensor:
    """Features (B, T, E) of frames (B, T, g), before the mean over time.

    "gelu_product": [H_1 | ... | H_k] with H_i = h(W_1 x) * ... * h(W_i x), h the exact GELU; the
    weight is (degree*n, g), branch i in rows (i-1)*n to i*n. "relu_power": relu(W x)^k.
    """
    return features_of_projection(F.linear(x, weight, bias), degree, activation)


def features_of_projection(
    projected: Tensor, degree: int, activation: str = "gelu_product"
) -> Tensor:
    """As `polynomial_features`, of frames that are projected already."""
    if activation == "relu_power":
        return torch.relu(projected) ** degree
    branches = [F.gelu(branch) for branch in projected.chunk(degree, dim=-1)]
    products = [branches[0]]
    for branch in branches[1:]:
        products.append(products[-1] * branch)
    return torch.cat(products, dim=-1)


def polynomial_mix(
    query: Tensor,
    poly_weights: Sequence[tuple[Tensor, Tensor]],
    gate_weights: Sequence[tuple[Tensor, Tensor]],
    out_weight: Tensor,
    out_bias: Tensor,
    *,
    degree: int,
    activation: str = "gelu_product",
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
) -> Tensor:
    """PoM, without its LayerNorm; see `speechbrain_pom.ops.polynomial_mix`."""
    key = query if key is None else key
    dtype = compute_dtype(query.dtype)
    sizes = [weight.shape[1] for weight, _ in poly_weights]
    gated = []
    with torch.autocast(query.device.type, enabled=False):
        query_groups = query.to(dtype).split(sizes, dim=-1)
        key_groups = key.to(dtype).split(sizes, dim=-1)
        for q, k, (w, b), (gate_w, gate_b) in zip(
            query_groups, key_groups, poly_weights, gate_weights, strict=True
        ):
            features = polynomial_features(k, w.to(dtype), b.to(dtype), degree, activation)
            state = masked_mean(features, key_padding_mask, attn_mask, query.shape[1])
            gated.append(torch.sigmoid(F.linear(q, gate_w.to(dtype), gate_b.to(dtype))) * state)
        mixed = F.linear(torch.cat(gated, dim=-1), out_weight.to(dtype), out_bias.to(dtype))
    return mixed.to(query.dtype)
