"""One stream: packets of samples in, frames out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.encoder.streaming.engine import ChunkEngine, StreamState
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S, chunks_of
from speechbrain_pom.encoder.streaming.samples import checked_packet
from speechbrain_pom.encoder.streaming.saved import (
    check_chunks,
    chunks_in,
    fingerprint,
    from_tensors,
    to_tensors,
)
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder


def engine_for(
    encoder: SpeechEncoder,
    chunk_s: float | None,
    left_s: float | None,
    layers: Layers | None = None,
    state: Mapping[str, Tensor] | None = None,
    half_life_s: float | None = None,
) -> ChunkEngine:
    """The engine of a stream, with the chunks of a saved state where they are not given."""
    if state is None:
        chunks = chunks_of(encoder, chunk_s or DEFAULT_CHUNK_S, left_s, half_life_s)
        return ChunkEngine(encoder, chunks, layers)
    stored, frame_s = chunks_in(state), encoder.samples_per_frame / encoder.sample_rate
    chunks = chunks_of(encoder, chunk_s or stored.size * frame_s, left_s, half_life_s)
    if left_s is None:
        chunks = chunks._replace(left=stored.left)
    if half_life_s is None:
        chunks = chunks._replace(half_life=stored.half_life)
    check_chunks(state, chunks)
    return ChunkEngine(encoder, chunks, layers)


class EncoderStream:
    """The frames of speech as it arrives; made by `SpeechEncoder.stream`.

    All frames together are those of `encoder(wav, chunks=stream.chunks)`, the masked full pass
    (fp32: 1e-5), and the same to the bit however the samples were split into packets. Between two
    chunks its state has one size, from the first chunk to the last.

    Arguments
    ---------
    encoder : SpeechEncoder
        In eval mode.
    chunk_s, left_s, layers, state, half_life_s
        See `SpeechEncoder.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so, or cannot go on from the state.

    Attributes
    ----------
    engine : ChunkEngine
        What encodes a chunk.
    last_reset : int or None
        Number of the chunk with which `reset` last let the mixers' sums begin anew; None: never.

    Example
    -------
    >>> encoder = getfixture("tiny_encoder")
    >>> stream, wav = encoder.stream(chunk_s=0.32), 0.1 * torch.randn(20000)
    >>> frames = [stream.accept(packet) for packet in wav.split(1600)]
    >>> frames = torch.cat([*frames, stream.finish()])
    >>> masked, _ = encoder(wav.unsqueeze(0), chunks=stream.chunks)
    >>> torch.allclose(frames, masked[0], atol=1e-5), stream.latency_s
    (True, 0.3225)
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        chunk_s: float | None = None,
        left_s: float | None = None,
        layers: Layers | None = None,
        state: Mapping[str, Tensor] | None = None,
        half_life_s: float | None = None,
    ) -> None:
        self.engine = engine_for(encoder, chunk_s, left_s, layers, state, half_life_s)
        self.last_reset: int | None = None
        self._fingerprint: Tensor | None = None
        self._finished = False
        self._state: StreamState = self.engine.first_state()
        if state is not None:
            self._state = from_tensors(state, self.engine, self._of_model())

    @property
    def num_samples(self) -> int:
        """Samples that were accepted."""
        return self._state.num_samples

    @property
    def num_frames(self) -> int:
        """Frames that were returned."""
        return self._state.num_frames

    @property
    def latency_s(self) -> float:
        """Seconds from the start of a frame to the sample with which it is returned, at most."""
        encoder, geometry = self.engine.encoder, self.engine.inputs.geometry
        return geometry.num_samples(self.engine.chunks.size) / encoder.sample_rate

    @property
    def chunks(self) -> ChunkMask:
        """The chunks that `SpeechEncoder.forward` takes for the masked pass, without resets."""
        return self.engine.chunks.mask

    def accept(self, packet: Tensor | np.ndarray) -> Tensor | list[Tensor]:
        """Take samples, and encode the chunks that are complete with them.

        Arguments
        ---------
        packet : torch.Tensor or numpy.ndarray
            (n,) at the encoder's sample rate, any n: floats, or 16-bit integers.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            (T, d_model) of the chunks that were completed, T = 0 where none was; for several layers
            one for each.

        Raises
        ------
        UserError
            For another packet, of which nothing is taken then, and after `finish`.
        """
        return self._together(list(self.accept_chunks(packet)))

    def accept_chunks(self, packet: Tensor | np.ndarray) -> Iterator[Tensor | list[Tensor]]:
        """As `accept`, but chunk by chunk: what follows can then not depend on the packets.

        Arguments
        ---------
        packet : torch.Tensor or numpy.ndarray
            As for `accept`. It is taken when this is called, the chunks are encoded one by one.

        Yields
        ------
        torch.Tensor or list of torch.Tensor
            (C, d_model), for several layers one for each.
        """
        self._check_open("accepts no more samples")
        samples = checked_packet(packet)
        self._state.waiting.append(samples)
        self._state.num_samples += len(samples)
        return self._ready_chunks()

    def _ready_chunks(self):
        while self.engine.is_ready(self._state):
            yield from self.engine.step([self._state])

    def finish(self) -> Tensor | list[Tensor]:
        """Encode the rest, as a file would end: the last chunk may have fewer frames.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            As `accept`.

        Raises
        ------
        UserError
            If it was called before.
        """
        return self._together(list(self.finish_chunks()))

    def finish_chunks(self) -> Iterator[Tensor | list[Tensor]]:
        """As `finish`, but by chunks: at most C + 1 frames, in at most two of them."""
        self._check_open("cannot be finished again")
        self._finished = True
        return iter(self.engine.rest(self._state))

    def reset(self) -> int:
        """Let the mixers' sums begin anew with the next chunk; convolutions and features go on.

        The frames are then those of the masked pass whose `ChunkMask` has these `resets`.

        Returns
        -------
        int
            The number of that chunk.

        Raises
        ------
        UserError
            Where a layer has no sums.

        Example
        -------
        >>> from speechbrain_pom.ops import ChunkMask
        >>> encoder = getfixture("tiny_encoder")
        >>> stream, wav = encoder.stream(chunk_s=0.32), 0.1 * torch.randn(20000)
        >>> first, chunk = stream.accept(wav[:11000]), stream.reset()
        >>> frames = torch.cat([first, stream.accept(wav[11000:]), stream.finish()])
        >>> masked, _ = encoder(wav.unsqueeze(0), chunks=ChunkMask(8, resets=[[chunk]]))
        >>> chunk, torch.allclose(frames, masked[0], atol=1e-5)
        (2, True)
        """
        self.last_reset = self.engine.reset(self._state)
        return self.last_reset

    def state(self) -> dict[str, Tensor]:
        """What another stream of the same model goes on from, to the bit.

        Returns
        -------
        dict of str to torch.Tensor
            On the CPU, as `safetensors.torch.save_file` takes them. For `stream(state=...)`.

        Raises
        ------
        UserError
            After `finish`.
        """
        self._check_open("has no state any more")
        return to_tensors(self._state, self.engine.chunks, self._of_model())

    def _of_model(self):
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.engine)
        return self._fingerprint

    def _check_open(self, what):
        if self._finished:
            raise UserError(f"the stream is finished and {what}: make another by encoder.stream()")

    def _together(self, found):
        """The frames of some chunks as one tensor, or one for each layer."""
        found = found or [self.engine.empty()]
        if isinstance(found[0], list):
            return [torch.cat(parts) for parts in zip(*found, strict=True)]
        return torch.cat(found)
