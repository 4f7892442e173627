"""One recognised stream: packets of samples in, events out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.encoder.streaming.pool import StreamPool
from speechbrain_pom.encoder.streaming.stream import EncoderStream
from speechbrain_pom.inference.segments import Clock
from speechbrain_pom.inference.streaming.decoder import EventDecoder
from speechbrain_pom.inference.streaming.events import Event
from speechbrain_pom.inference.streaming.options import (
    HEAD,
    TextOptions,
    head_fingerprint,
    lengths_for,
)

if TYPE_CHECKING:  # the recogniser stands on this module
    from speechbrain_pom.inference.recogniser import SpeechRecogniser


def decoder_for(
    stream: EncoderStream | StreamPool,
    recogniser: SpeechRecogniser,
    options: TextOptions,
    state: Mapping[str, Tensor] | None = None,
) -> EventDecoder:
    """The decoder of a stream, with what a saved state has in place of what is not given."""
    encoder = recogniser.encoder
    clock = Clock(encoder.samples_per_frame / encoder.sample_rate, encoder.hop_ms / 2000, 0.0)
    pause, longest, commit, resets = lengths_for(recogniser, options, clock.frame_s, state)
    if resets:
        stream.engine.check_resets()
    decoder = EventDecoder(recogniser.units, clock, pause, longest, options.decode, commit, resets)
    if state is not None:
        decoder.resume(state)
    return decoder


class RecognitionStream:
    """What is said, as it is said; made by `SpeechRecogniser.stream`.

    The texts of its finals are those of `transcribe` on the outputs of the masked full pass
    `recogniser(wavs, chunks=stream.frames.chunks)`, and the events are the same however the samples
    were split into packets.

    Arguments
    ---------
    recogniser : SpeechRecogniser
        In eval mode.
    chunk_s, left_s, pause_s, max_segment_s, decode, state, half_life_s, reset_at_pauses, commit_s
        See `SpeechRecogniser.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so, or cannot go on from the state.

    Attributes
    ----------
    frames : EncoderStream
        The encoder's part, with `chunks` and `last_reset`.

    Example
    -------
    >>> stream = getfixture("tiny_recogniser").stream(chunk_s=0.64)
    >>> events = stream.accept(torch.randn(9000))
    >>> round(stream.duration_s, 2), round(stream.latency_s, 4)
    (0.56, 0.6425)
    """

    def __init__(
        self,
        recogniser: SpeechRecogniser,
        chunk_s: float | None = None,
        left_s: float | None = None,
        pause_s: float | None = None,
        max_segment_s: float | None = None,
        decode: Callable[[Tensor, Tensor], list[str]] | None = None,
        state: Mapping[str, Tensor] | None = None,
        half_life_s: float | None = None,
        reset_at_pauses: bool | None = None,
        commit_s: float | None = None,
    ) -> None:
        self.recogniser = recogniser
        self.frames = EncoderStream(
            recogniser.encoder, chunk_s, left_s, state=state, half_life_s=half_life_s
        )
        options = TextOptions(pause_s, max_segment_s, decode, reset_at_pauses, commit_s)
        self._decoder = decoder_for(self.frames, recogniser, options, state)

    @property
    def duration_s(self) -> float:
        """Seconds that were accepted."""
        return self.frames.num_samples / self.recogniser.encoder.sample_rate

    @property
    def latency_s(self) -> float:
        """Seconds from the start of a frame to its output, at most: see `EncoderStream`."""
        return self.frames.latency_s

    def accept(self, packet: Tensor | np.ndarray) -> list[Event]:
        """Take samples.

        Arguments
        ---------
        packet : torch.Tensor or numpy.ndarray
            (n,) at the encoder's sample rate, any n: floats, or 16-bit integers.

        Returns
        -------
        list of Partial or Final
            In order; none where no chunk was completed, or where nothing new was said in it.

        Raises
        ------
        UserError
            For another packet, of which nothing is taken then; after `finish`; and if the outputs
            are NaN.
        """
        return self._events(self.frames.accept_chunks(packet))

    def finish(self) -> list[Event]:
        """End the stream as a file would end: the finals that remain."""
        events = self._events(self.frames.finish_chunks())
        return events + self._decoder.finish(self.duration_s)

    def state(self) -> dict[str, Tensor]:
        """What another stream of the same model goes on from.

        Returns
        -------
        dict of str to torch.Tensor
            On the CPU, as `safetensors.torch.save_file` takes them: the encoder's, and the outputs
            of the open segment.

        Raises
        ------
        UserError
            After `finish`.
        """
        head = {HEAD: head_fingerprint(self.recogniser)}
        return {**self.frames.state(), **self._decoder.state(), **head}

    def _events(self, chunks):
        events = []
        for frames in chunks:
            log_probs = classified(self.recogniser, frames)
            events += self._decoder.add(log_probs, self.duration_s)
            if self._decoder.wants_reset:
                self.frames.reset()  # from the next chunk on, whatever the packets
        return events


@torch.no_grad()
def classified(recogniser: SpeechRecogniser, frames: Tensor) -> Tensor:
    """Log-probabilities (C, num_outputs) of a chunk's frames (C, d_model)."""
    return recogniser.classify(frames.unsqueeze(0))[0]
