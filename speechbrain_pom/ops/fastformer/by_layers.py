"""Fastformer for projections that have to be called, instead of weights that may be read.

A projection with a hook, or that is no plain linear layer at all, is a function of frames here.
The results are those of the functions of the same names that take weights, and so are all arguments
with the same names; more is kept for the backward pass, as autograd keeps it.
"""

from speechbrain_pom.ops.common.masks import check_padding_mask
from speechbrain_pom.ops.common.sums import softmax_sums, zero_padding
from speechbrain_pom.ops.fastformer import own_blocks, refuse_attn_mask


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
