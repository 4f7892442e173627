"""One recognised stream: packets of samples in, events out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.encoder.streaming.stream import EncoderStream
from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.inference.segments import Clock
from speechbrain_pom.inference.streaming.decoder import EventDecoder
from speechbrain_pom.inference.streaming.events import Event
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the recogniser stands on this module
    from speechbrain_pom.inference.recogniser import SpeechRecogniser

DEFAULT_PAUSE_S = 0.6
DEFAULT_MAX_SEGMENT_S = 30.0
_OPTIONS = "text.options"
_HEAD = "text.head"


def decoder_for(
    recogniser: SpeechRecogniser,
    pause_s: float | None,
    max_segment_s: float | None,
    decode: Callable[[Tensor, Tensor], list[str]] | None,
    state: Mapping[str, Tensor] | None = None,
) -> EventDecoder:
    """The decoder of a stream, with the segments of a saved state where they are not given."""
    encoder = recogniser.encoder
    clock = Clock(encoder.samples_per_frame / encoder.sample_rate, encoder.hop_ms / 2000, 0.0)
    stored = None if state is None else _stored(recogniser, state)
    lengths = []
    defaults = {"pause_s": DEFAULT_PAUSE_S, "max_segment_s": DEFAULT_MAX_SEGMENT_S}
    given = {"pause_s": pause_s, "max_segment_s": max_segment_s}
    for place, (name, default) in enumerate(defaults.items()):
        seconds = default if given[name] is None else given[name]
        if not (isinstance(seconds, (int, float)) and 0 < seconds < math.inf):
            raise UserError(f"{name} is {seconds!r}: give seconds, more than 0")
        frames = max(1, round(seconds / clock.frame_s))
        if stored is not None and given[name] is not None and stored[place] != frames:
            raise UserError(
                f"{name} is {seconds:g}, and the state is of a stream with "
                f"{stored[place] * clock.frame_s:g}: leave it out to go on as it was"
            )
        lengths.append(frames if stored is None else stored[place])
    decoder = EventDecoder(recogniser.units, clock, *lengths, decode)
    if state is not None:
        decoder.resume(state)
    return decoder


def _stored(recogniser, state):
    options, head = state.get(_OPTIONS), state.get(_HEAD)
    if options is None or options.shape != (2,) or head is None:
        raise UserError(
            "the state is not one of a recognised stream: give what recogniser.stream().state() "
            "returned"
        )
    if not torch.equal(head, head_fingerprint(recogniser)):
        raise UserError("the state is of another model: its head or its units are others")
    return options.tolist()


def head_fingerprint(recogniser: SpeechRecogniser) -> Tensor:
    """What a state must share with a recogniser besides its encoder: (32,) bytes."""
    facts = f"{hash_of_tensors(recogniser.head)} {recogniser.units.vocab_list}"
    return torch.tensor(list(hashlib.sha256(facts.encode()).digest()), dtype=torch.uint8)


class RecognitionStream:
    """What is said, as it is said; made by `SpeechRecogniser.stream`.

    The texts of its finals are those of `transcribe` on the outputs of the masked full pass
    `recogniser(wavs, chunks=(C, left))`, and the events are the same however the samples were split
    into packets.

    Arguments
    ---------
    recogniser : SpeechRecogniser
        In eval mode.
    chunk_s, left_s, pause_s, max_segment_s, decode, state
        See `SpeechRecogniser.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so, or cannot go on from the state.

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
    ) -> None:
        self.recogniser = recogniser
        self.frames = EncoderStream(recogniser.encoder, chunk_s, left_s, state=state)
        self._decoder = decoder_for(recogniser, pause_s, max_segment_s, decode, state)

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
        head = {_HEAD: head_fingerprint(self.recogniser)}
        return {**self.frames.state(), **self._decoder.state(), **head}

    def _events(self, chunks):
        events = []
        for frames in chunks:
            log_probs = classified(self.recogniser, frames)
            events += self._decoder.add(log_probs, self.duration_s)
        return events


@torch.no_grad()
def classified(recogniser: SpeechRecogniser, frames: Tensor) -> Tensor:
    """Log-probabilities (C, num_outputs) of a chunk's frames (C, d_model)."""
    return recogniser.classify(frames.unsqueeze(0))[0]
