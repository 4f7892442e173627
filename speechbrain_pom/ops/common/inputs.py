"""What every operator does first: check its masks, and empty the padding."""

from typing import NamedTuple

from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.masks import AttnMask, check_padding_mask, parse_attn_mask
from speechbrain_pom.ops.common.sums import zero_padding
from speechbrain_pom.utils.errors import UserError


class Inputs(NamedTuple):
    """The frames to mix, the frames to summarise (the same tensor if they are the same), the mask.

    Arguments
    ---------
    query, key : torch.Tensor
        (B, T, d) and (B, S, d), the key with zeros in the padding.
    mask : None, ChunkMask or torch.Tensor
        As `parse_attn_mask` returns it.
    """

    query: Tensor
    key: Tensor
    mask: AttnMask


def prepare(
    query: Tensor, key: Tensor | None, key_padding_mask: Tensor | None, attn_mask: AttnMask
) -> Inputs:
    """The arguments of an operator, checked; a key of None is the query."""
    same = key is None or key is query
    key = query if same else key
    check_padding_mask(key_padding_mask, key)
    mask = parse_attn_mask(attn_mask, query.shape[1], key.shape[1], weighs=True)
    if isinstance(mask, ChunkMask) and mask.resets is not None and len(mask.resets) != len(key):
        raise UserError(
            f"resets are of {len(mask.resets)} utterances and the batch has {len(key)}: give those "
            "of each, perhaps none"
        )
    key = zero_padding(key, key_padding_mask)  # no gradient is NaN, whatever padding holds
    return Inputs(key if same else query, key, mask)
