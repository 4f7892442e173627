"""Which frames may see which: SpeechBrain's attention masks, in O(T) where they have a structure.

A token mixer that averages over time needs, for every query frame, the set of key frames it may
see. SpeechBrain describes that set by a (T, T) tensor, which is quadratic. Its two structured
masks (causal, and the chunks of dynamic chunk training) need only two numbers: `ChunkMask`, in
chunks.py.
"""

from typing import TypeAlias

import torch
from torch import Tensor

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.utils.errors import UserError

AttnMask: TypeAlias = Tensor | ChunkMask | None


def parse_attn_mask(
    attn_mask: AttnMask, num_queries: int, num_keys: int, weighs: bool = False
) -> AttnMask:
    """Reduce any mask that SpeechBrain may pass to the simplest equivalent form.

    Arguments
    ---------
    attn_mask : None, ChunkMask or torch.Tensor
        Tensor masks are (num_queries, num_keys): boolean with True = may not be seen, or additive
        with 0 = visible and -inf = hidden, as `speechbrain`'s `get_lookahead_mask` returns.
    num_queries, num_keys : int
        Lengths that a tensor mask must have.
    weighs : bool
        Whether a `ChunkMask` may have a half-life or resets.

    Returns
    -------
    None, ChunkMask or torch.Tensor
        None when everything is visible; a `ChunkMask` when the tensor has that structure
        (found by comparing, so never approximately); else the boolean tensor.

    Raises
    ------
    UserError
        If the mask cannot be honoured: other shapes (a mask per utterance or head), other dtypes,
        additive values other than 0 and -inf, a `ChunkMask` between different sequences, or with
        weights where they are not known.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask
    >>> parse_attn_mask(get_lookahead_mask(torch.ones(1, 7)), 7, 7)
    ChunkMask(chunk_size=1, left_context_chunks=None)
    >>> parse_attn_mask(torch.zeros(4, 4, dtype=torch.bool), 4, 4) is None
    True
    """
    if attn_mask is None:
        return None
    if isinstance(attn_mask, ChunkMask):
        if num_queries != num_keys:
            raise UserError(
                f"{attn_mask} needs query and key of the same length, "
                f"got {num_queries} and {num_keys} frames"
            )
        if attn_mask.has_weights and not weighs:
            raise UserError(
                f"{attn_mask} is for mixers of sums over time, which alone fade or begin anew"
            )
        if attn_mask.chunk_size >= num_keys:
            return None
        return attn_mask
    hidden = _hidden_from_tensor(attn_mask, num_queries, num_keys)
    if not hidden.any():
        return None
    return _find_chunks(hidden) or hidden


def _hidden_from_tensor(attn_mask, num_queries, num_keys):
    """Check a tensor mask and make it boolean, True = hidden, (num_queries, num_keys)."""
    if not isinstance(attn_mask, torch.Tensor) or attn_mask.shape != (num_queries, num_keys):
        found = getattr(attn_mask, "shape", type(attn_mask).__name__)
        found = tuple(found) if isinstance(found, torch.Size) else found
        raise UserError(
            f"attn_mask is {found}: give one mask for the whole batch of shape "
            f"({num_queries}, {num_keys}), a ChunkMask, or None (padding goes to key_padding_mask)"
        )
    if attn_mask.dtype == torch.bool:
        return attn_mask
    if attn_mask.is_floating_point():
        hidden = attn_mask == -torch.inf
        if bool(((attn_mask == 0) | hidden).all()):
            return hidden
        raise UserError(
            "attn_mask adds values other than 0 and -inf (an attention bias): "
            "a mixer without attention scores cannot honour it; give a boolean mask"
        )
    raise UserError(
        f"attn_mask has dtype {attn_mask.dtype}: give a boolean mask (True = may not be seen) "
        "or an additive one (0 and -inf)"
    )


def _find_chunks(hidden):
    """The `ChunkMask` equal to a boolean (T, T) mask, or None if there is none."""
    num_frames = hidden.shape[1]
    if hidden.shape[0] != num_frames:
        return None
    chunk_size = int((~hidden[0]).sum())  # the first frame sees exactly its own chunk
    if chunk_size == 0:
        return None
    visible_in_last_row = (~hidden[-1]).nonzero()
    if len(visible_in_last_row) == 0:
        return None
    left_context_chunks = None
    first_visible = int(visible_in_last_row[0])
    if first_visible > 0:
        left_context_chunks = (num_frames - 1) // chunk_size - first_visible // chunk_size
    candidate = ChunkMask(chunk_size, left_context_chunks)
    if torch.equal(candidate.to_bool(num_frames, hidden.device), hidden):
        return candidate
    return None


def check_padding_mask(key_padding_mask: Tensor | None, key: Tensor) -> None:
    """Refuse a padding mask that is not (B, T) boolean for a key (B, T, d)."""
    if key_padding_mask is None:
        return
    if key_padding_mask.dtype != torch.bool or key_padding_mask.shape != key.shape[:2]:
        raise UserError(
            f"key_padding_mask is {key_padding_mask.dtype} of shape "
            f"{tuple(key_padding_mask.shape)}: give a boolean mask of shape "
            f"{tuple(key.shape[:2])}, True = padding"
        )
