"""The mixers for projections that have to be called, instead of weights that may be read.

A projection with a hook, or that is no plain linear layer at all, is a function of frames here.
The results are those of the functions of the same names that take weights, and so are all arguments
with the same names; more is kept for the backward pass, as autograd keeps it.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.fastformer import own_blocks, refuse_attn_mask
from speechbrain_pom.ops.pointwise import compute_dtype
from speechbrain_pom.ops.pooling import TimeSums, count_frames, softmax_sums, zero_padding
from speechbrain_pom.ops.reference import features_of_projection
from speechbrain_pom.ops.visibility import check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.visible_means import rows_of_queries, sums_over_time, visible_means


def polynomial_mix(
    query,
    poly_layers,
    gate_layers,
    out_layer,
    *,
    widths,
    degree,
    activation,
    key=None,
    key_padding_mask=None,
    attn_mask=None,
):
    """As `speechbrain_pom.ops.polynomial_mix`.

    Arguments
    ---------
    query, degree, activation, key, key_padding_mask, attn_mask
        As there.
    poly_layers, gate_layers : sequence of callable
        Of each group, (B, T, g) to (B, T, E_g).
    out_layer : callable
        (B, T, E) to (B, T, d_out).
    widths : list of int
        The g of all groups.

    Returns
    -------
    torch.Tensor
        (B, T, d_out).

    Example
    -------
    >>> poly, gate, out = (torch.nn.Linear(*sizes) for sizes in ((4, 16), (4, 16), (16, 4)))
    >>> options = {"widths": [4], "degree": 2, "activation": "gelu_product"}
    >>> polynomial_mix(torch.randn(2, 5, 4), [poly], [gate], out, **options).shape
    torch.Size([2, 5, 4])
    """
    itself = key is None or key is query
    key = query if itself else key
    check_padding_mask(key_padding_mask, key)
    visibility = parse_attn_mask(attn_mask, query.shape[1], key.shape[1])
    key = zero_padding(key, key_padding_mask)  # no gradient is NaN, whatever padding holds
    features = _polynomial_features(key, poly_layers, widths, degree, activation)
    with torch.autocast(query.device.type, enabled=False):
        state = visible_means(features, key_padding_mask, visibility)
        state = rows_of_queries(state, visibility, query.shape[1])
    return _gate(key if itself else query, state, gate_layers, out_layer, widths)


def polynomial_sums(frames, poly_layers, *, widths, degree, activation, key_padding_mask=None):
    """As `ops.polynomial.polynomial_sums`, with layers as for `polynomial_mix`."""
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    features = _polynomial_features(frames, poly_layers, widths, degree, activation)
    counts = count_frames(frames, key_padding_mask, None)
    return TimeSums(sums_over_time(features, key_padding_mask), counts)


def polynomial_mix_with_sums(query, summary, gate_layers, out_layer, *, widths):
    """As `ops.polynomial.mix_with_sums`, with layers as for `polynomial_mix`."""
    return _gate(query, summary.mean(), gate_layers, out_layer, widths)


def _polynomial_features(frames, layers, widths, degree, activation):
    """Of all groups, (B, T, E) in fp32 or better."""
    groups = []
    for layer, part in zip(layers, frames.split(widths, -1), strict=True):
        projected = layer(part)
        projected = projected.to(compute_dtype(projected.dtype))
        groups.append(features_of_projection(projected, degree, activation))
    return torch.cat(groups, -1)


def _gate(query, state, gate_layers, out_layer, widths):
    parts = zip(gate_layers, query.split(widths, -1), strict=True)
    scores = torch.cat([layer(part) for layer, part in parts], -1)
    gated = torch.sigmoid(scores.to(compute_dtype(scores.dtype))) * state
    return out_layer(gated.to(scores.dtype))


def summary_mixing(
    query,
    summary_layers,
    local_layers=None,
    merge=None,
    *,
    key=None,
    key_padding_mask=None,
    attn_mask=None,
    dropout=0.0,
):
    """As `speechbrain_pom.ops.summary_mixing`.

    Arguments
    ---------
    query, key, key_padding_mask, attn_mask, dropout
        As there.
    summary_layers, local_layers : sequence of callable
        (B, T, in) to (B, T, out).
    merge : callable
        (B, T, local out + summary out) to (B, T, d_out).

    Returns
    -------
    torch.Tensor
        (B, T, d_out).

    Example
    -------
    >>> layer, merge = torch.nn.Linear(6, 10), torch.nn.Linear(20, 6)
    >>> summary_mixing(torch.randn(1, 7, 6), [layer], [layer], merge).shape
    torch.Size([1, 7, 6])
    """
    itself = key is None or key is query
    key = query if itself else key
    check_padding_mask(key_padding_mask, key)
    visibility = parse_attn_mask(attn_mask, query.shape[1], key.shape[1])
    key = zero_padding(key, key_padding_mask)
    summary = _mlp(key, summary_layers)
    with torch.autocast(query.device.type, enabled=False):
        state = visible_means(summary, key_padding_mask, visibility).to(summary.dtype)
    state = rows_of_queries(state, visibility, query.shape[1])
    mixed = _merge(key if itself else query, state, local_layers, merge, dropout)
    return zero_padding(mixed, key_padding_mask) if itself else mixed


def summary_sums(frames, summary_layers, *, key_padding_mask=None):
    """As `ops.summary_mixing.summary_sums`, with layers as for `summary_mixing`."""
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    sums = sums_over_time(_mlp(frames, summary_layers), key_padding_mask)
    return TimeSums(sums, count_frames(frames, key_padding_mask, None))


def summary_mix_with_sums(query, summary, local_layers=None, merge=None):
    """As `ops.summary_mixing.mix_with_sums`, with layers as for `summary_mixing`."""
    return _merge(query, summary.mean().to(query.dtype), local_layers, merge)


def _mlp(frames, layers):
    for layer in layers:
        frames = F.gelu(layer(frames))
    return frames


def _merge(query, state, local_layers, merge, dropout=0.0):
    state = state.expand(-1, query.shape[1], -1)
    if merge is None:
        return state
    local = _mlp(query, local_layers)
    if dropout:  # drawn in the order of the function that takes weights
        state = F.dropout(state, dropout)
        local = F.dropout(local, dropout)
    return F.gelu(merge(torch.cat([local, state.to(local.dtype)], -1)))


def fastformer(
    frames,
    query_proj,
    query_attn,
    key_proj,
    key_attn,
    out_proj,
    *,
    key_padding_mask=None,
    attn_mask=None,
):
    """As `speechbrain_pom.ops.fastformer`.

    Arguments
    ---------
    frames, key_padding_mask, attn_mask
        As there.
    query_proj, key_proj, out_proj : callable
        (B, T, d) to (B, T, d).
    query_attn, key_attn : callable
        (B, T, d) to (B, T, nhead).

    Returns
    -------
    torch.Tensor
        (B, T, d).

    Example
    -------
    >>> layers = [torch.nn.Linear(6, rows) for rows in (6, 2, 6, 2, 6)]
    >>> fastformer(torch.randn(1, 7, 6), *layers).shape
    torch.Size([1, 7, 6])
    """
    check_padding_mask(key_padding_mask, frames)
    refuse_attn_mask(attn_mask, frames.shape[1])
    frames = zero_padding(frames, key_padding_mask)
    query = query_proj(frames)
    sums = _attend(query, query_attn, key_padding_mask)
    product = key_proj(frames) * own_blocks(sums.mean()).to(query.dtype)
    sums = _attend(product, key_attn, key_padding_mask)
    return zero_padding(_multiply(query, sums, out_proj), key_padding_mask)


def fastformer_sums(
    frames, query_proj, query_attn, key_proj, key_attn, *, key_padding_mask=None, earlier=None
):
    """As `ops.fastformer.fastformer_sums`, with layers as for `fastformer`.

    The second sums are those of the products, which only `fastformer_mix_with_sums` takes.
    """
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    if earlier is None:
        return _attend(query_proj(frames), query_attn, key_padding_mask)
    product = key_proj(frames)
    product = product * own_blocks(earlier.mean()).to(product.dtype)
    return _attend(product, key_attn, key_padding_mask)


def fastformer_mix_with_sums(frames, summary, query_proj, out_proj):
    """As `ops.fastformer.mix_with_sums`, with layers as for `fastformer`."""
    return _multiply(query_proj(frames), summary, out_proj)


def _attend(vectors, attn, padding):
    """The softmax-weighted sums over time, each head with its scores."""
    scores = attn(vectors)
    scale = (vectors.shape[-1] // scores.shape[-1]) ** -0.5
    return softmax_sums(scale * scores, vectors, padding)


def _multiply(query, sums, out_proj):
    global_key = own_blocks(sums.mean()).to(query.dtype)
    return out_proj(query * global_key) + query
