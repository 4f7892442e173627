"""Text, JSON and captions of transcripts."""

import itertools
import json
import random
import re

import pytest

from speechbrain_pom.ctc.alignment import Word
from speechbrain_pom.inference.transcript_files import (
    TRANSCRIPT_FORMATS,
    as_json,
    as_srt,
    as_text,
    as_vtt,
    captions,
)
from speechbrain_pom.inference.transcription import Segment, Transcript

CLOCK = r"(\d{2,}):([0-5]\d):([0-5]\d),(\d{3})"
NOTHING = Transcript([], duration_s=3.0)


def segment(*words):
    words = [Word(*word) for word in words]
    text = " ".join(word.text for word in words)
    return Segment(words[0].start_s, words[-1].end_s, text, words, words[0].confidence)


def spoken(texts, start_s=0.0, word_s=0.3, gap_s=0.1):
    """A segment of words of one length, one after the other."""
    starts = [start_s + i * (word_s + gap_s) for i in range(len(texts))]
    return segment(
        *((text, start, start + word_s, 0.9) for text, start in zip(texts, starts, strict=True))
    )


TALK = Transcript(
    [segment(("HELLO", 0.5, 0.9, 0.875), ("WORLD", 1.0, 1.36, 0.5)), spoken(["BYE"], 4.0)],
    duration_s=5.25,
)


def parse_srt(text):
    """(index, start_ms, end_ms, lines) of each caption; everything else fails."""
    found = []
    for block in text.split("\n\n") if text else []:
        index, times, *lines = block.rstrip("\n").split("\n")
        start, end = re.fullmatch(f"({CLOCK}) --> ({CLOCK})", times).group(1, 6)
        times_ms = []
        for clock in (start, end):
            hours, minutes, seconds, ms = map(int, re.fullmatch(CLOCK, clock).groups())
            times_ms.append(((hours * 60 + minutes) * 60 + seconds) * 1000 + ms)
        found.append((int(index), *times_ms, lines))
    return found


def check_captions(found):
    assert [index for index, *_ in found] == list(range(1, len(found) + 1))
    assert all(start < end for _, start, end, _ in found)
    assert all(a[2] <= b[1] for a, b in itertools.pairwise(found))
    for *_, lines in found:
        assert 1 <= len(lines) <= 2
        assert all(line and len(line) <= 42 and line == line.strip() for line in lines)


def test_text_is_one_line():
    assert as_text(TALK) == "HELLO WORLD BYE\n"
    assert as_text(NOTHING) == "\n"


def test_json_says_when_and_how_surely():
    record = json.loads(as_json(TALK, "talks/ä.flac"))
    assert list(record) == ["file", "duration_s", "text", "segments"]
    assert record["file"] == "talks/ä.flac"
    assert (record["duration_s"], record["text"]) == (5.25, "HELLO WORLD BYE")
    first, second = record["segments"]
    assert (first["start_s"], first["end_s"], first["text"]) == (0.5, 1.36, "HELLO WORLD")
    assert first["confidence"] == 0.875
    word = {"start_s": 1.0, "end_s": 1.36, "text": "WORLD", "confidence": 0.5}
    assert first["words"][1] == word
    assert [word["text"] for word in second["words"]] == ["BYE"]


def test_json_rounds_to_milliseconds():
    talk = Transcript([segment(("A", 1 / 3, 2 / 3, 1 / 7))], 2 / 3)
    (word,) = json.loads(as_json(talk, "a"))["segments"][0]["words"]
    assert word == {"start_s": 0.333, "end_s": 0.667, "text": "A", "confidence": 0.1429}


def test_json_in_one_line():
    line = as_json(TALK, "a", indent=None)
    assert line.count("\n") == 1
    assert json.loads(line) == json.loads(as_json(TALK, "a"))


def test_captions_of_two_segments():
    assert parse_srt(as_srt(TALK)) == [
        (1, 500, 1500, ["HELLO WORLD"]),  # a second at least
        (2, 4000, 5000, ["BYE"]),
    ]
    assert as_srt(TALK).startswith("1\n00:00:00,500 --> 00:00:01,500\nHELLO WORLD\n\n2\n")
    assert as_srt(NOTHING) == ""


