"""From an audio file of any length to its words, with times.

Memory is bounded: long files are encoded in windows, frames and outputs are memory-mapped temporary
files, and segments are decoded one after the other.
"""

import math
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.ctc.alignment import Word, align_words, frames_needed
from speechbrain_pom.ctc.decoding import greedy_decode
from speechbrain_pom.ctc.tokenizers import WORD_START, Units
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.overlapping import encode_windows
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.utils.disks import explain_full_disk, reserve
from speechbrain_pom.utils.errors import UserError

_BLOCK = 4096  # frames that the head gets at a time
_ELSEWHERE = "set TMPDIR to a folder on another disk"


@dataclass(frozen=True)
class Segment:
    """What is said between two pauses.

    Arguments
    ---------
    start_s, end_s : float
        Start of the first and end of the last word, in seconds of the file.
    text : str
    words : list of Word
    confidence : float
        Mean confidence of the words.
    """

    start_s: float
    end_s: float
    text: str
    words: list[Word]
    confidence: float


@dataclass(frozen=True)
class Transcript:
    """What is said in a file.

    Arguments
    ---------
    segments : list of Segment
        In order, without overlap; empty where nothing was recognised.
    duration_s : float
        Duration of the file.

    Example
    -------
    >>> word = Word("HELLO", 0.5, 0.9, 0.97)
    >>> Transcript([Segment(0.5, 0.9, "HELLO", [word], 0.97)], duration_s=2.0).text
    'HELLO'
    """

    segments: list[Segment]
    duration_s: float

    @property
    def text(self) -> str:
        """All segments, joined by spaces."""
        return " ".join(segment.text for segment in self.segments)


def transcribe(
    recogniser: SpeechRecogniser,
    source: str | Path | AudioReader,
    *,
    decode: Callable[[Tensor, Tensor], list[str]] | None = None,
    window_s: float = 30.0,
    pause_s: float = 0.6,
    max_segment_s: float = 30.0,
) -> Transcript:
    """Transcribe an audio file, with the times of its words.

    The outputs are cut into segments at pauses (`split_at_pauses`), and each is decoded by itself.
    Greedy decoding loses nothing by that; a language model does not see beyond a pause.

    Arguments
    ---------
    recogniser : speechbrain_pom.inference.SpeechRecogniser
        In eval mode.
    source : str, pathlib.Path or speechbrain_pom.data.audio.reader.AudioReader
        A file of any sample rate, number of channels and length.
    decode : callable, optional
        `decode(log_probs (1, T, num_outputs), lengths_relative (1,)) -> [text]`, such as
        `make_beam_searcher` of `speechbrain_pom.ctc.decoding` makes; greedy by default.
    window_s : float
        Longer files are encoded in windows of this length.
    pause_s : float
        Pauses of at least this length separate segments.
    max_segment_s : float
        Longer segments are cut, at the best place there is.

    Returns
    -------
    Transcript

    Raises
    ------
    UserError
        If the file cannot be read, the disk for temporary files is full, or the recogniser is in
        training mode.
    ValueError
        If the model's outputs are NaN.

    Example
    -------
    >>> import soundfile
    >>> from types import SimpleNamespace
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> class SaysHi(torch.nn.Module):
    ...     units = CharacterUnits()
    ...     encoder = SimpleNamespace(
    ...         samples_per_frame=640, sample_rate=16000, hop_ms=10, device="cpu"
    ...     )
    ...
    ...     def forward(self, wavs, lengths=None):
    ...         labels = torch.tensor([0] * 5 + [9, 0, 10] + [0] * 18)
    ...         outputs = torch.nn.functional.one_hot(labels, self.units.size)
    ...         return (9.0 * outputs).log_softmax(-1).unsqueeze(0), torch.tensor([26])
    >>> path = getfixture("tmp_path") / "hi.wav"
    >>> soundfile.write(path, [0.1] * 16000, 16000)
    >>> (segment,) = transcribe(SaysHi().eval(), path).segments
    >>> [(word.text, round(word.start_s, 2), round(word.end_s, 2)) for word in segment.words]
    [('HI', 0.2, 0.32)]
    """
    if recogniser.training:
        raise UserError("the recogniser is in training mode: call recogniser.eval() before files")
    units = recogniser.units
    if decode is None:
        decode = partial(greedy_decode, units=units)
    frame_s = recogniser.encoder.samples_per_frame / recogniser.encoder.sample_rate
    with ExitStack() as stack:
        reader = source
        if not isinstance(source, AudioReader):
            reader = stack.enter_context(AudioReader(source))
        log_probs = _outputs(recogniser, reader, window_s, stack)
        spans = split_at_pauses(
            log_probs.argmax(-1), units, round(pause_s / frame_s), round(max_segment_s / frame_s)
        )
        # Feature frames are centred at multiples of their hop: the first one starts before 0.
        clock = _Clock(frame_s, recogniser.encoder.hop_ms / 2000, reader.duration_s)
        segments = [_segment(log_probs[a:b], a, decode, units, clock) for a, b in spans]
        return Transcript([one for one in segments if one is not None], reader.duration_s)


