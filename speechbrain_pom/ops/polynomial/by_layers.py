"""PoM for projections that have to be called, instead of weights that may be read.

A projection with a hook, or one that is not a plain linear layer, is a function of frames here.
Functions, arguments and results are those of the functions that take weights, but autograd keeps
more for the backward pass.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from speechbrain_pom.ops.common.inputs import prepare
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.means import rows_of_queries, visible_means
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, sums_over_time, zero_padding
from speechbrain_pom.ops.polynomial.reference import features_of_projection

Layer = Callable[[Tensor], Tensor]


def polynomial_mix(
    query: Tensor,
    poly_layers: Sequence[Layer],
    gate_layers: Sequence[Layer],
    out_layer: Layer,
    *,
    widths: Sequence[int],
    degree: int,
    activation: str,
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
) -> Tensor:
    """As `speechbrain_pom.ops.polynomial_mix`, with a layer per group and the groups' widths g.

    >>> poly, gate, out = (torch.nn.Linear(*sizes) for sizes in ((4, 16), (4, 16), (16, 4)))
    >>> options = {"widths": [4], "degree": 2, "activation": "gelu_product"}
    >>> polynomial_mix(torch.randn(2, 5, 4), [poly], [gate], out, **options).shape
    torch.Size([2, 5, 4])
    """
    query, key, mask = prepare(query, key, key_padding_mask, attn_mask)
    features = _polynomial_features(key, poly_layers, widths, degree, activation)
    with torch.autocast(query.device.type, enabled=False):
        state = visible_means(features, key_padding_mask, mask)
        state = rows_of_queries(state, mask, query.shape[1])
    return _gate(query, state, gate_layers, out_layer, widths)


def polynomial_sums(
    frames: Tensor,
    poly_layers: Sequence[Layer],
    *,
    widths: Sequence[int],
    degree: int,
    activation: str,
    key_padding_mask: Tensor | None = None,
) -> TimeSums:
    """As `ops.polynomial.polynomial_sums`, with layers as for `polynomial_mix`."""
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    features = _polynomial_features(frames, poly_layers, widths, degree, activation)
    counts = count_frames(frames, key_padding_mask, None)
    return TimeSums(sums_over_time(features, key_padding_mask), counts)


def polynomial_mix_with_sums(
    query: Tensor,
    summary: TimeSums,
    gate_layers: Sequence[Layer],
    out_layer: Layer,
    *,
    widths: Sequence[int],
) -> Tensor:
    """As `ops.polynomial.polynomial_mix_with_sums`, with layers as for `polynomial_mix`."""
    return _gate(query, summary.mean(), gate_layers, out_layer, widths)


def _polynomial_features(frames, layers, widths, degree, activation):
    """The features (B, T, E) of all groups, in fp32 or better."""
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
