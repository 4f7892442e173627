"""SummaryMixing for projections that have to be called, instead of weights that may be read.

A projection with a hook, or one that is not a plain linear layer, is a function of frames here.
Functions, arguments and results are those of the functions that take weights, but autograd keeps
more for the backward pass.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.inputs import prepare
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.means import rows_of_queries, visible_means
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, sums_over_time, zero_padding
from speechbrain_pom.ops.summary_mixing import ACTIVATIONS

Layer = Callable[[Tensor], Tensor]


def summary_mixing(
    query: Tensor,
    summary_layers: Sequence[Layer],
    local_layers: Sequence[Layer] | None = None,
    merge: Layer | None = None,
    *,
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
    dropout: float = 0.0,
    activation: str = "gelu",
    local_norm: Layer | None = None,
    summary_norm: Layer | None = None,
) -> Tensor:
    """As `speechbrain_pom.ops.summary_mixing`.

    >>> layer, merge = torch.nn.Linear(6, 10), torch.nn.Linear(20, 6)
    >>> summary_mixing(torch.randn(1, 7, 6), [layer], [layer], merge).shape
    torch.Size([1, 7, 6])
    """
    query, key, mask = prepare(query, key, key_padding_mask, attn_mask)
    act = ACTIVATIONS[activation]
    summary = _mlp(key, summary_layers, act)
    with torch.autocast(query.device.type, enabled=False):
        state = visible_means(summary, key_padding_mask, mask).to(summary.dtype)
    state = rows_of_queries(_normalised(state, summary_norm), mask, query.shape[1])
    mixed = _merge(query, state, local_layers, merge, act, local_norm, dropout)
    return zero_padding(mixed, key_padding_mask) if query is key else mixed


def summary_sums(
    frames: Tensor,
    summary_layers: Sequence[Layer],
    *,
    key_padding_mask: Tensor | None = None,
    activation: str = "gelu",
) -> TimeSums:
    """As `ops.summary_mixing.summary_sums`, with layers as for `summary_mixing`."""
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    values = _mlp(frames, summary_layers, ACTIVATIONS[activation])
    sums = sums_over_time(values, key_padding_mask)
    return TimeSums(sums, count_frames(frames, key_padding_mask, None))


def summary_mix_with_sums(
    query: Tensor,
    summary: TimeSums,
    local_layers: Sequence[Layer] | None = None,
    merge: Layer | None = None,
    *,
    activation: str = "gelu",
    local_norm: Layer | None = None,
    summary_norm: Layer | None = None,
) -> Tensor:
    """As `ops.summary_mixing.summary_mix_with_sums`, with layers as for `summary_mixing`."""
    state = _normalised(summary.mean().to(query.dtype), summary_norm)
    return _merge(query, state, local_layers, merge, ACTIVATIONS[activation], local_norm)


def _mlp(frames, layers, act):
    for layer in layers:
        frames = act(layer(frames))
    return frames


def _normalised(values, norm):
    return values if norm is None else norm(values).to(values.dtype)


def _merge(query, state, local_layers, merge, act, local_norm, dropout=0.0):
    state = state.expand(-1, query.shape[1], -1)
    if merge is None:
        return state
    local = _normalised(_mlp(query, local_layers, act), local_norm)
    if dropout:  # drawn in the order of the function that takes weights
        state = F.dropout(state, dropout)
        local = F.dropout(local, dropout)
    return act(merge(torch.cat([local, state.to(local.dtype)], -1)))
