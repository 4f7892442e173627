"""PoM for projections that have to be called, instead of weights that may be read.

A projection with a hook, or that is no plain linear layer at all, is a function of frames here.
The results are those of the functions of the same names that take weights, and so are all arguments
with the same names; more is kept for the backward pass, as autograd keeps it.
"""

import torch

from speechbrain_pom.ops.common.masks import check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, zero_padding
from speechbrain_pom.ops.common.visible_means import rows_of_queries, sums_over_time, visible_means
from speechbrain_pom.ops.polynomial.reference import features_of_projection


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