def test_webvtt_has_the_same_captions_and_no_markup_of_its_own():
    blocks = as_vtt(TALK).split("\n\n")
    assert blocks[0] == "WEBVTT"
    srt = [block.split("\n", 1)[1].replace(",", ".") for block in as_srt(TALK).split("\n\n")]
    assert blocks[1:] == srt
    assert as_vtt(NOTHING) == "WEBVTT\n"
    signs = Transcript([spoken(["<B>", "&", "-->"], 4.0)], 9.0)
    assert as_vtt(signs).split("\n")[3] == "&lt;B&gt; &amp; --&gt;"


def test_hours():
    late = Transcript([segment(("LATE", 3661.0, 3725.5, 1.0))], 3800.0)
    assert "01:01:01,000 --> 01:02:05,500" in as_srt(late)
    later = Transcript([segment(("LATER", 360000.0, 360002.0, 1.0))], 360003.0)
    assert "100:00:00,000 --> 100:00:02,000" in as_srt(later)


def test_long_segments_are_cut_between_words():
    texts = [f"WORD{i:02}" for i in range(40)]
    found = parse_srt(as_srt(Transcript([spoken(texts)], 16.0)))
    check_captions(found)
    assert " ".join(line for *_, lines in found for line in lines).split() == texts
    assert [len(lines) for *_, lines in found] == [2, 2, 2, 1]
    assert {len(line) for *_, lines in found for line in lines} == {41, 27}
    # Each caption lasts from its first word to its last.
    assert found[1][1:3] == (round(1000 * 12 * 0.4), round(1000 * (23 * 0.4 + 0.3)))


def test_a_caption_stays_until_the_next_one_at_most():
    close = [spoken([text], start) for text, start in (("A", 0.0), ("B", 0.4), ("C", 0.8))]
    found = parse_srt(as_srt(Transcript(close, 1.1)))
    assert [times[1:3] for times in found] == [(0, 400), (400, 800), (800, 1100)]


def test_words_longer_than_a_line():
    long = "X" * 100
    talk = Transcript([segment(("A", 0.0, 0.5, 0.9), (long, 1.0, 2.0, 0.9), ("B", 2, 3, 0.9))], 3)
    found = parse_srt(as_srt(talk))
    check_captions(found)
    assert [lines for *_, lines in found] == [["A", "X" * 42], ["X" * 42, "X" * 16 + " B"]]
    assert found[1][1] == 1420  # the characters share the time


def test_words_in_one_millisecond():
    words = [(f"W{i}" * 15, 1 + i * 1e-4, 1 + (i + 1) * 1e-4, 0.9) for i in range(9)]
    found = parse_srt(as_srt(Transcript([segment(*words)], 1.001)))
    assert len(found) == 5
    check_captions(found)


def test_words_without_duration():
    found = parse_srt(as_srt(Transcript([segment(("A", 1.0, 1.0, 0.9))], 1.0)))
    assert found == [(1, 1000, 1001, ["A"])]


@pytest.mark.parametrize("seed", range(10))
def test_captions_of_anything_are_valid(seed):
    draw = random.Random(seed)
    now, segments = 0.0, []
    for _ in range(30):
        words = []
        for _ in range(draw.choice([1, 2, 17, 63])):
            now += draw.choice([0.0, 0.0, 0.001, 0.3])
            start, now = now, now + draw.choice([0.0004, 0.04, 0.5])
            words.append(("Y" * draw.choice([1, 2, 5, 13, 41, 42, 43, 90]), start, now, 0.5))
        segments.append(segment(*words))
    talk = Transcript(segments, now)
    found = parse_srt(as_srt(talk))
    check_captions(found)
    shown = "".join(line for *_, lines in found for line in lines)
    assert shown.replace(" ", "") == talk.text.replace(" ", "")
    assert [tuple(caption)[2] for caption in captions(talk)] == [lines for *_, lines in found]


def test_every_format_has_an_extension_of_its_own():
    assert {name: extension for name, (extension, _) in TRANSCRIPT_FORMATS.items()} == {
        "text": ".txt",
        "json": ".json",
        "srt": ".srt",
        "vtt": ".vtt",
    }
    for _, write in TRANSCRIPT_FORMATS.values():
        assert "HELLO" in write(TALK, "a.wav")