def split_at_pauses(
    labels: Tensor, units: Units, pause_frames: int, max_frames: int
) -> list[tuple[int, int]]:
    """Cut frames into segments between words, where nothing is said.

    `labels` (T,) has the best output of each frame. Returned are the first frame of each segment
    and the one after its last; together they are all frames.

    Cuts are in the middle of runs of at least `pause_frames` blanks between two words, or of twice
    as many anywhere: the model has then left a space out, as no word has such gaps. A segment
    longer than `max_frames` is cut in its second half, at the best place there is: in the longest
    run of blanks between words, else between words, else in the longest run of blanks, else
    between two labels. Cuts between words leave the text of greedy decoding as it is.

    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> labels = torch.tensor([9, 10, 1, 0, 0, 0, 0, 2, 0, 3])  # "HI", a pause, "AB"
    >>> split_at_pauses(labels, CharacterUnits(), pause_frames=3, max_frames=100)
    [(0, 5), (5, 10)]
    """
    pauses, scores = _rate_cuts(labels, units, pause_frames)
    spans, start = [], 0
    for stop in [*pauses, len(labels)]:
        while stop - start > max_frames:
            first = start + max_frames // 2 + 1
            best = first + int(scores[first : start + max_frames + 1].argmax())
            if scores[best] < 0:  # one label throughout
                later = scores[best:stop] >= 0
                if not later.any():
                    break
                best += int(later.argmax())
            spans.append((start, best))
            start = best
        spans.append((start, stop))
        start = stop
    return spans


def _rate_cuts(labels, units, pause_frames):
    """Middles of pauses, and how good a cut before each frame is; negative within a label."""
    space, starts_word = _word_marks(units)
    values, lengths = (part.tolist() for part in labels.unique_consecutive(return_counts=True))
    spoken = [value for value in values if value != units.blank_index]
    total, pauses, end, num_spoken = len(labels), [], 0, 0
    scores = np.full(total + 1, -1)
    for value, length in zip(values, lengths, strict=True):
        start, end = end, end + length
        # The labels around a cut at the start of this run or, if it is blank, anywhere in it.
        around = spoken[max(num_spoken - 1, 0) : num_spoken + 1] if num_spoken else []
        at_edge = len(around) < 2
        between_words = at_edge or around[0] in space or around[1] in starts_word
        rating = total * between_words
        if value == units.blank_index:
            depth = np.arange(length + 1)
            scores[start : end + 1] = rating + np.minimum(depth, length - depth)
            if length >= pause_frames * (2 - between_words) and not at_edge:
                pauses.append((start + end) // 2)
        else:
            scores[start] = max(scores[start], rating)
            num_spoken += 1
    return pauses, scores


def _word_marks(units):
    """Outputs that separate words, and outputs before which a word has ended."""
    tokens = list(enumerate(units.vocab_list))
    space = {i for i, token in tokens if token in (" ", WORD_START)}
    return space, space | {i for i, token in tokens if token.startswith(WORD_START)}


def _outputs(recogniser, reader, window_s, stack):
    """Log-probabilities (T, num_outputs) on the CPU, of a long file memory-mapped."""
    with torch.no_grad():
        encoder = recogniser.encoder
        if reader.duration_s <= window_s:
            wav = reader.read(0, reader.num_samples).to(encoder.device)
            return recogniser(wav.unsqueeze(0))[0][0].cpu()
        with explain_full_disk(tempfile.gettempdir(), _ELSEWHERE):
            temporary = tempfile.TemporaryDirectory(prefix="speechbrain_pom_")
        folder = stack.enter_context(temporary)
        num_frames = encoder.num_frames(reader.num_samples)
        frames = _on_disk(folder, "frames", (num_frames, encoder.d_model), encoder.dtype)
        encode_windows(encoder, reader, window_s=window_s, out=frames)
        outputs = (num_frames, recogniser.units.size)
        log_probs = _on_disk(folder, "log_probs", outputs, torch.float32)
        for start in range(0, num_frames, _BLOCK):
            block = frames[start : start + _BLOCK].to(encoder.device)
            log_probs[start : start + _BLOCK] = recogniser.classify(block.unsqueeze(0))[0].cpu()
        return log_probs


def _on_disk(folder, name, shape, dtype):
    """A tensor of which only the parts in use are in memory."""
    file, size = os.path.join(folder, name), math.prod(shape)
    with explain_full_disk(os.path.dirname(folder), _ELSEWHERE), open(file, "wb") as stream:
        reserve(stream, size * dtype.itemsize)
    return torch.from_file(file, shared=True, size=size, dtype=dtype).view(shape)


@dataclass(frozen=True)
class _Clock:
    """Times of frames in a file."""

    frame_s: float
    early_s: float
    duration_s: float

    def shift(self, word, first_frame):
        """A word of a segment that starts at a frame, with times of the file."""
        offset_s = first_frame * self.frame_s - self.early_s
        start_s, end_s = (
            min(max(time_s + offset_s, 0.0), self.duration_s)
            for time_s in (word.start_s, word.end_s)
        )
        return word._replace(start_s=start_s, end_s=end_s)


def _segment(log_probs, first_frame, decode, units, clock):
    """Decode and align a segment; None if nothing is said."""
    (text,) = decode(log_probs.unsqueeze(0), torch.ones(1))
    if not text:
        return None
    # Pieces other than the decoder's may be needed to write its text, and too many for the frames:
    # each frame then counts several times.
    times = -(-frames_needed(text, units) // len(log_probs))
    aligned = align_words(
        log_probs.repeat_interleave(times, dim=0), text, units, clock.frame_s / times
    )
    words = [clock.shift(word, first_frame) for word in aligned]
    confidence = sum(word.confidence for word in words) / len(words)
    return Segment(words[0].start_s, words[-1].end_s, text, words, confidence)
