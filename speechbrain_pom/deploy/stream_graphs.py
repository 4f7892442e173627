"""One step of a stream as a module of tensors: a chunk and a state in, frames and a state out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from speechbrain_pom.deploy.graphs import (
    NEXT,
    Axis,
    Model,
    Run,
    difference,
    encoder_of,
    facts_of,
    noise,
    output_name,
    spec_of,
)
from speechbrain_pom.encoder.streaming.engine import ChunkEngine
from speechbrain_pom.encoder.streaming.geometry import chunks_of
from speechbrain_pom.encoder.streaming.saved import named_tensors
from speechbrain_pom.inference.recogniser import SpeechRecogniser, classify
from speechbrain_pom.utils.errors import UserError


class StreamGraph(nn.Module):
    """The next chunk of a batch of streams, each of which may have begun at another time.

    A step reads a window of `window` samples, which moves on by `hop` from step to step. Before the
    first sample of a stream stand `before` zeros. All of a new stream's state is zeros.

    Arguments
    ---------
    model : SpeechEncoder or SpeechRecogniser
        In eval mode, in fp32 on the CPU.
    chunk_s, left_s : float
        As for `SpeechEncoder.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so, or as `encoder_of`.

    Example
    -------
    >>> graph = StreamGraph(getfixture("tiny_encoder"), chunk_s=0.32, left_s=None)
    >>> heard = torch.cat([torch.zeros(1, graph.before), torch.randn(1, 16000)], dim=1)
    >>> frames, *state = graph(heard[:, : graph.window], *graph.first_state(1))
    >>> frames.shape, state[0]
    (torch.Size([1, 8, 16]), tensor([8]))
    """

    def __init__(self, model: Model, chunk_s: float, left_s: float | None) -> None:
        super().__init__()
        encoder = encoder_of(model)
        self.model, self.chunk_s, self.left_s = model, chunk_s, left_s
        self.mixers = spec_of(encoder)
        self.engine = ChunkEngine(encoder, chunks_of(encoder, chunk_s, left_s))
        geometry, size = self.engine.inputs.geometry, self.engine.chunks.size
        if size < geometry.context:
            raise UserError(
                f"chunk_s is {chunk_s}: the front end looks back {geometry.context} frames, which "
                "have to fit into a chunk of an exported stream"
            )
        # The front end needs some features beyond those of a chunk. They are in the window of the
        # chunk, and for the next one in the state.
        ahead = geometry.after + 1 - geometry.stride
        self._late, self._early = geometry.hop * max(ahead, 0), geometry.hop * max(-ahead, 0)
        self.hop = geometry.hop * geometry.stride * size
        self.window = self.hop - geometry.hop + geometry.n_fft + self._late
        self.before = geometry.n_fft // 2 + self._early
        first = self.engine.first_state()
        _, self._inputs = self._frames(torch.zeros(1, self.window), None)
        self._layers = first.layers
        self._describe(model, encoder)

    def _describe(self, model, encoder):
        batch = {0: "batch"}
        names = ["num_frames", *(name for name, _ in self._state_tensors())]
        self.inputs = [Axis("samples", batch), *(Axis(name, batch) for name in names)]
        self.outputs = [Axis(output_name(model), batch)]
        self.outputs += [Axis(f"{NEXT}{name}", batch) for name in names]
        self.facts = facts_of(model, encoder) | {
            "window_samples": str(self.window),
            "hop_samples": str(self.hop),
            "zeros_before": str(self.before),
            "chunk_s": f"{self.chunk_s:g}",
            "left_s": "all" if self.left_s is None else f"{self.left_s:g}",
        }

    def _state_tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from named_tensors(self._inputs, "inputs")
        for number, layer in enumerate(self._layers):
            yield from named_tensors(layer, f"layers.{number}")

    def first_state(self, batch_size: int) -> list[Tensor]:
        """The state of streams before their first chunk: zeros."""
        tensors = [one for _, one in self._state_tensors()]
        shapes = [torch.zeros(1, dtype=torch.int64), *tensors]
        return [one.new_zeros(batch_size, *one.shape[1:]) for one in shapes]

    def forward(self, samples: Tensor, num_frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Encode the next chunk.

        Arguments
        ---------
        samples : torch.Tensor
            (B, window) fp32.
        num_frames : torch.Tensor
            (B,) int64: frames of each stream so far, 0 for a new one.
        *state : torch.Tensor
            The rest of the state, batch first.

        Returns
        -------
        tuple of torch.Tensor
            (B, C, d_model) frames or (B, C, outputs) log-probabilities, then the next state.
        """
        tensors = iter(state)
        inputs = refilled(self._inputs, tensors)
        layers = [refilled(layer, tensors) for layer in self._layers]
        frames, inputs = self._begun_or_going(samples, num_frames == 0, inputs)
        output, layers = self.engine.encode(frames, num_frames, layers)
        if isinstance(self.model, SpeechRecogniser):
            output = classify(self.model.head, output)
        after = [part for one in (inputs, *layers) for _, part in named_tensors(one, "")]
        return output, num_frames + frames.shape[1], *after

    def _begun_or_going(self, samples, is_new, inputs):
        """The front end's frames, and its next state: at its start a file is reflected."""
        pairs = zip(self._frames(samples, None), self._frames(samples, inputs), strict=True)
        (new, going), states = pairs
        return _chosen(is_new, new, going), type(inputs)(
            *(_chosen(is_new, *parts) for parts in zip(*states, strict=True))
        )

    def _frames(self, samples, state):
        source, size = self.engine.inputs, self.engine.chunks.size
        if state is None:
            samples = samples[:, self._early : self.window]
            return source.frames(samples, source.first_state(samples.shape[0]), 0, size)
        samples = samples[:, self._late : self.window]
        return source.frames(samples, state, source.geometry.context, size)

    def examples(self) -> tuple[Tensor, ...]:
        """Inputs to trace it with."""
        return noise(3, self.window), *self.first_state(3)

    @torch.no_grad()
    def disagreement(self, run: Run) -> float:
        """How far another implementation is from `SpeechEncoder.stream`.

        Three streams run, the second alone, and in a batch with the others, which begin one after
        the other: over so many chunks that the left context is full.
        """
        left = self.engine.chunks.left or 0
        num_chunks = 2 * left + 8
        length = self.window - self.before + (num_chunks - 1) * self.hop
        wavs = [10.0 ** -(row / 2) * noise(length, seed=row) for row in range(3)]
        expected = [self._by_stream(wav) for wav in wavs]
        alone = self._by_steps(run, wavs[1:2], [0], num_chunks)
        batch = self._by_steps(run, wavs, [0, 1, 3 + left], num_chunks)
        found = zip([*alone, *batch], [expected[1], *expected], strict=True)
        return max(difference(one, wanted[: len(one)]) for one, wanted in found)

    def _by_stream(self, wav):
        encoder = self.engine.encoder
        frames = encoder.stream(self.chunk_s, self.left_s).accept(wav)
        tuned = isinstance(self.model, SpeechRecogniser)
        return self.model.classify(frames.unsqueeze(0))[0] if tuned else frames

    def _by_steps(self, run, wavs, starts, num_chunks):
        """The output of streams in one batch, of which each begins with a step of its own."""
        first, outputs = [one.numpy() for one in self.first_state(len(wavs))], [[] for _ in wavs]
        heard = [np.concatenate([np.zeros(self.before, np.float32), wav.numpy()]) for wav in wavs]
        state = first
        for step in range(num_chunks):
            samples = []
            for row, start in enumerate(starts):
                if step == start:  # it begins: whatever was there before goes
                    state = [np.copy(one) for one in state]
                    for one in state:
                        one[row] = 0
                place = max(step - start, 0) * self.hop
                samples.append(heard[row][place : place + self.window])
            output, *state = run([np.stack(samples), *state])
            for row, start in enumerate(starts):
                if step >= start:
                    outputs[row].append(output[row])
        return [np.concatenate(chunks) for chunks in outputs]


def refilled(state: tuple, tensors: Iterator[Tensor]) -> tuple:
    """A nested NamedTuple of tensors with the next ones of an iterator in their places.

    >>> from speechbrain_pom.encoder.streaming.inputs import InputState
    >>> refilled(InputState(None, None), iter([torch.ones(1), torch.zeros(1)])).peak
    tensor([0.])
    """
    return type(state)(
        *(refilled(part, tensors) if isinstance(part, tuple) else next(tensors) for part in state)
    )


def _chosen(rows, one, other):
    """Rows (B,) of one tensor, and those of the other elsewhere."""
    return torch.where(rows.view(-1, *[1] * (one.dim() - 1)), one, other)
