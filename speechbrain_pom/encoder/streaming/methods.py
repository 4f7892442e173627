"""The methods of a `SpeechEncoder` that are about streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from speechbrain_pom.attention.masks import obstacle_to_chunks
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.encoder.streaming.inputs import obstacle_to_stream
from speechbrain_pom.encoder.streaming.pool import StreamPool
from speechbrain_pom.encoder.streaming.stream import EncoderStream

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.hidden_states import Layers


class Streams:
    """Mixin for `SpeechEncoder`: `stream`, `stream_pool`, `can_stream`."""

    def stream(
        self,
        chunk_s: float | None = None,
        left_s: float | None = None,
        layers: Layers | None = None,
        state: Mapping[str, Tensor] | None = None,
        half_life_s: float | None = None,
    ) -> EncoderStream:
        """Encode speech as it arrives, in a state of constant size.

        Arguments
        ---------
        chunk_s : float, optional
            Seconds of a chunk, whole frames: a frame sees all of its chunk. 0.64 by default, or as
            in the state.
        left_s : float, optional
            Seconds that a frame sees before its chunk, whole chunks; None: all of the past, or as
            in the state. Attention needs a number.
        layers : str, int or sequence of int, optional
            As for `forward`.
        state : dict of str to torch.Tensor, optional
            What the stream goes on from, to the bit: from the `state()` of another.
        half_life_s : float, optional
            Seconds after which a chunk counts half in the mixers' sums; None: all of the past
            counts the same, or as in the state. For mixers of sums, and not together with `left_s`.

        Returns
        -------
        EncoderStream
            `accept(packet)` and `finish()` return frames, equal to those of the masked pass
            `forward(wavs, chunks=stream.chunks)`.

        Raises
        ------
        UserError
            If the encoder cannot stream so, or cannot go on from the state.

        Example
        -------
        >>> import torch
        >>> stream = getfixture("tiny_encoder").stream(chunk_s=0.32, left_s=1.28)
        >>> frames = stream.accept(torch.zeros(16000))
        >>> len(frames), len(stream.finish())
        (24, 2)
        """
        return EncoderStream(self, chunk_s, left_s, layers, state, half_life_s)

    def stream_pool(
        self,
        chunk_s: float = DEFAULT_CHUNK_S,
        left_s: float | None = None,
        layers: Layers | None = None,
        half_life_s: float | None = None,
    ) -> StreamPool:
        """Encode many streams in batches; they may join and leave at any time.

        Arguments
        ---------
        chunk_s, left_s, layers, half_life_s
            As for `stream`.

        Returns
        -------
        StreamPool

        Raises
        ------
        UserError
            If the encoder cannot stream so.
        """
        return StreamPool(self, chunk_s, left_s, layers, half_life_s)

    def can_stream(self, left_s: float | None = None) -> str | None:
        """Why the encoder cannot encode a stream.

        Arguments
        ---------
        left_s : float, optional
            Seconds that a frame sees before its chunk; None: all of the past.

        Returns
        -------
        str or None
            One line; None: it can. The frames are then those of the masked pass, whose floor of the
            features is "running": where the encoder was trained with "utterance", they differ from
            its training before the loudest moment, in what is 80 dB below that.

        Example
        -------
        >>> getfixture("tiny_encoder").can_stream() is None
        True
        """
        return obstacle_to_stream(self, None if left_s is None else 1)

    def obstacle_to_chunks(self, left_context_chunks: int | None = None) -> str | None:
        """Why training with dynamic chunks would not make it stream, in one line; None: it would.

        `left_context_chunks` are those that a frame sees to the left of its own (None: all).
        """
        if self.features.norm_type == "sentence":
            return (
                "the features are normalised over the whole utterance (sentence), which a stream "
                "does not have: choose norm_type: global"
            )
        return obstacle_to_chunks(self.transformer.encoder, left_context_chunks)
