"""Fastformer for projections that have to be called, instead of weights that may be read.

A projection with a hook, or one that is not a plain linear layer, is a function of frames here.
Functions, arguments and results are those of the functions that take weights, but autograd keeps
more for the backward pass.
"""

from collections.abc import Callable

from torch import Tensor

from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask
from speechbrain_pom.ops.common.sums import zero_padding
from speechbrain_pom.ops.fastformer import own_blocks, refuse_attn_mask
from speechbrain_pom.ops.fastformer.softmax_sums import SoftmaxSums, softmax_sums

Layer = Callable[[Tensor], Tensor]


def fastformer(
    frames: Tensor,
    query_proj: Layer,
    query_attn: Layer,
    key_proj: Layer,
    key_attn: Layer,
    out_proj: Layer,
    *,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
) -> Tensor:
    """As `speechbrain_pom.ops.fastformer`.

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
    frames: Tensor,
    query_proj: Layer,
    query_attn: Layer,
    key_proj: Layer,
    key_attn: Layer,
    *,
    key_padding_mask: Tensor | None = None,
    earlier: SoftmaxSums | None = None,
) -> SoftmaxSums:
    """As `ops.fastformer.fastformer_sums`, with layers as for `fastformer`.

    The second sums are those of the products, which only `fastformer_mix_with_sums` here takes.
    """
    check_padding_mask(key_padding_mask, frames)
    frames = zero_padding(frames, key_padding_mask)
    if earlier is None:
        return _attend(query_proj(frames), query_attn, key_padding_mask)
    product = key_proj(frames)
    product = product * own_blocks(earlier.mean()).to(product.dtype)
    return _attend(product, key_attn, key_padding_mask)


def fastformer_mix_with_sums(
    frames: Tensor, summary: SoftmaxSums, query_proj: Layer, out_proj: Layer
) -> Tensor:
    """As `ops.fastformer.fastformer_mix_with_sums`, with layers as for `fastformer`."""
    return _multiply(query_proj(frames), summary, out_proj)


def _attend(vectors, attn, padding):
    """The softmax-weighted sums over time, each head with its scores."""
    scores = attn(vectors)
    scale = (vectors.shape[-1] // scores.shape[-1]) ** -0.5
    return softmax_sums(scale * scores, vectors, padding)


def _multiply(query, sums, out_proj):
    global_key = own_blocks(sums.mean()).to(query.dtype)
    return out_proj(query * global_key) + query
