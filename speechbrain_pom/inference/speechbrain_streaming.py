"""What the YAML of an exported model names, for SpeechBrain's `StreamingASR.from_hparams`.

SpeechBrain gives features to its encoder chunk by chunk, and its features of a chunk are not those
of the whole. Here the samples go through unchanged, and the encoder makes its own features of them:
its frames are those of `encoder.stream`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from speechbrain.decoders.ctc import filter_ctc_output
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from speechbrain.utils.filter_analysis import FilterProperties
from torch import Tensor, nn

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.encoder.streaming.pool import StreamPool
from speechbrain_pom.inference.pauses import word_marks
from speechbrain_pom.inference.speechbrain_interface import Tokenizer
from speechbrain_pom.utils.errors import UserError


class Samples:
    """In place of a feature extractor: samples, of any number.

    Arguments
    ---------
    samples_per_frame : int
        Of the encoder.

    Example
    -------
    >>> samples = Samples(640)
    >>> samples(torch.zeros(1, 100), context=samples.make_streaming_context()).shape
    torch.Size([1, 100])
    """

    def __init__(self, samples_per_frame: int) -> None:
        # StreamingASR reads chunks of (stride - 1) * C samples: with one more it reads C frames.
        self.properties = FilterProperties(samples_per_frame, samples_per_frame + 1)

    def make_streaming_context(self) -> None:
        """Nothing: the encoder keeps what it needs."""

    def get_recommended_final_chunk_count(self, frames_per_chunk: int) -> int:
        """Chunks of silence that bring out the last frames: theirs, and what they look ahead."""
        return 2

    def __call__(self, samples: Tensor, context: Any = None, lengths: Any = None) -> Tensor:
        """The samples (B, n) of all streams; what is padding in them is heard as silence."""
        return samples


class ChunkedEncoder(nn.Module):
    """An encoder of streams as `StreamingASR` calls it.

    Arguments
    ---------
    encoder : speechbrain_pom.encoder.encoder.SpeechEncoder

    Example
    -------
    >>> encoder = ChunkedEncoder(getfixture("tiny_encoder"))
    >>> context = encoder.make_streaming_context(DynChunkTrainConfig(8))
    >>> samples = torch.zeros(2, 12000)
    >>> [len(encoder.forward_streaming(part, context)[0]) for part in samples.split(4000, dim=1)]
    [0, 8, 8]
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def make_streaming_context(self, dynchunktrain_config: DynChunkTrainConfig) -> StreamPool:
        """The streams of a batch, which are opened by the first chunk.

        Arguments
        ---------
        dynchunktrain_config : DynChunkTrainConfig
            Frames of a chunk, and chunks of left context (None: all).

        Returns
        -------
        StreamPool

        Raises
        ------
        UserError
            If the encoder cannot stream so.
        """
        encoder, left = self.encoder, dynchunktrain_config.left_context_size
        frame_s = encoder.samples_per_frame / encoder.sample_rate
        chunk_s = dynchunktrain_config.chunk_size * frame_s
        return encoder.stream_pool(chunk_s, None if left is None else left * chunk_s)

    def forward_streaming(self, samples: Tensor, context: StreamPool) -> Tensor:
        """The frames (B, T, d_model) of the chunks that are complete with samples (B, n).

        Raises
        ------
        UserError
            For another number of streams than before.
        """
        if not len(context):
            for _ in samples:
                context.open()
        if len(context) != len(samples):
            raise UserError(
                f"a chunk of {len(samples)} streams where there were {len(context)}: make a new "
                "context for each batch"
            )
        for key, row in zip(context, samples, strict=True):
            context.accept(key, row)
        found: dict[int, list[Tensor]] = {key: [context.engine.empty()] for key in context}
        while context.waiting():
            for key, frames in context.step():
                found[key].append(frames)
        return torch.stack([torch.cat(frames) for frames in found.values()])


class LastLabels(list):
    """What greedy search knows of a batch: the last output of each stream."""


def new_labels(log_probs: Tensor, context: LastLabels, blank_index: int) -> list[list[int]]:
    """The labels that begin in outputs (B, T, outputs), by greedy search.

    >>> outputs = torch.nn.functional.one_hot(torch.tensor([[9, 0, 9, 9, 10]]), 29)
    >>> context = LastLabels()
    >>> [new_labels(part, context, blank_index=0) for part in outputs.split(3, dim=1)]
    [[[9, 9]], [[10]]]
    """
    context[:] = context or [blank_index] * len(log_probs)
    best = log_probs.argmax(dim=-1).tolist()
    found = []
    for row, labels in enumerate(best):
        collapsed = filter_ctc_output([context[row], *labels], blank_id=blank_index)
        found.append(collapsed[context[row] != blank_index :])
        context[row] = [context[row], *labels][-1]
    return found


class OpenWord:
    """The text of a stream as far as it can still change: its last word."""

    def __init__(self) -> None:
        self.labels: list[int] = []
        self.has_words = False  # before it
        self.told = ""


def new_text(tokenizer: Tokenizer, labels: Sequence[int], context: OpenWord) -> str:
    """What labels add to the text of a stream: all that was returned is the text of all labels.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> tokenizer, context = Tokenizer(), OpenWord()
    >>> tokenizer.units = CharacterUnits()
    >>> [new_text(tokenizer, labels, context) for labels in ([9, 10, 1], [1], [2, 28], [])]
    ['HI', '', " A'", '']
    """
    if not labels:
        return ""
    units = tokenizer.units
    context.labels += labels
    # A character of several bytes is told when its last one has come.
    text = _text(units, context).rstrip("\ufffd")
    fresh, context.told = text[len(context.told) :], text
    starts = [i for i, label in enumerate(context.labels) if label in word_marks(units)[1]]
    if starts and starts[-1]:
        before = units.decode(context.labels[: starts[-1]])
        context.has_words = context.has_words or bool(before)
        context.labels = context.labels[starts[-1] :]
        context.told = _text(units, context).rstrip("\ufffd")
    return fresh


def _text(units: Units, context):
    """The open word with the space before it."""
    word = units.decode(context.labels)
    return f" {word}" if word and context.has_words else word
