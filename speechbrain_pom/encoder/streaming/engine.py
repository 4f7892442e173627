"""The next chunk of one stream or of several, from samples to frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from speechbrain_pom.attention.streaming import (
    LayerState,
    emptied_sums,
    encoder_step,
    first_states,
    obstacle_to_fading,
)
from speechbrain_pom.encoder.streaming.geometry import Chunks
from speechbrain_pom.encoder.streaming.inputs import InputState, StreamInputs, obstacle_to_stream
from speechbrain_pom.encoder.streaming.samples import Waiting
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder


@dataclass
class StreamState:
    """All that one stream has, between two chunks.

    Arguments
    ---------
    waiting : Waiting
        Its samples from the first one on that a later feature frame needs.
    inputs : InputState
        Of the features and the front end.
    layers : list of LayerState
        Of the encoder's layers.
    num_samples, num_frames : int
        Samples taken, and frames given.
    """

    waiting: Waiting
    inputs: InputState
    layers: list[LayerState]
    num_samples: int = 0
    num_frames: int = 0


class ChunkEngine:
    """Encodes streams chunk by chunk.

    Chunks are encoded when they are complete, and alone: shapes, and so bits, do not depend on the
    packets in which the samples came. All is computed without gradients, and not in PyTorch's
    inference mode: what modules store in a call (tables of positions) may be used in training.

    Arguments
    ---------
    encoder : SpeechEncoder
        In eval mode.
    chunks : Chunks
    layers : str, int or sequence of int, optional
        As for `SpeechEncoder.forward`.

    Raises
    ------
    UserError
        If the encoder cannot stream so.
    """

    def __init__(
        self, encoder: SpeechEncoder, chunks: Chunks, layers: Layers | None = None
    ) -> None:
        if encoder.training:
            raise UserError("the encoder is in training mode: call encoder.eval() before streams")
        obstacle = obstacle_to_stream(encoder, chunks.left)
        if chunks.half_life is not None:
            obstacle = obstacle or obstacle_to_fading(encoder.transformer.encoder)
        if obstacle:
            raise UserError(obstacle)
        self.encoder, self.chunks = encoder, chunks
        self.layers = encoder.layers if layers is None else encoder.check_layers(layers)
        self.inputs = StreamInputs(encoder)

    def first_state(self) -> StreamState:
        """A stream before its first sample."""
        encoder, chunks = self.encoder.transformer.encoder, self.chunks
        layers = first_states(encoder, 1, chunks.left, chunks.size, chunks.half_life)
        return StreamState(Waiting(self.inputs.first_samples()), self.inputs.first_state(1), layers)

    def is_ready(self, state: StreamState) -> bool:
        """Whether a stream's next chunk is complete."""
        return state.num_samples >= self._needed(state)

    def _needed(self, state):
        return self.inputs.geometry.num_samples(state.num_frames + self.chunks.size)

    def kind(self, state: StreamState) -> int:
        """Streams of one kind can be encoded in one batch: all but those at their start."""
        return min(state.num_frames, max(self.inputs.geometry.context, 1))

    @torch.no_grad()
    def step(self, states: Sequence[StreamState]) -> list:
        """Encode the next chunk of streams of one kind, whose chunk is complete; in place.

        Where it fails (memory, say), no state has changed.

        Arguments
        ---------
        states : sequence of StreamState

        Returns
        -------
        list of torch.Tensor, or of lists of torch.Tensor
            Of each stream (C, d_model), for several layers one for each.
        """
        first, size = states[0], self.chunks.size
        start = self.inputs.geometry.first_sample(first.num_frames)
        count = self._needed(first) - start
        samples = torch.stack([state.waiting.first(count) for state in states])
        inputs = joined([state.inputs for state in states])
        frames, inputs = self.inputs.frames(samples, inputs, first.num_frames, size)
        next_start = self.inputs.geometry.first_sample(first.num_frames + size)
        outputs = self._encode(frames, states)
        for state, own in zip(states, parted(inputs, len(states)), strict=True):
            state.waiting.drop(next_start - start)
            state.inputs = own
        return outputs

    @torch.no_grad()
    def rest(self, state: StreamState) -> Iterator:
        """Encode what is left of a stream that has ended, chunk by chunk; in place.

        Arguments
        ---------
        state : StreamState
            Of which no chunk is complete.

        Yields
        ------
        torch.Tensor or list of torch.Tensor
            (n, d_model): of at most C + 1 frames in all.
        """
        left = self.num_left(state)
        if left <= 0:
            return
        state.waiting.append(self.inputs.first_samples())  # the zeros of the STFT at the end
        samples = state.waiting.all().unsqueeze(0)
        frames, _ = self.inputs.frames(samples, state.inputs, state.num_frames, left)
        for chunk in frames.split(self.chunks.size, dim=1):
            yield from self._encode(chunk, [state])

    def num_left(self, state: StreamState) -> int:
        """Frames that a stream still has if it ends here."""
        total = self.encoder.num_frames(state.num_samples) if state.num_samples else 0
        return max(0, total - state.num_frames)

    def check_resets(self) -> None:
        """Refuse to let sums begin anew where a layer has none."""
        obstacle = obstacle_to_fading(self.encoder.transformer.encoder)
        if obstacle:
            raise UserError(obstacle)

    def reset(self, state: StreamState) -> int:
        """Let the mixers' sums of a stream begin anew with its next chunk; the chunk's number."""
        self.check_resets()
        state.layers = emptied_sums(state.layers)
        return -(-state.num_frames // self.chunks.size)

    def _encode(self, frames, states):
        """The encoder's layers on a chunk (B, C, ...) of the front end's frames."""
        before = [joined(rows) for rows in zip(*(state.layers for state in states), strict=True)]
        chosen, after = self.encode(frames, [state.num_frames for state in states], before)
        own = [parted(layer, len(states)) for layer in after]
        for row, state in enumerate(states):
            state.layers = [layer[row] for layer in own]
            state.num_frames += frames.shape[1]
        if isinstance(chosen, list):
            return [[one[row] for one in chosen] for row in range(len(states))]
        return list(chosen)

    def encode(
        self, frames: Tensor, starts: Sequence[int] | Tensor, layers: Sequence[LayerState]
    ) -> tuple[Tensor | list[Tensor], list[LayerState]]:
        """The encoder's layers on the next chunk of a batch of streams.

        Arguments
        ---------
        frames : torch.Tensor
            (B, C, ...), of the front end.
        starts : sequence of int, or torch.Tensor
            (B,): frames of each stream before these.
        layers : sequence of LayerState
            Of the batch; never changed in place.

        Returns
        -------
        frames : torch.Tensor or list of torch.Tensor
            (B, C, d_model), for several layers one for each.
        layers : list of LayerState
            For the next chunk.
        """
        encoder, transformer = self.encoder, self.encoder.transformer
        frames = self.inputs.embed(frames, starts)
        encoding = getattr(transformer, "positional_encoding", None)
        output, hidden, after = encoder_step(transformer.encoder, frames, layers, encoding)
        return output if self.layers == "last" else encoder.choose(hidden, self.layers), after

    def empty(self) -> Tensor | list[Tensor]:
        """No frames: (0, d_model), for several layers one for each."""
        encoder = self.encoder
        none = torch.empty(0, encoder.d_model, dtype=encoder.dtype, device=encoder.device)
        return [none for _ in self.layers] if isinstance(self.layers, list) else none


def joined(states: Sequence[NamedTuple]) -> NamedTuple:
    """The states of several streams as one of a batch; a single one as it is.

    >>> joined([InputState(torch.zeros(1, 4, 8), torch.zeros(1, 1, 1))] * 2).features.shape
    torch.Size([2, 4, 8])
    """
    if len(states) == 1:
        return states[0]
    parts = zip(*states, strict=True)
    return type(states[0])(
        *(torch.cat(part) if isinstance(part[0], Tensor) else joined(part) for part in parts)
    )


def parted(state: NamedTuple, count: int) -> list:
    """The states of a batch of streams, each with tensors of its own.

    >>> batch = InputState(torch.zeros(2, 4, 8), torch.zeros(2, 1, 1))
    >>> [state.features.shape for state in parted(batch, 2)]
    [torch.Size([1, 4, 8]), torch.Size([1, 4, 8])]
    """
    if count == 1:
        return [state]
    parts = [
        [row.clone() for row in part.split(1)] if isinstance(part, Tensor) else parted(part, count)
        for part in state
    ]
    return [type(state)(*rows) for rows in zip(*parts, strict=True)]
