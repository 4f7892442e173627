"""Fastformer as a function: a global query, a global key, and no key or score per pair of frames.

Equations and shapes: README.md in the folder above. Slow version: reference.py.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import zero_padding
from speechbrain_pom.ops.fastformer.softmax_sums import SoftmaxSums, masked_scores, softmax_sums
from speechbrain_pom.utils.errors import UserError

Linear = tuple[Tensor, Tensor]  # weight (out, in) and bias (out,)


def fastformer(
    frames: Tensor,
    query_proj: Linear,
    query_attn: Linear,
    key_proj: Linear,
    key_attn: Linear,
    out_proj: Linear,
    *,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
) -> Tensor:
    """Mix frames over time by additive attention (Fastformer, section 3; value = query).

        q = W_q x,  q* = sum_t softmax_t( w_a q / sqrt(d_h) ) q
        p = (W_k x) * q*,  k* = sum_t softmax_t( w_b p / sqrt(d_h) ) p
        output = W_o (k* * q) + q

    The key of a frame serves two sums only, both linear in it. So W_k is applied to the nhead sums
    over time instead of to T frames: exact, and a third of the work less.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d).
    query_proj, key_proj, out_proj : (torch.Tensor, torch.Tensor)
        W_q, W_k, W_o with their biases: (d, d), (d,).
    query_attn, key_attn : (torch.Tensor, torch.Tensor)
        w_a and w_b with their biases: (nhead, d), (nhead,), a row of scores per head.
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding: the softmax runs over the valid frames only.
    attn_mask : ChunkMask or torch.Tensor, optional
        Refused if it hides anything: with a q* for each query, the second softmax would need the
        scores of all pairs of frames, which this mixer avoids.

    Returns
    -------
    torch.Tensor
        (B, T, d), zero in the padding, of the dtype that a linear layer would return. Softmax and
        sums over time are in fp32 or better whatever the dtype.

    Raises
    ------
    UserError
        For a causal or chunk mask.

    Example
    -------
    >>> linear = lambda rows: (torch.randn(rows, 6), torch.zeros(rows))
    >>> weights = [linear(rows) for rows in (6, 2, 6, 2, 6)]
    >>> fastformer(torch.randn(1, 7, 6), *weights).shape
    torch.Size([1, 7, 6])
    """
    check_padding_mask(key_padding_mask, frames)
    refuse_attn_mask(attn_mask, frames.shape[1])
    frames = zero_padding(frames, key_padding_mask)  # a weight of zero times NaN would be NaN
    query = F.linear(frames, *query_proj)
    scores = _query_scores(query, query_attn)
    global_query = own_blocks(_pool(scores, query, key_padding_mask)).to(query.dtype)
    scores = _key_scores(frames, global_query, key_proj, key_attn)
    pooled = _pool(scores, frames, key_padding_mask).to(query.dtype)
    mixed = _multiply(query, global_query, pooled, key_proj, out_proj)
    return zero_padding(mixed, key_padding_mask)


def refuse_attn_mask(attn_mask: AttnMask, num_frames: int) -> None:
    """Refuse a mask that hides anything."""
    if parse_attn_mask(attn_mask, num_frames, num_frames) is not None:
        raise UserError(
            "Fastformer cannot honour a causal or chunk mask: its second softmax would need the "
            "scores of all pairs of frames; set causal: False and no dynamic chunks, or choose "
            "another type"
        )


def fastformer_sums(
    frames: Tensor,
    query_proj: Linear,
    query_attn: Linear,
    key_proj: Linear,
    key_attn: Linear,
    *,
    key_padding_mask: Tensor | None = None,
    earlier: SoftmaxSums | None = None,
) -> SoftmaxSums:
    """What Fastformer knows of a sequence: the sums of its first softmax, then of its second.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d): the sequence, or a part of it.
    query_proj, query_attn, key_proj, key_attn
        As for `fastformer`.
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding.
    earlier : SoftmaxSums, optional
        Of the whole sequence, from the first call: the second sums depend on them.

    Returns
    -------
    SoftmaxSums
        Those of parts of a sequence add up to those of the whole.

    Example
    -------
    >>> frames, weights = torch.randn(1, 7, 6), [
    ...     (torch.randn(rows, 6), torch.zeros(rows)) for rows in (6, 2, 6, 2, 6)
    ... ]
    >>> first = fastformer_sums(frames, *weights[:4])
    >>> second = fastformer_sums(frames, *weights[:4], earlier=first)
    >>> mixed = fastformer_mix_with_sums(frames, second, weights[0], weights[2], weights[4])
    >>> torch.allclose(mixed, fastformer(frames, *weights), atol=1e-4)
    True
    """
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    if earlier is None:
        query = F.linear(frames, *query_proj)
        return softmax_sums(_query_scores(query, query_attn), query, key_padding_mask)
    global_query = own_blocks(earlier.mean()).to(frames.dtype)
    scores = _key_scores(frames, global_query, key_proj, key_attn)
    sums = softmax_sums(scores, frames, key_padding_mask)
    return sums._replace(global_query=global_query)


def fastformer_mix_with_sums(
    frames: Tensor, summary: SoftmaxSums, query_proj: Linear, key_proj: Linear, out_proj: Linear
) -> Tensor:
    """Fastformer of frames (B, T, d) of a sequence whose second sums are known."""
    query = F.linear(frames, *query_proj)
    pooled, global_query = summary.mean().to(query.dtype), summary.global_query.to(query.dtype)
    return _multiply(query, global_query, pooled, key_proj, out_proj)


def _query_scores(query, query_attn):
    return _scale(query, query_attn) * F.linear(query, *query_attn)


def _key_scores(frames, global_query, key_proj, key_attn):
    # w_b (W_k x * q*) = ((w_b * q*) W_k) x; the bias of W_k adds the same to every frame's score,
    # which a softmax does not see.
    weight, bias = key_attn
    folded = (weight * global_query) @ key_proj[0]  # (B, nhead, d)
    return _scale(frames, key_attn) * (frames @ folded.transpose(1, 2) + bias)


def _scale(frames, attn):
    return (frames.shape[-1] // attn[0].shape[0]) ** -0.5


def _multiply(query, global_query, pooled, key_proj, out_proj):
    """W_o (k* * q) + q, with k* from the pooled frames (B, nhead, d)."""
    global_key = global_query * own_blocks(F.linear(pooled, *key_proj))
    return F.linear(query * global_key, *out_proj) + query


def _pool(scores, values, padding):
    """Softmax of scores (B, T, nhead) over the valid frames, and its sums of values (B, T, d).

    All heads weight all features, (B, nhead, d): one product without a copy by head.
    """
    dtype = compute_dtype(values.dtype)
    scores = masked_scores(scores, padding, dtype)
    with torch.autocast(values.device.type, enabled=False):
        return scores.softmax(dim=1).transpose(1, 2) @ values.to(dtype)


def own_blocks(pooled: Tensor) -> Tensor:
    """From (B, nhead, d), the features of each head from its own row: (B, 1, d).

    >>> own_blocks(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    tensor([[[1., 4.]]])
    """
    batch, num_heads, d_model = pooled.shape
    blocks = pooled.view(batch, num_heads, num_heads, d_model // num_heads)
    return blocks.diagonal(dim1=1, dim2=2).transpose(1, 2).reshape(batch, 1, d_model)
