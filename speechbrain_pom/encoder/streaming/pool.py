"""Streams that join and leave a batch, each with the frames that it would get alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from speechbrain_pom.encoder.streaming.engine import StreamState
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.encoder.streaming.samples import checked_packet
from speechbrain_pom.encoder.streaming.saved import fingerprint, from_tensors, to_tensors
from speechbrain_pom.encoder.streaming.stream import engine_for
from speechbrain_pom.utils.errors import UserError

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder


class StreamPool:
    """Many streams through one encoder, in batches; made by `SpeechEncoder.stream_pool`.

    `step` encodes the next chunk of every stream that has one. A stream gets what it would get
    alone (fp32: 1e-5; the shapes of a batch choose other kernels), whoever joins, waits or leaves.

    Arguments
    ---------
    encoder : SpeechEncoder
        In eval mode.
    chunk_s, left_s, layers, half_life_s
        See `SpeechEncoder.stream`.

    Raises
    ------
    UserError
        If the encoder cannot stream so.

    Example
    -------
    >>> import torch
    >>> pool = getfixture("tiny_encoder").stream_pool(chunk_s=0.32)
    >>> first, second = pool.open(), pool.open()
    >>> pool.accept(first, torch.zeros(6000))
    >>> pool.accept(second, torch.zeros(11000))
    >>> [(key, len(frames)) for key, frames in pool.step()]
    [(0, 8), (1, 8)]
    >>> [(key, len(frames)) for key, frames in pool.step()]
    [(1, 8)]
    >>> pool.finish(first)
    >>> [(key, len(frames)) for key, frames in pool.step()], len(pool)
    ([(0, 2)], 1)
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        chunk_s: float | None = DEFAULT_CHUNK_S,
        left_s: float | None = None,
        layers: Layers | None = None,
        half_life_s: float | None = None,
    ) -> None:
        self.engine = engine_for(encoder, chunk_s, left_s, layers, half_life_s=half_life_s)
        self._streams: dict[int, StreamState] = {}
        self._ending: dict[int, Iterator | None] = {}  # with what is left, once it is asked for
        self._next_key = 0
        self._fingerprint: Tensor | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def __iter__(self) -> Iterator[int]:
        return iter(list(self._streams))

    def __contains__(self, key: object) -> bool:
        return key in self._streams

    def open(self, state: Mapping[str, Tensor] | None = None) -> int:
        """Let a stream join.

        Arguments
        ---------
        state : dict of str to torch.Tensor, optional
            What it goes on from: of a stream or a pool with the same chunks.

        Returns
        -------
        int
            Its key.

        Raises
        ------
        UserError
            If the pool cannot go on from the state.
        """
        own = self.engine.first_state()
        if state is not None:
            own = from_tensors(state, self.engine, self._of_model())
        key, self._next_key = self._next_key, self._next_key + 1
        self._streams[key] = own
        return key

    def accept(self, key: int, packet: Tensor | np.ndarray) -> None:
        """Take samples of a stream; they are encoded by `step`.

        Arguments
        ---------
        key : int
            From `open`.
        packet : torch.Tensor or numpy.ndarray
            As for `EncoderStream.accept`.

        Raises
        ------
        UserError
            For an unknown or finished stream, and a packet that cannot be; no stream changes.
        """
        state = self._get(key)
        if key in self._ending:
            raise UserError(f"stream {key} is finished: it accepts no more samples")
        samples = checked_packet(packet)
        state.waiting.append(samples)
        state.num_samples += len(samples)

    def finish(self, key: int) -> None:
        """Let a stream end as a file would, and leave after the `step` with its last frames."""
        self._get(key)
        self._ending.setdefault(key, None)

    def drop(self, key: int) -> None:
        """Forget a stream at once, with what it still has."""
        self._get(key)
        del self._streams[key]
        self._ending.pop(key, None)

    def reset(self, key: int) -> int:
        """Let the mixers' sums of a stream begin anew: see `EncoderStream.reset`."""
        return self.engine.reset(self._get(key))

    def step(self) -> list[tuple[int, Tensor | list[Tensor]]]:
        """Encode the next chunk of every stream that has one, and the rest of those that end.

        Returns
        -------
        list of (int, torch.Tensor or list of torch.Tensor)
            By key: (T, d_model), for several layers one for each. Empty where all streams wait.
        """
        ready: dict[int, list[int]] = {}
        found = []
        for key, state in list(self._streams.items()):
            if self.engine.is_ready(state):
                ready.setdefault(self.engine.kind(state), []).append(key)
            elif key in self._ending:
                found += self._next_of_rest(key, state)
        for keys in ready.values():
            outputs = self.engine.step([self._streams[key] for key in keys])
            found += zip(keys, outputs, strict=True)
        return sorted(found, key=lambda item: item[0])

    def _next_of_rest(self, key, state):
        """The next chunk of a stream that ends; it leaves with the last one, or if one failed."""
        rest = self._ending[key] = self._ending[key] or iter(self.engine.rest(state))
        found = [(key, frames) for frames in itertools.islice(rest, 1)]
        if not found or not self.engine.num_left(state):
            self.drop(key)
        return found

    def waiting(self) -> bool:
        """Whether the next `step` has anything to do."""
        ready = any(self.engine.is_ready(state) for state in self._streams.values())
        return ready or bool(self._ending)

    def duration_s(self, key: int) -> float:
        """Seconds of a stream that were accepted."""
        return self._get(key).num_samples / self.engine.encoder.sample_rate

    def state(self, key: int) -> dict[str, Tensor]:
        """What a stream can go on from, here or elsewhere: see `EncoderStream.state`."""
        state = self._get(key)
        if self._ending.get(key) is not None:
            raise UserError(f"stream {key} has begun its last frames: it has no state any more")
        return to_tensors(state, self.engine.chunks, self._of_model())

    def _of_model(self):
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.engine)
        return self._fingerprint

    def _get(self, key):
        if key not in self._streams:
            raise UserError(f"the pool has no stream {key!r}: it has {list(self._streams)}")
        return self._streams[key]
