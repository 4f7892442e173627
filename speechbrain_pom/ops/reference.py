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
