"""The mean of what each query sees, straight from its definition, with (T, T) weights."""

from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.masks import AttnMask


def masked_mean(
    features: Tensor,
    key_padding_mask: Tensor | None = None,
    attn_mask: AttnMask = None,
    num_queries: int | None = None,
) -> Tensor:
    """For each query, the mean (B, num_queries, E) of the features (B, T, E) that it may see.

    There are T queries if no number is given. A query that may see nothing gets zeros. Weights of a
    `ChunkMask` weigh features and count.
    """
    batch, num_keys, _ = features.shape
    num_queries = num_keys if num_queries is None else num_queries
    visible = features.new_ones(batch, num_queries, num_keys)
    if key_padding_mask is not None:
        visible = visible * (~key_padding_mask)[:, None, :]
    if isinstance(attn_mask, ChunkMask) and attn_mask.has_weights:
        visible = visible * attn_mask.to_weights(num_keys, features.device).to(features.dtype)
        attn_mask = None
    elif isinstance(attn_mask, ChunkMask):
        attn_mask = attn_mask.to_bool(num_keys, features.device)
    if attn_mask is not None:
        visible = visible * (~attn_mask)[None]
    count = visible.sum(-1, keepdim=True)
    return visible @ features / count.clamp(min=1)
