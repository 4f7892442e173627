"""The mean of what each query sees, straight from its definition, with (T, T) weights."""

from speechbrain_pom.ops.common.masks import ChunkMask


def masked_mean(features, key_padding_mask=None, attn_mask=None, num_queries=None):
    """For every query frame, the mean of the features over the frames that it may see.

    A frame that may see nothing gets zeros.

    Arguments
    ---------
    features : torch.Tensor
        (B, T, E).
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding.
    attn_mask : ChunkMask or torch.Tensor, optional
        A `ChunkMask`, or a boolean (num_queries, T) tensor, True = may not be seen.
    num_queries : int, optional
        Query frames; T when not given.

    Returns
    -------
    torch.Tensor
        (B, num_queries, E).
    """
    batch, num_keys, _ = features.shape
    num_queries = num_keys if num_queries is None else num_queries
    visible = features.new_ones(batch, num_queries, num_keys)
    if key_padding_mask is not None:
        visible = visible * (~key_padding_mask)[:, None, :]
    if isinstance(attn_mask, ChunkMask):
        attn_mask = attn_mask.to_bool(num_keys, features.device)
    if attn_mask is not None:
        visible = visible * (~attn_mask)[None]
    count = visible.sum(-1, keepdim=True)
    return visible @ features / count.clamp(min=1)
