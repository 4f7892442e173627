"""SummaryMixing for projections that have to be called, instead of weights that may be read.

A projection with a hook, or that is no plain linear layer at all, is a function of frames here.
The results are those of the functions of the same names that take weights, and so are all arguments
with the same names; more is kept for the backward pass, as autograd keeps it.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.common.masks import check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, zero_padding
from speechbrain_pom.ops.common.visible_means import rows_of_queries, sums_over_time, visible_means


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
