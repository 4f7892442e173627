"""Transcripts as files: plain text, JSON with the times of words, SubRip and WebVTT captions.

The JSON of a file, times in seconds:

    {"file": "talks/a.flac",         as given
     "duration_s": 61.25,
     "text": "HELLO WORLD ...",      all segments, joined by spaces
     "segments": [                   in order, separated by pauses
       {"start_s": 0.515, "end_s": 1.395, "text": "HELLO WORLD", "confidence": 0.9312,
        "words": [{"text": "HELLO", "start_s": 0.515, "end_s": 0.875, "confidence": 0.9705}, ...]},
       ...]}
"""

import html
import json
from typing import NamedTuple

from speechbrain_pom.inference.transcription import Transcript

MAX_LINE = 42
"""Characters in a line of a caption, as in subtitles of television and film."""

LINES = 2
"""Lines in a caption."""

MIN_CAPTION_MS = 1000
"""Minimal duration of a caption, unless the next one starts before its end."""


class Caption(NamedTuple):
    """A caption of an SRT or WebVTT file.

    Arguments
    ---------
    start_ms, end_ms : int
    lines : list of str
        One or two, of at most 42 characters.
    """

    start_ms: int
    end_ms: int
    lines: list[str]


def as_text(transcript: Transcript, file: str | None = None) -> str:
    """A transcript as one line of plain text; `file` is not used.

    >>> as_text(Transcript([], duration_s=1.0))
    '\\n'
    """
    return f"{transcript.text}\n"


def as_json(transcript: Transcript, file: str, indent: int | None = 2) -> str:
    """A transcript as JSON in the schema above, all in one line if `indent` is None.

    >>> as_json(Transcript([], duration_s=1.0), "a.wav", indent=None)
    '{"file": "a.wav", "duration_s": 1.0, "text": "", "segments": []}\\n'
    """
    record = {
        "file": file,
        "duration_s": round(transcript.duration_s, 3),
        "text": transcript.text,
        "segments": [
            {**_times(segment), "words": [_times(word) for word in segment.words]}
            for segment in transcript.segments
        ],
    }
    return json.dumps(record, indent=indent, ensure_ascii=False) + "\n"


def as_srt(transcript: Transcript, file: str | None = None) -> str:
    """A transcript as SubRip captions; `file` is not used.

    >>> from speechbrain_pom.ctc.alignment import Word
    >>> from speechbrain_pom.inference.transcription import Segment
    >>> word = Word("HELLO", 0.5, 1.9, 0.97)
    >>> print(as_srt(Transcript([Segment(0.5, 1.9, "HELLO", [word], 0.97)], 2.0)))
    1
    00:00:00,500 --> 00:00:01,900
    HELLO
    <BLANKLINE>
    """
    blocks = (
        f"{number}\n{_clock(one.start_ms, ',')} --> {_clock(one.end_ms, ',')}\n{_lines(one)}"
        for number, one in enumerate(captions(transcript), start=1)
    )
    return "\n".join(blocks)


def as_vtt(transcript: Transcript, file: str | None = None) -> str:
    """A transcript as WebVTT captions, for the web's players; `file` is not used.

    >>> from speechbrain_pom.ctc.alignment import Word
    >>> from speechbrain_pom.inference.transcription import Segment
    >>> word = Word("R&B", 0.5, 1.9, 0.97)
    >>> print(as_vtt(Transcript([Segment(0.5, 1.9, "R&B", [word], 0.97)], 2.0)))
    WEBVTT
    <BLANKLINE>
    00:00:00.500 --> 00:00:01.900
    R&amp;B
    <BLANKLINE>
    """
    blocks = (
        f"{_clock(one.start_ms, '.')} --> {_clock(one.end_ms, '.')}\n"
        f"{html.escape(_lines(one), quote=False)}"
        for one in captions(transcript)
    )
    return "\n".join(["WEBVTT\n", *blocks])


TRANSCRIPT_FORMATS = {
    "text": (".txt", as_text),
    "json": (".json", as_json),
    "srt": (".srt", as_srt),
    "vtt": (".vtt", as_vtt),
}
"""Format to the extension of its files and the function that makes their content."""


def captions(transcript: Transcript) -> list[Caption]:
    """Cut a transcript into captions: at pauses, and between words where a caption is full.

    >>> from speechbrain_pom.ctc.alignment import Word
    >>> from speechbrain_pom.inference.transcription import Segment
    >>> words = [Word("CAPTION", i, i + 0.5, 0.9) for i in range(20)]
    >>> segment = Segment(0, 20, " ".join(word.text for word in words), words, 0.9)
    >>> for one in captions(Transcript([segment], 20.0)):
    ...     print(one.start_ms, one.end_ms, [len(line) for line in one.lines])
    0 9500 [39, 39]
    10000 19500 [39, 39]
    """
    drafts = [
        Caption(_ms(parts[0][0][1]), _ms(parts[-1][-1][2]), [_join(line) for line in parts])
        for segment in transcript.segments
        for parts in _full_captions(segment.words)
    ]
    starts = [draft.start_ms for draft in drafts] + [_ms(transcript.duration_s)]
    placed, end = [], 0
    for draft, next_start in zip(drafts, starts[1:], strict=True):
        start = max(draft.start_ms, end)
        end = max(min(max(draft.end_ms, start + MIN_CAPTION_MS), next_start), start + 1)
        placed.append(Caption(start, end, draft.lines))
    return placed


def _full_captions(words):
    """Captions as lists of lines, which are lists of (text, start_s, end_s)."""
    lines = [[]]
    for part in (part for word in words for part in _short_parts(word)):
        if lines[-1] and len(_join([*lines[-1], part])) > MAX_LINE:
            if len(lines) == LINES:
                yield lines
                lines = []
            lines.append([])
        lines[-1].append(part)
    if lines[-1]:
        yield lines


def _short_parts(word):
    """A word as parts that fit into a line, its time shared by their characters."""
    length = len(word.text)
    per_character_s = (word.end_s - word.start_s) / length
    for first in range(0, length, MAX_LINE):
        last = min(first + MAX_LINE, length)
        yield (
            word.text[first:last],
            word.start_s + first * per_character_s,
            word.start_s + last * per_character_s,
        )


def _join(line):
    return " ".join(text for text, _, _ in line)


def _times(thing):
    """What segments and words have in common, to the millisecond."""
    return {
        "start_s": round(thing.start_s, 3),
        "end_s": round(thing.end_s, 3),
        "text": thing.text,
        "confidence": round(thing.confidence, 4),
    }


def _ms(time_s):
    return round(1000 * time_s)


def _lines(caption):
    return "\n".join(caption.lines) + "\n"


def _clock(time_ms, point):
    """HH:MM:SS,mmm with `point` in place of the comma."""
    seconds, milliseconds = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{milliseconds:03}"
