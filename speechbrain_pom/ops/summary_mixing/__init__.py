"""SummaryMixing as a function: block-diagonal MLPs, a mean over time, one merging layer.

Equations and shapes: README.md in the folder above. Slow version: reference.py.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.inputs import prepare
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.means import rows_of_queries, visible_means
from speechbrain_pom.ops.common.sums import TimeSums, count_frames, sums_over_time, zero_padding

Linear = tuple[Tensor, Tensor]  # weight and bias, also of a LayerNorm

ACTIVATIONS = {"gelu": F.gelu, "swish": F.silu}


def summary_mixing(
    query: Tensor,
    summary_layers: Sequence[Linear],
    local_layers: Sequence[Linear] | None = None,
    merge: Linear | None = None,
    *,
    key: Tensor | None = None,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
    dropout: float = 0.0,
    activation: str = "gelu",
    local_norm: Linear | None = None,
    summary_norm: Linear | None = None,
) -> Tensor:
    """Mix frames over time through the mean of a summary branch (SummaryMixing, section 2.1).

        s_bar_t = mean of s(x) over the frames that t may see
        full: output_t = GELU( W [ f(x_t) | s_bar_t ] + b ),   lite: output_t = s_bar_t

    f and s are MLPs of block-diagonal layers (one block per head) with a GELU after every layer.
    With norms, LN_f(f(x_t)) and LN_s(s_bar_t) stand in place of f(x_t) and s_bar_t.

    Arguments
    ---------
    query : torch.Tensor
        (B, T, d): the frames of the local branch.
    summary_layers : sequence of (torch.Tensor, torch.Tensor)
        (weight, bias) of each layer of s: (nhead, in / nhead, out / nhead), (nhead, out / nhead).
    local_layers : sequence of (torch.Tensor, torch.Tensor), optional
        The same for f; None: lite.
    merge : (torch.Tensor, torch.Tensor), optional
        W (d_out, local out + summary out) and b (d_out,); None: lite.
    key : torch.Tensor, optional
        (B, S, d): the frames of the summary branch; the query itself when not given.
    key_padding_mask : torch.Tensor, optional
        (B, S) boolean, True = padding: counts neither in the sums nor in the lengths.
    attn_mask : ChunkMask or torch.Tensor, optional
        See `speechbrain_pom.ops.parse_attn_mask`.
    dropout : float
        Probability for the elements of the concatenation, drawn for each frame.
    activation : str
        "gelu" or "swish", in place of each GELU.
    local_norm, summary_norm : (torch.Tensor, torch.Tensor), optional
        Weights and biases of a LayerNorm over all widths of a branch: (local out,), (summary out,).

    Returns
    -------
    torch.Tensor
        (B, T, d_out), zero in the padding of the query's own frames, of the dtype that a linear
        layer would return. The means are in fp32 or better whatever the dtype.

    Raises
    ------
    UserError
        If a mask cannot be honoured.

    Example
    -------
    >>> layers = [(torch.randn(2, 3, 5), torch.zeros(2, 5))]
    >>> frames = torch.randn(1, 7, 6)
    >>> summary_mixing(frames, layers).shape
    torch.Size([1, 7, 10])
    >>> merge = torch.randn(6, 20), torch.zeros(6)
    >>> summary_mixing(frames, layers, layers, merge).shape
    torch.Size([1, 7, 6])
    """
    query, key, mask = prepare(query, key, key_padding_mask, attn_mask)
    act = ACTIVATIONS[activation]
    local, summary = _branches(query, key, local_layers, summary_layers, act)
    state = _state(summary, key.shape[:2], key_padding_mask, mask, summary_norm)
    if merge is None:
        mixed = rows_of_queries(state, mask, query.shape[1]).expand(-1, query.shape[1], -1)
    else:
        local = _normalised(local.transpose(0, 1).reshape(*query.shape[:2], -1), local_norm)
        mixed = act(_merge(local, state, merge, mask, dropout))
    return zero_padding(mixed, key_padding_mask) if query is key else mixed


def summary_sums(
    frames: Tensor,
    summary_layers: Sequence[Linear],
    *,
    key_padding_mask: Tensor | None = None,
    activation: str = "gelu",
) -> TimeSums:
    """What SummaryMixing knows of a sequence: the sums over time of its summary branch.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d): the sequence, or a part of it.
    summary_layers : sequence of (torch.Tensor, torch.Tensor)
        As for `summary_mixing`.
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding.
    activation : str
        As for `summary_mixing`.

    Returns
    -------
    TimeSums
        The sums of parts of a sequence add up to those of the whole.

    Example
    -------
    >>> summary_sums(torch.randn(1, 7, 6), [(torch.randn(2, 3, 5), torch.zeros(2, 5))]).sums.shape
    torch.Size([1, 1, 10])
    """
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    _, summary = _branches(frames, frames, None, summary_layers, ACTIVATIONS[activation])
    values, padding = _heads_as_batch(summary, frames.shape[:2], key_padding_mask)
    sums = sums_over_time(values, padding)
    counts = count_frames(frames, key_padding_mask, None)
    return TimeSums(_heads_as_features(sums, frames.shape[0]), counts)


def summary_mix_with_sums(
    query: Tensor,
    summary: TimeSums,
    local_layers: Sequence[Linear] | None = None,
    merge: Linear | None = None,
    *,
    activation: str = "gelu",
    local_norm: Linear | None = None,
    summary_norm: Linear | None = None,
) -> Tensor:
    """SummaryMixing of frames that all see one summary, without dropout.

    Arguments
    ---------
    query : torch.Tensor
        (B, T, d).
    summary : TimeSums
        From `summary_sums`.
    local_layers, merge
        As for `summary_mixing`; None: lite.
    activation, local_norm, summary_norm
        As for `summary_mixing`.

    Returns
    -------
    torch.Tensor
        (B, T, d_out).

    Example
    -------
    >>> layers, frames = [(torch.randn(2, 3, 5), torch.zeros(2, 5))], torch.randn(1, 7, 6)
    >>> merge = torch.randn(6, 20), torch.zeros(6)
    >>> mixed = summary_mix_with_sums(frames, summary_sums(frames, layers), layers, merge)
    >>> torch.allclose(mixed, summary_mixing(frames, layers, layers, merge), atol=1e-5)
    True
    """
    state = _normalised(summary.mean(), summary_norm).to(query.dtype)
    if merge is None:
        return state.expand(-1, query.shape[1], -1)
    act = ACTIVATIONS[activation]
    local = _mlp(_by_head(query, local_layers[0][0].shape[0]), local_layers, act)
    local = _normalised(local.transpose(0, 1).reshape(*query.shape[:2], -1), local_norm)
    return act(_merge(local, state, merge, None, 0.0))


def _normalised(values, norm):
    """LayerNorm over the widths of a branch, all heads together; `values` without a norm."""
    if norm is None:
        return values
    weight, bias = (tensor.to(values.dtype) for tensor in norm)
    return F.layer_norm(values, weight.shape, weight, bias)


def _branches(query, key, local_layers, summary_layers, act):
    """Local (nhead, B*T, L / nhead) or None, and summary (nhead, B*S, S / nhead)."""
    num_heads = summary_layers[0][0].shape[0]
    if local_layers is None:
        return None, _mlp(_by_head(key, num_heads), summary_layers, act)
    if query is not key:
        local = _mlp(_by_head(query, num_heads), local_layers, act)
        return local, _mlp(_by_head(key, num_heads), summary_layers, act)
    # The first layers read the same frames: one product for both.
    pairs = list(zip(local_layers[0], summary_layers[0], strict=True))
    both = _mlp(_by_head(key, num_heads), [[torch.cat(pair, dim=-1) for pair in pairs]], act)
    local, summary = both.split([tensor.shape[-1] for tensor in pairs[0]], dim=-1)
    return _mlp(local, local_layers[1:], act), _mlp(summary, summary_layers[1:], act)


def _by_head(frames, num_heads):
    """(B, T, d) as (nhead, B*T, d / nhead), a view."""
    return frames.reshape(-1, num_heads, frames.shape[-1] // num_heads).transpose(0, 1)


def _mlp(frames, layers, act):
    """Block-diagonal layers with an activation: (nhead, N, in) to (nhead, N, out)."""
    for weight, bias in layers:
        frames = act(torch.baddbmm(bias.unsqueeze(1), frames, weight))
    return frames


def _state(summary, size, padding, mask, norm):
    """The means of what is visible, normalised: (B, 1, S), or a row per chunk or query."""
    values, padding = _heads_as_batch(summary, size, padding)
    with torch.autocast(values.device.type, enabled=False):
        state = _heads_as_features(visible_means(values, padding, mask), size[0])
        return _normalised(state, norm).to(summary.dtype)


def _heads_as_batch(summary, size, padding):
    """A head is a batch of its own, so that nothing is transposed before the sum over time."""
    (batch, num_frames), (num_heads, _, width) = size, summary.shape
    values = summary.reshape(num_heads * batch, num_frames, width)
    return values, None if padding is None else padding.repeat(num_heads, 1)


def _heads_as_features(state, batch):
    """(nhead * B, C, S / nhead) to (B, C, S)."""
    num_heads, width = state.shape[0] // batch, state.shape[2]
    state = state.view(num_heads, batch, -1, width).permute(1, 2, 0, 3)
    return state.reshape(batch, -1, num_heads * width)


def _merge(local, state, merge, mask, dropout):
    """W [f | s_bar] + b as W_f f + W_s s_bar + b: the concatenation is never written."""
    weight, bias = merge
    local_weight, summary_weight = weight.split([local.shape[-1], state.shape[-1]], dim=-1)
    num_frames = local.shape[1]
    if dropout:  # each frame drops other elements of the same mean
        dropped = F.dropout(
            rows_of_queries(state, mask, num_frames).expand(-1, num_frames, -1), dropout
        )
        shared = F.linear(dropped, summary_weight)
        local = F.dropout(local, dropout)
    else:
        shared = rows_of_queries(F.linear(state, summary_weight), mask, num_frames)
    return F.linear(local, local_weight, bias) + shared
