"""Slow, obvious version of PoM: the truth that every fast path is tested against.

Written from the equations (README.md in the folder above), in fp32 at least, with explicit (T, T)
weights. Same signature as the public function.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.common.reference import masked_mean


def polynomial_features(x, weight, bias, degree, activation="gelu_product"):
    """Per-frame polynomial features, before the mean over time.

    Arguments
    ---------
    x : torch.Tensor
        (B, T, g).
    weight, bias : torch.Tensor
        gelu_product: (degree*n, g) and (degree*n,), branch i in rows i*n to (i+1)*n.
        relu_power: (n, g) and (n,).
    degree : int
        k.
    activation : str
        "gelu_product": [H_1 | ... | H_k] with H_i = h(W_1 x) * ... * h(W_i x), h the exact GELU.
        "relu_power": relu(W x)^k.

    Returns
    -------
    torch.Tensor
        (B, T, degree*n) or (B, T, n).
    """
    return features_of_projection(F.linear(x, weight, bias), degree, activation)


def features_of_projection(projected, degree, activation="gelu_product"):
    """As `polynomial_features`, of frames (B, T, degree*n) or (B, T, n) that are projected."""
    if activation == "relu_power":
        return torch.relu(projected) ** degree
    branches = [F.gelu(branch) for branch in projected.chunk(degree, dim=-1)]
    products = [branches[0]]
    for branch in branches[1:]:
        products.append(products[-1] * branch)
    return torch.cat(products, dim=-1)


def polynomial_mix(
    query,
    poly_weights,
    gate_weights,
    out_weight,
    out_bias,
    *,
    degree,
    activation="gelu_product",
    key=None,
    key_padding_mask=None,
    attn_mask=None,
):
    """PoM, without its LayerNorm; see `speechbrain_pom.ops.polynomial_mix`."""
    key = query if key is None else key
    dtype = torch.promote_types(query.dtype, torch.float32)
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
