"""Whether an audio file holds what its header says: at a glance or, in doubt, by decoding it."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from speechbrain_pom.utils.errors import UserError

_CANCELLED = 1e-3  # peak of the mean of channels over their own: 60 dB below
_LONGEST_HEADER = 2**14  # bytes of a file without samples
_BLOCK = 2**16  # samples decoded at a time
_OGG_PAGE = 2**16  # bytes; no page is longer
_STREAMED = 0x7FFF0000  # bytes; programs that write to a pipe claim this or more
# libsndfile's log, where a chunk of samples is longer than the rest of the file (WAV, AIFF, AU,
# W64, RF64); it then silently reads what is there.
_CUT_CHUNK = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)


def judge(audio: Any, path: str | bytes | Path, whole: bool) -> tuple[int, dict[str, str]]:
    """How long an open file is, and what is wrong with it."""
    problems, num_samples = _header_problems(audio, path), audio.num_claimed
    if not problems and (whole or not _ends_as_claimed(audio)):
        num_samples, problems = _decode(audio)
    if not problems and (unread := audio.count_unread()):
        sentence = f"holds {num_samples} samples by its header, but {unread} bytes follow them"
        problems = {"more than its header says": f"{sentence}: encode it again"}
    return num_samples or 0, problems


def _header_problems(audio, path):
    no_length = audio.num_claimed is None and not audio.has_parts and audio.format != "MP3"
    if audio.num_claimed is not None and audio.num_claimed <= 0:
        no_length = os.path.getsize(path) > _LONGEST_HEADER  # of a recorder that was killed
        if not no_length:
            return {"empty": "holds no samples: restore or remove it"}
    cut = _CUT_CHUNK.search(audio.log)
    claimed, present = map(int, cut.groups()) if cut else (0, 0)
    if no_length or claimed >= _STREAMED > present:
        return {"unknown length": "its header does not say how long it is: encode it again"}
    if claimed > present:
        sentence = f"truncated: {present} of {claimed} bytes of samples are there: restore it"
        return {"truncated or damaged": sentence}
    if audio.format == "OGG" and not _has_last_page(path):
        return {"truncated or damaged": "truncated: its last Ogg page is missing: restore it"}
    return {}


def _has_last_page(path):
    """Whether the last page of an Ogg file says that it is the last (RFC 3533, section 6)."""
    with open(path, "rb") as stream:
        stream.seek(-min(2 * _OGG_PAGE, os.path.getsize(path)), os.SEEK_END)
        tail = stream.read()
    flags = tail[tail.rfind(b"OggS") + 5 :][:1]
    return bool(flags and flags[0] & 4)


def _ends_as_claimed(audio):
    """Whether the last sample is where the header says; a truncated FLAC has none there."""
    if audio.num_claimed is None or not (audio.has_exact_seeks or audio.format == "OGG"):
        return False
    found = audio.fits_its_header() and audio.try_at(audio.num_claimed - 1)
    return found and not audio.count_unread()


def _decode(audio):
    """Decodes everything; returns the number of samples, and the problems."""
    audio.rewind()
    loudest = mixed = np.float32(0)
    cause = ""
    try:
        while len(block := audio.read(_BLOCK)):
            loudest = np.maximum(loudest, np.abs(block).max())  # passes NaN on
            mean = block.mean(1) if audio.channels > 1 else block
            mixed = np.maximum(mixed, np.abs(mean).max())
    except soundfile.LibsndfileError as error:
        cause = f" ({decoder_message(error)})"
    except UserError as error:
        return audio.position, {"joined": str(error)}
    if cause or audio.num_missing:
        expected = f" of {audio.position + audio.num_missing}" if audio.num_missing else ""
        sentence = f"truncated or damaged: decoding ends after {audio.position}{expected} samples"
        problem = {"truncated or damaged": f"{sentence}{cause}: restore it"}
        return audio.num_claimed or audio.position, problem
    return audio.position, _sample_problems(audio.position, loudest, mixed)


def _sample_problems(num_samples, loudest, mixed):
    """What is wrong with the samples, by the peaks of their channels and of the mean of these."""
    if num_samples == 0:
        return {"empty": "holds no samples: restore or remove it"}
    if not np.isfinite(mixed):
        return {"non-finite": "holds samples that are NaN or infinite: encode it again"}
    if loudest == 0:
        return {"silence": "all its samples are zero: restore or remove it"}
    if mixed <= _CANCELLED * loudest:
        sentence = "its channels cancel each other out when they are averaged: keep one of them"
        return {"silence": sentence}
    return {}


def decoder_message(error: soundfile.LibsndfileError) -> str:
    """What libsndfile says of an error."""
    return error.error_string.strip().rstrip(".") or "the decoder failed"
