"""The methods of a `SpeechRecogniser` that are about streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.inference.streaming.pool import RecognitionPool
from speechbrain_pom.inference.streaming.stream import RecognitionStream

Decode = Callable[[Tensor, Tensor], list[str]]


class RecognitionStreams:
    """Mixin for `SpeechRecogniser`: `stream` and `stream_pool`."""

    def stream(
        self,
        chunk_s: float | None = None,
        left_s: float | None = None,
        pause_s: float | None = None,
        max_segment_s: float | None = None,
        decode: Decode | None = None,
        state: Mapping[str, Tensor] | None = None,
        half_life_s: float | None = None,
        reset_at_pauses: bool | None = None,
        commit_s: float | None = None,
    ) -> RecognitionStream:
        """Recognise speech as it arrives.

        Arguments
        ---------
        chunk_s, left_s, half_life_s : float, optional
            As for `SpeechEncoder.stream`.
        pause_s : float, optional
            Pauses of at least this length separate segments: 0.6 by default, or as in the state.
        max_segment_s : float, optional
            Longer segments are cut: 30 by default, or as in the state.
        decode : callable, optional
            From `make_beam_searcher` of `speechbrain_pom.ctc.decoding`; greedy by default.
        state : dict of str to torch.Tensor, optional
            What the stream goes on from: from the `state()` of another.
        reset_at_pauses : bool, optional
            When a segment ends at a pause, the mixers' sums begin anew with the next chunk;
            convolutions and features go on. False by default, or as in the state. For mixers of
            sums.
        commit_s : float, optional
            With beam search: finished words that ended so many seconds ago become stable even where
            the hypotheses disagree, and those that disagree with the best one are dropped. None:
            they become stable when all agree, or as in the state.

        Returns
        -------
        RecognitionStream
            `accept(packet)` and `finish()` return events.

        Raises
        ------
        UserError
            If the encoder cannot stream so, or cannot go on from the state.

        Example
        -------
        >>> import torch
        >>> stream = getfixture("tiny_recogniser").stream(chunk_s=0.32)
        >>> events = [*stream.accept(torch.randn(16000)), *stream.finish()]
        >>> {type(event).__name__ for event in events} <= {"Partial", "Final"}
        True
        """
        lengths = (chunk_s, left_s, pause_s, max_segment_s)
        options = (half_life_s, reset_at_pauses, commit_s)
        return RecognitionStream(self, *lengths, decode, state, *options)

    def stream_pool(
        self,
        chunk_s: float = DEFAULT_CHUNK_S,
        left_s: float | None = None,
        pause_s: float | None = None,
        max_segment_s: float | None = None,
        decode: Decode | None = None,
        half_life_s: float | None = None,
        reset_at_pauses: bool | None = None,
        commit_s: float | None = None,
    ) -> RecognitionPool:
        """Recognise many streams in batches; they may join and leave at any time.

        Arguments
        ---------
        chunk_s, left_s, pause_s, max_segment_s, decode, half_life_s, reset_at_pauses, commit_s
            As for `stream`.

        Returns
        -------
        RecognitionPool

        Raises
        ------
        UserError
            If the encoder cannot stream so.
        """
        lengths = (chunk_s, left_s, pause_s, max_segment_s)
        return RecognitionPool(self, *lengths, decode, half_life_s, reset_at_pauses, commit_s)
