"""Single audio files: what is wrong with one, from its header and end or from all its samples."""

import os
import re
import stat
from math import gcd
from pathlib import Path
from typing import NamedTuple

import soundfile

from speechbrain_pom.data.audio.formats import unreadable_problems
from speechbrain_pom.data.audio.judgement import decoder_message, judge
from speechbrain_pom.data.audio.stream import AudioStream
from speechbrain_pom.utils.errors import UserError

SAMPLE_RATE = 16000
"""Sample rate of what the models read, in Hz; LibriSpeech's own."""

CHECKS = ("headers", "decode")
"""How files are checked: header and last sample of each (0.1 ms), or every sample (3 ms)."""

_MAX_KERNEL = 2**24  # weights of a resampling filter: 64 MiB
_PLACEHOLDER = re.compile(r"\$[\w.]")  # what SpeechBrain replaces in every value of a manifest


class AudioFacts(NamedTuple):
    """What a file holds, and what is wrong with it: kind of problem to sentence with advice."""

    num_samples: int  # per channel, at its own sample rate; 0 where unknown
    sample_rate: int  # Hz; 0 where unknown
    channels: int
    problems: dict

    @property
    def duration_s(self) -> float:
        """Duration in seconds; 0 where unknown."""
        return self.num_samples / self.sample_rate if self.sample_rate else 0.0


def inspect_audio(path: str | bytes | Path, check_data: str = "headers") -> AudioFacts:
    """Look at an audio file: the one judgement of a file, whoever reads it.

    The length of a file is what decoding yields. Its header is a quick guess, which is taken where
    the last sample is found to be where the header says, and nothing follows it. Where there is any
    doubt, the file is decoded once, to its end.

    Arguments
    ---------
    path : str, bytes or pathlib.Path
        A file of any format that soundfile reads.
    check_data : str
        `"headers"`: the header, whether the file is as long as it says, and whether its last
        sample can be decoded: finds every truncated FLAC, WAV, AIFF, AU and Ogg file. MP3 files
        and codecs in which nothing can be sought (such as GSM 6.10) are decoded.
        `"decode"`: every sample, so damage anywhere, digital silence (of the mean of the
        channels, which is what models read) and samples that are not finite are found too.

    Returns
    -------
    AudioFacts

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.flac"
    >>> soundfile.write(path, [0.0] * 800, 8000)
    >>> inspect_audio(str(path))
    AudioFacts(num_samples=800, sample_rate=8000, channels=1, problems={})
    >>> inspect_audio(str(path), "decode").problems
    {'silence': 'all its samples are zero: restore or remove it'}
    """
    try:
        problems = _file_problems(path)
        if problems:
            return AudioFacts(0, 0, 0, problems)
        with AudioStream(path) as audio:
            num_samples, problems = judge(audio, path, check_data == "decode")
            return AudioFacts(num_samples, audio.sample_rate, audio.channels, problems)
    except FileNotFoundError:
        return _nothing("missing file", "the file is missing: restore it")
    except soundfile.LibsndfileError as error:
        return AudioFacts(0, 0, 0, unreadable_problems(path, decoder_message(error)))
    except PermissionError as error:
        return _nothing("unreadable", f"unreadable audio ({error.strerror}): change permissions")
    except OSError as error:
        return AudioFacts(0, 0, 0, unreadable_problems(path, error.strerror))


def _nothing(kind, sentence):
    return AudioFacts(0, 0, 0, {kind: sentence})


def _file_problems(path):
    """What keeps a path from being opened as a file."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(status.st_mode) else "not a file"
        return {"unreadable": f"is {kind}, and audio is read more than once: give a file"}
    if status.st_size == 0:
        return {"empty": "the file is empty (0 bytes): restore or remove it"}
    return {}


def format_problems(facts: AudioFacts) -> dict[str, str]:
    """What keeps a file from being read as it is: 16 kHz, mono.

    >>> format_problems(AudioFacts(800, 8000, 1, {}))
    {'sample rate': 'sample rate 8000 Hz is not 16000 Hz: resample it'}
    """
    problems = {}
    if facts.sample_rate not in (0, SAMPLE_RATE):
        sentence = f"sample rate {facts.sample_rate} Hz is not {SAMPLE_RATE} Hz: resample it"
        problems["sample rate"] = sentence
    if facts.channels > 1:
        problems["channels"] = f"has {facts.channels} channels: mix it down to mono"
    return problems


def resampling_problems(facts: AudioFacts) -> dict[str, str]:
    """What keeps a file from being resampled when it is read.

    >>> resampling_problems(AudioFacts(800, 44100, 2, {}))
    {}
    >>> list(resampling_problems(AudioFacts(800, 44101, 2, {})))
    ['sample rate']
    """
    common = gcd(facts.sample_rate, SAMPLE_RATE)
    if (facts.sample_rate // common) * (SAMPLE_RATE // common) <= _MAX_KERNEL:
        return {}
    sentence = f"sample rate {facts.sample_rate} Hz has almost no divisor in common with"
    return {"sample rate": f"{sentence} {SAMPLE_RATE} Hz, too costly on reading: resample it"}


def resampled_length(num_samples: int, sample_rate: int) -> int:
    """Samples at 16 kHz of a signal at another rate: exact, rounded up.

    >>> resampled_length(44101, 44100), resampled_length(500, 16000)
    (16001, 500)
    """
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def path_problems(file: str) -> dict[str, str]:
    """What keeps a path out of a manifest.

    >>> path_problems("19/198/19-198-0000.flac")
    {}
    """
    if has_placeholder(file) or not file.isprintable():
        return {"path": "its path holds '$' or an unprintable character: rename it"}
    return {}


def has_placeholder(text: str) -> bool:
    """Whether SpeechBrain would replace a part of a manifest's value.

    >>> has_placeholder("$5"), has_placeholder("5 $")
    (True, False)
    """
    return bool(_PLACEHOLDER.search(text))


def check_choice(check_data: str) -> None:
    """Refuse an unknown way of checking.

    >>> check_choice("headers")
    """
    if check_data not in CHECKS:
        raise UserError(f"check_data is {check_data!r}: choose {' or '.join(CHECKS)}")
