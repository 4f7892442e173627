"""Slow, obvious versions of the operations: the truth that every fast path is tested against.

Written from the equations (README.md beside this file), in fp32 at least, with explicit (T, T)
weights. Same signatures as the public functions.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.visibility import ChunkMask


def masked_mean(features, key_padding_mask=None, attn_mask=None, num_queries=None):
    """For every query frame, the mean of the features over the frames that it may see.

    A frame that may see nothing gets zeros.

    Arguments
    ---------
    features : torch.Tensor
        (B, T, E).
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding.
    attn_mask : ChunkMask or torch.Tensor, optional
        A `ChunkMask`, or a boolean (num_queries, T) tensor, True = may not be seen.
    num_queries : int, optional
        Query frames; T when not given.

    Returns
    -------
    torch.Tensor
        (B, num_queries, E).
    """
    batch, num_keys, _ = features.shape
    num_queries = num_keys if num_queries is None else num_queries
    visible = features.new_ones(batch, num_queries, num_keys)
    if key_padding_mask is not None:
        visible = visible * (~key_padding_mask)[:, None, :]
    if isinstance(attn_mask, ChunkMask):
        attn_mask = attn_mask.to_bool(num_keys, features.device)
    if attn_mask is not None:
        visible = visible * (~attn_mask)[None]
    count = visible.sum(-1, keepdim=True)
    return visible @ features / count.clamp(min=1)


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
    projected = F.linear(x, weight, bias)
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
