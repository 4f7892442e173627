"""SpeechBrain's own streaming, on the states of `streaming.py`.

Its `make_streaming_context`, `forward_streaming` and `encode_streaming` keep the left frames of
each layer, and know no unlimited left context; sines begin anew in every chunk. For specs that are
not one built-in type the context holds the states of the layers in place of their frames, and the
number of frames so far. Built-in types, and mixers that know no steps, stream as ever.
"""

import functools
from collections.abc import Callable
from typing import Any

from speechbrain.nnet.hypermixing import HyperMixing
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import Tensor, nn

from speechbrain_pom.attention.layers import mixer_of
from speechbrain_pom.attention.positions import NoPositions, positions_between
from speechbrain_pom.attention.registry import is_builtin
from speechbrain_pom.attention.streaming import (
    LayerState,
    encoder_step,
    first_states,
    obstacle_to_steps,
)
from speechbrain_pom.utils.errors import UserError

_NOTHING_ADDED = ("RelPosMHAXL", "RoPEMHA", "hypermixing")  # to the input of the first layer


class ChunkContext:
    """In place of SpeechBrain's context of a `ConformerEncoder`: the states of its layers.

    Arguments
    ---------
    config : DynChunkTrainConfig
        Frames of a chunk, and chunks of left context (None: all).

    Attributes
    ----------
    states : list of LayerState, or None
        Before the first chunk, whose batch size is not known yet, None.
    num_frames : int
        Frames so far.
    """

    def __init__(self, config: DynChunkTrainConfig) -> None:
        self.dynchunktrain_config = config
        self.states: list[LayerState] | None = None
        self.num_frames = 0

    def check_length(self, num_frames: int) -> None:
        """Refuse what is not the next chunk: a call is a chunk, and only the last is shorter."""
        size = self.dynchunktrain_config.chunk_size
        if self.num_frames % size or num_frames > size:
            found = self.num_frames % size or num_frames
            raise UserError(
                f"a chunk of {found} frames where chunks have {size}: a call is a chunk, and only "
                "the last one may be shorter"
            )


def obstacle_to_streaming(transformer: nn.Module) -> str | None:
    """Why a TransformerASR can stream in no chunks at all; None if it can, as far as is known.

    Arguments
    ---------
    transformer : torch.nn.Module

    Returns
    -------
    str or None
        One line.
    """
    if is_builtin(transformer.attention_type):
        return None
    reasons = [obstacle_to_steps(transformer.encoder, left) for left in (None, 1)]
    positions = getattr(transformer, "positional_encoding", None)
    by_left_frames = isinstance(positions, NoPositions) and _left_frames_do(transformer.encoder)
    return reasons[0] if all(reasons) and not by_left_frames else None


def _left_frames_do(encoder):
    """Whether SpeechBrain's way, which mixes the left frames again, gives what the masks give."""
    if hasattr(encoder, "relative_positions") or not hasattr(encoder, "forward_streaming"):
        return False
    mixers = [mixer_of(layer) for layer in encoder.layers]
    return all(
        getattr(mixer, "can_stream", True) and not isinstance(mixer, HyperMixing)
        for mixer in mixers
    )


def context_of_states(original: Callable) -> Callable:
    """ConformerEncoder.make_streaming_context: states, where the layers know steps."""

    @functools.wraps(original)
    def make_streaming_context(self: nn.Module, dynchunktrain_config: DynChunkTrainConfig) -> Any:
        if is_builtin(self.attention_type):
            return original(self, dynchunktrain_config)
        left = dynchunktrain_config.left_context_size
        obstacle = obstacle_to_steps(self, left)
        if obstacle is None:
            return ChunkContext(dynchunktrain_config)
        if left is None or not _left_frames_do(self):
            raise UserError(obstacle)
        return original(self, dynchunktrain_config)

    return make_streaming_context


def chunk_by_states(original: Callable) -> Callable:
    """ConformerEncoder.forward_streaming: a step, where the context holds states."""

    @functools.wraps(original)
    def forward_streaming(
        self: nn.Module, src: Tensor, context: Any, pos_embs: Tensor | None = None
    ) -> tuple[Tensor, list]:
        if not isinstance(context, ChunkContext):
            return original(self, src, context, pos_embs)
        context.check_length(src.shape[1])
        if context.states is None:
            config = context.dynchunktrain_config
            chunks = config.left_context_size, config.chunk_size
            context.states = first_states(self, src.shape[0], *chunks)
        output, _, context.states = encoder_step(self, src, context.states)
        context.num_frames += src.shape[1]
        return output, [None] * len(self.layers)

    return forward_streaming


def streaming_with_positions(original: Callable) -> Callable:
    """TransformerASR.encode_streaming: sines go on from the chunk before."""

    @functools.wraps(original)
    def encode_streaming(self: nn.Module, src: Tensor, context: Any) -> Tensor:
        inner = context.encoder_context
        if not isinstance(inner, ChunkContext):
            _check_left_frames(self)
            return original(self, src, context)
        inner.check_length(src.shape[1])  # before its positions
        frames = self.custom_src_module(src.flatten(2))
        if self.attention_type not in _NOTHING_ADDED:
            start = inner.num_frames
            place = start, start + frames.shape[1]
            frames = frames + positions_between(self.positional_encoding, *place, frames)
        encoded, _ = self.encoder.forward_streaming(src=frames, context=inner)
        return encoded

    return encode_streaming


def _check_left_frames(transformer):
    kind = transformer.attention_type
    if kind == "hypermixing":
        raise UserError(
            "hypermixing cannot stream: it mixes all frames; choose another attention_type"
        )
    positions = getattr(transformer, "positional_encoding", None)
    if not is_builtin(kind) and not isinstance(positions, NoPositions):
        raise UserError(
            f"attention_type {kind!r} cannot stream with sine positions (SpeechBrain begins them "
            "anew in every chunk): give its mixers first_state and step, or train with "
            "positional_encoding: null"
        )
