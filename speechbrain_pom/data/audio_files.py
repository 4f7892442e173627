"""Single audio files: what is wrong with one, from its header and end or from all its samples."""

import os
import re
from math import gcd
from typing import NamedTuple

import numpy as np
import soundfile

SAMPLE_RATE = 16000
"""Sample rate of what the models read, in Hz; LibriSpeech's own."""

CHECKS = ("headers", "decode")
"""How files are checked: header and last sample of each (0.1 ms), or every sample (3 ms)."""

_MAX_SAMPLES = 2**36  # of a FLAC header; libsndfile gives 2**63 - 1 for "unknown"
_MAX_KERNEL = 2**24  # weights of a resampling filter: 64 MiB
_BLOCK = 2**16  # samples decoded at a time
_OGG_PAGE = 2**16  # bytes; no page is longer
# libsndfile's log, where a chunk of samples is longer than the rest of the file (WAV, AIFF, AU,
# W64, RF64); it then silently reads what is there.
_CUT_CHUNK = re.compile(
    r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_STREAMED = 0x7FFF0000  # bytes; programs that write to a pipe claim this or more
_PLACEHOLDER = re.compile(r"\$[\w.]")  # what SpeechBrain replaces in every value of a manifest


class AudioFacts(NamedTuple):
    """What a file holds, and what is wrong with it: kind of problem to sentence with advice."""

    num_samples: int  # per channel, at its own sample rate; 0 where unknown
    sample_rate: int  # Hz; 0 where unknown
    channels: int
    problems: dict

    @property
    def duration_s(self):
        """Duration in seconds; 0 where unknown."""
        return self.num_samples / self.sample_rate if self.sample_rate else 0.0


def inspect_audio(path, check_data="headers"):
    """Looks at an audio file.

    Arguments
    ---------
    path : str or bytes
        A file of any format that soundfile reads.
    check_data : str
        ``"headers"``: the header, whether the file is as long as it says, and whether its last
        sample can be decoded: finds every truncated FLAC, WAV, AIFF, AU and Ogg file.
        ``"decode"``: every sample, so damage anywhere, digital silence and samples that are not
        finite are found too. MP3 files are always decoded: their headers may be estimates.

    Returns
    -------
    AudioFacts

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.flac"
    >>> soundfile.write(path, np.zeros(800), 8000)
    >>> inspect_audio(str(path))
    AudioFacts(num_samples=800, sample_rate=8000, channels=1, problems={})
    >>> inspect_audio(str(path), "decode").problems
    {'silence': 'all its samples are zero: restore or remove it'}
    """
    try:
        if os.stat(path).st_size == 0:
            return _nothing("empty", "the file is empty (0 bytes): restore or remove it")
        with soundfile.SoundFile(os.fsencode(path)) as audio:  # a name may be no valid UTF-8
            num_samples = audio.frames
            problems = _header_problems(audio, path)
            if not problems:
                whole = check_data == "decode" or audio.format == "MP3"
                problems = _decode(audio) if whole else _read_end(audio)
            known = 0 < num_samples <= _MAX_SAMPLES
            facts = (audio.samplerate, audio.channels, problems)
            return AudioFacts(num_samples if known else 0, *facts)
    except FileNotFoundError:
        return _nothing("missing file", "the file is missing: restore it")
    except soundfile.LibsndfileError as error:
        return _nothing("unreadable", f"unreadable audio ({_cause(error)}): restore it")
    except OSError as error:
        return _nothing("unreadable", f"unreadable audio ({error.strerror}): restore it")


def _nothing(kind, sentence):
    return AudioFacts(0, 0, 0, {kind: sentence})


def _cause(error):
    return error.error_string.strip().rstrip(".")


def _header_problems(audio, path):
    if audio.frames <= 0:
        return {"empty": "holds no samples: restore or remove it"}
    cut = _CUT_CHUNK.search(audio.extra_info)
    claimed, present = map(int, cut.groups()) if cut else (0, 0)
    if audio.frames > _MAX_SAMPLES or claimed >= _STREAMED > present:
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


def _read_end(audio):
    """Whether the last sample is where the header says: a truncated FLAC has none there."""
    if not audio.seekable():
        return {}
    try:
        audio.seek(audio.frames - 1)
        found = len(audio.read(1, dtype="float32"))
    except soundfile.LibsndfileError:
        found = 0
    if found:
        return {}
    sentence = f"truncated or damaged: the last of {audio.frames} samples cannot be decoded"
    return {"truncated or damaged": f"{sentence}: restore it"}


def _decode(audio):
    """Decodes everything; returns the problems."""
    found, peak, cause = 0, np.float32(0), ""
    try:
        # Not `blocks`, which gives blocks of full length where decoding ends early.
        while len(block := audio.read(min(_BLOCK, audio.frames - found), dtype="float32")):
            found += len(block)
            peak = np.maximum(peak, np.abs(block).max())  # passes NaN on
    except soundfile.LibsndfileError as error:
        cause = f" ({_cause(error)})"
    if found < audio.frames:
        sentence = f"truncated or damaged: decoding ends after {found} of {audio.frames} samples"
        return {"truncated or damaged": f"{sentence}{cause}: restore it"}
    if not np.isfinite(peak):
        return {"non-finite": "holds samples that are NaN or infinite: encode it again"}
    if peak == 0:
        return {"silence": "all its samples are zero: restore or remove it"}
    return {}


def format_problems(facts):
    """What keeps a file from being read as it is: 16 kHz, mono.

    Arguments
    ---------
    facts : AudioFacts

    Returns
    -------
    dict of str to str

    Example
    -------
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


def resampling_problems(facts):
    """What keeps a file from being resampled when it is read.

    Arguments
    ---------
    facts : AudioFacts

    Returns
    -------
    dict of str to str

    Example
    -------
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


def resampled_length(num_samples, sample_rate):
    """Samples at 16 kHz of a signal at another rate: exact, rounded up.

    Arguments
    ---------
    num_samples : int
    sample_rate : int
        In Hz.

    Returns
    -------
    int

    Example
    -------
    >>> resampled_length(44101, 44100), resampled_length(500, 16000)
    (16001, 500)
    """
    return -(-num_samples * SAMPLE_RATE // sample_rate)


def path_problems(file):
    """What keeps a path out of a manifest.

    Arguments
    ---------
    file : str

    Returns
    -------
    dict of str to str

    Example
    -------
    >>> path_problems("19/198/19-198-0000.flac")
    {}
    """
    if has_placeholder(file) or not file.isprintable():
        return {"path": "its path holds '$' or an unprintable character: rename it"}
    return {}


def has_placeholder(text):
    """Whether SpeechBrain would replace a part of a manifest's value.

    Arguments
    ---------
    text : str

    Returns
    -------
    bool

    Example
    -------
    >>> has_placeholder("$5"), has_placeholder("5 $")
    (True, False)
    """
    return bool(_PLACEHOLDER.search(text))


def check_choice(check_data):
    """Refuses a way of checking that there is not.

    Arguments
    ---------
    check_data : str

    Raises
    ------
    ValueError

    Example
    -------
    >>> check_choice("headers")
    """
    if check_data not in CHECKS:
        raise ValueError(f"check_data is {check_data!r}: choose {' or '.join(CHECKS)}")
