"""Recognised streams that join and leave a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.encoder.streaming.pool import StreamPool
from speechbrain_pom.inference.streaming.decoder import EventDecoder
from speechbrain_pom.inference.streaming.events import Event
from speechbrain_pom.inference.streaming.options import HEAD, TextOptions, head_fingerprint
from speechbrain_pom.inference.streaming.stream import classified, decoder_for

if TYPE_CHECKING:  # the recogniser stands on this module
    from speechbrain_pom.inference.recogniser import SpeechRecogniser


class RecognitionPool:
    """Many recognised streams, in batches; made by `SpeechRecogniser.stream_pool`.

    Arguments
    ---------
    recogniser : SpeechRecogniser
        In eval mode.
    chunk_s, left_s, pause_s, max_segment_s, decode, half_life_s, reset_at_pauses, commit_s
        See `SpeechRecogniser.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so.

    Example
    -------
    >>> import torch
    >>> pool = getfixture("tiny_recogniser").stream_pool(chunk_s=0.32)
    >>> key = pool.open()
    >>> pool.accept(key, torch.randn(6000))
    >>> pool.finish(key)
    >>> events = pool.step() + pool.step()
    >>> {key for key, _ in events} <= {0}, len(pool)
    (True, 0)
    """

    def __init__(
        self,
        recogniser: SpeechRecogniser,
        chunk_s: float = DEFAULT_CHUNK_S,
        left_s: float | None = None,
        pause_s: float | None = None,
        max_segment_s: float | None = None,
        decode: Callable[[Tensor, Tensor], list[str]] | None = None,
        half_life_s: float | None = None,
        reset_at_pauses: bool | None = None,
        commit_s: float | None = None,
    ) -> None:
        self.recogniser = recogniser
        self._pool = StreamPool(recogniser.encoder, chunk_s, left_s, half_life_s=half_life_s)
        self._options = TextOptions(pause_s, max_segment_s, decode, reset_at_pauses, commit_s)
        self._decoders: dict[int, EventDecoder] = {}
        self._durations: dict[int, float] = {}
        decoder_for(self._pool, recogniser, self._options)  # refuses options that cannot be

    def __len__(self) -> int:
        return len(self._pool)

    def __iter__(self) -> Iterator[int]:
        return iter(self._pool)

    def __contains__(self, key: object) -> bool:
        return key in self._pool

    def open(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Let a stream join; see `StreamPool.open`."""
        decoder = decoder_for(self._pool, self.recogniser, self._options, state)
        key = self._pool.open(state)
        self._decoders[key] = decoder
        self._durations[key] = self._pool.duration_s(key)
        return key

    def accept(self, key: int, packet: Tensor | np.ndarray) -> None:
        """Take samples of a stream; see `StreamPool.accept`."""
        self._pool.accept(key, packet)
        self._durations[key] = self._pool.duration_s(key)

    def finish(self, key: int) -> None:
        """Let a stream end as a file would, and leave after the `step` with its last events."""
        self._pool.finish(key)

    def drop(self, key: int) -> None:
        """Forget a stream at once."""
        self._pool.drop(key)
        del self._decoders[key], self._durations[key]

    def step(self) -> list[tuple[int, Event]]:
        """Recognise the next chunk of every stream that has one, and end those that finish.

        Returns
        -------
        list of (int, Partial or Final)
            By key. It may be empty though chunks are left: go on while `waiting()`.

        Raises
        ------
        UserError
            If the outputs are NaN.
        """
        events = []
        for key, frames in self._pool.step():
            log_probs = classified(self.recogniser, frames)
            found = self._decoders[key].add(log_probs, self._durations[key])
            events += [(key, event) for event in found]
            if self._decoders[key].wants_reset and key in self._pool:
                self._pool.reset(key)
        for key in [key for key in self._decoders if key not in self._pool]:
            found = self._decoders.pop(key).finish(self._durations.pop(key))
            events += [(key, event) for event in found]
        return sorted(events, key=lambda item: item[0])

    def waiting(self) -> bool:
        """Whether the next `step` has anything to do."""
        return self._pool.waiting()

    def state(self, key: int) -> dict[str, Tensor]:
        """What a stream can go on from: see `RecognitionStream.state`."""
        head = {HEAD: head_fingerprint(self.recogniser)}
        return {**self._pool.state(key), **self._decoders[key].state(), **head}
