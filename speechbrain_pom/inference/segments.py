"""Segments of what is said, and the words in them with times."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechbrain_pom.ctc.alignment import Word, align_words, frames_needed
from speechbrain_pom.ctc.tokenizers import Units


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


@dataclass(frozen=True)
class Clock:
    """Times of frames in a file.

    Arguments
    ---------
    frame_s : float
        From frame to frame.
    early_s : float
        How long before its time a frame begins.
    duration_s : float
        Of the file.
    """

    frame_s: float
    early_s: float
    duration_s: float

    def lasting(self, duration_s: float) -> "Clock":
        """The clock of a file of another duration."""
        return replace(self, duration_s=duration_s)

    def time_of(self, frame: int) -> float:
        """When a frame begins, in seconds of the file."""
        return min(max(frame * self.frame_s - self.early_s, 0.0), self.duration_s)

    def shift(self, word: Word, first_frame: int) -> Word:
        """A word of a segment that starts at a frame, with times of the file."""
        offset_s = first_frame * self.frame_s - self.early_s
        start_s, end_s = (
            min(max(time_s + offset_s, 0.0), self.duration_s)
            for time_s in (word.start_s, word.end_s)
        )
        return word._replace(start_s=start_s, end_s=end_s)


def decode_segment(
    log_probs: Tensor,
    first_frame: int,
    decode: Callable[[Tensor, Tensor], list[str]],
    units: Units,
    clock: Clock,
) -> Segment | None:
    """Decode and align a segment; None if nothing is said.

    Arguments
    ---------
    log_probs : torch.Tensor
        (T, num_outputs), those of the segment.
    first_frame : int
        Its first frame in the file.
    decode : callable
        As for `speechbrain_pom.inference.transcribe`.
    units : Units
    clock : Clock

    Returns
    -------
    Segment or None
    """
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
