"""SpeechBrain's attention chunk by chunk: the frames of its left context in a ring.

Running sums hold all of the past in a constant state; attention needs its frames. So it streams
with a finite left context only, and mixes its frames anew in each chunk, as SpeechBrain's own
streaming does.
"""

from typing import NamedTuple

import torch
from speechbrain.nnet.attention import MultiheadAttention, RelPosEncXL, RelPosMHAXL, RoPEMHA
from torch import Tensor, nn

from speechbrain_pom.utils.errors import UserError

ATTENTION = {MultiheadAttention: "regularMHA", RelPosMHAXL: "RelPosMHAXL", RoPEMHA: "RoPEMHA"}


class AttentionRing(NamedTuple):
    """The inputs of an attention layer in the chunks that the next one sees, the newest last.

    Arguments
    ---------
    frames : torch.Tensor
        (B, left * C, d_model); zeros before the stream.
    counts : torch.Tensor
        (B,) int64: how many of them are of the stream.
    """

    frames: Tensor
    counts: Tensor


def is_attention(mixer: nn.Module) -> bool:
    """Whether a mixer is attention of SpeechBrain that can stream."""
    return type(mixer) in ATTENTION


def obstacle_to_ring(mixer: nn.Module, left_context_chunks: int | None) -> str | None:
    """Why attention cannot stream with a left context: that it is unlimited; or None."""
    if left_context_chunks is not None:
        return None
    return (
        f"{ATTENTION[type(mixer)]} keeps the frames that it attends to: give a finite left context"
    )


def first_ring(
    batch_size: int, num_frames: int, d_model: int, like: Tensor | None = None
) -> AttentionRing:
    """The ring before the first chunk, for `num_frames` of left context; `like` has its dtype."""
    like = torch.empty(0) if like is None else like
    frames = like.new_zeros(batch_size, num_frames, d_model)
    return AttentionRing(frames, like.new_zeros(batch_size, dtype=torch.int64))


def ring_step(
    mixer: nn.Module, frames: Tensor, ring: AttentionRing, positions: Tensor | None
) -> tuple[Tensor, AttentionRing]:
    """Attend from the next chunk to itself and to the ring.

    Arguments
    ---------
    mixer : torch.nn.Module
        One of `ATTENTION`, in eval mode.
    frames : torch.Tensor
        (B, C, d_model), the input of the mixer.
    ring : AttentionRing
        Never changed in place.
    positions : torch.Tensor, optional
        (1, 2 * (left * C + C) - 1, d_model), where the mixer is RelPosMHAXL.

    Returns
    -------
    output : torch.Tensor
        (B, C, d_model)
    ring : AttentionRing
        For the next chunk.

    Example
    -------
    >>> mixer, frames = RoPEMHA(8, 2).eval(), torch.randn(1, 12, 8)
    >>> ring, outputs = first_ring(1, 4, 8), []
    >>> for chunk in frames.split(4, dim=1):
    ...     output, ring = ring_step(mixer, chunk, ring, None)
    ...     outputs.append(output)
    >>> expected, _ = mixer(frames[:, 4:], frames[:, 4:], frames[:, 4:])
    >>> torch.allclose(outputs[-1], expected[:, 4:], atol=1e-5)
    True
    """
    num_frames, size = frames.shape[1], ring.frames.shape[1]
    seen = torch.cat([ring.frames.to(frames.dtype), frames], dim=1)
    place = torch.arange(seen.shape[1], device=frames.device)
    hidden = place < (size - ring.counts).unsqueeze(1)  # before the stream
    own = positions if isinstance(mixer, RelPosMHAXL) else None
    output, _ = mixer(seen, seen, seen, key_padding_mask=hidden, pos_embs=own)
    kept = seen[:, num_frames:].to(ring.frames.dtype, copy=True)
    counts = (ring.counts + num_frames).clamp(max=size)
    return output[:, size:], AttentionRing(kept.contiguous(), counts)


def relative_positions(
    encoder: nn.Module, states: list, frames: Tensor, encoding: nn.Module | None
) -> Tensor | None:
    """The positions that RelPosMHAXL layers need for a chunk and their rings; None without them.

    Arguments
    ---------
    encoder : torch.nn.Module
        One of SpeechBrain's; where its types are mixed it has an encoding of its own.
    states : list
        The mixers' states.
    frames : torch.Tensor
        (B, C, d_model)
    encoding : torch.nn.Module, optional
        SpeechBrain's `RelPosEncXL` of the model.

    Returns
    -------
    torch.Tensor or None
        (1, 2 * (left * C + C) - 1, d_model)
    """
    rings = [state for state in states if isinstance(state, AttentionRing)]
    if not rings:
        return None
    if hasattr(encoder, "relative_positions"):
        encoding = encoder.relative_positions.encoding
    if not isinstance(encoding, RelPosEncXL):
        encoding = RelPosEncXL(frames.shape[2]).to(frames.device)
    size = rings[0].frames.shape[1] + frames.shape[1]
    return encoding.make_pe(size).to(frames.dtype)


def check_chunk_size(chunk_size: int | None) -> None:
    """Refuse to make a ring for chunks whose size was not given."""
    if chunk_size is None:
        raise UserError("chunk_size is None: attention needs it, give the frames of a chunk")
