"""Format of audio by the names of files and their first bytes, and advice for those not read."""

import os
from pathlib import Path

from speechbrain_pom.data.audio.mp3_frames import read_mp3_frame

EXTENSIONS = {
    *(".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".mp2", ".mp3", ".mpga", ".nist"),
    *(".oga", ".ogg", ".opus", ".rf64", ".snd", ".sph", ".voc", ".w64", ".wav", ".wave"),
}
"""Endings of the names of audio files, in small letters; those that soundfile reads."""

OTHER_EXTENSIONS = {
    *(".3gp", ".aac", ".ac3", ".alac", ".amr", ".ape", ".dsf", ".dts", ".m4a", ".m4b"),
    *(".mka", ".mp4", ".mpc", ".ra", ".spx", ".tta", ".webm", ".wma", ".wv"),
}
"""Endings of audio files that soundfile does not read; they are listed as bad."""

_LONGEST = 40  # bytes of a file that are looked at
_NUM_NAMED = 10  # files in a sentence
_READ = {
    "WAV": lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE",
    "AIFF": lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"),
    "FLAC": lambda head: head[:4] == b"fLaC",
    "Ogg": lambda head: head[:4] == b"OggS",
    "AU": lambda head: head[:4] == b".snd",
    "CAF": lambda head: head[:4] == b"caff",
    "W64": lambda head: head[:4] == b"riff" and head[24:28] == b"wave",
    "VOC": lambda head: head[:19] == b"Creative Voice File",
    "SPHERE": lambda head: head[:7] == b"NIST_1A",
    "MP3": lambda head: head[:3] == b"ID3" or read_mp3_frame(head) is not None,
}
_NOT_READ = {
    "MP4 or M4A": lambda head: head[4:8] == b"ftyp",
    "WMA": lambda head: head[:4] == b"\x30\x26\xb2\x75",
    "AAC": lambda head: head[:1] == b"\xff" and head[1:2] in (b"\xf0", b"\xf1", b"\xf8", b"\xf9"),
    "APE": lambda head: head[:4] == b"MAC ",
    "WavPack": lambda head: head[:4] == b"wvpk",
    "AMR": lambda head: head[:5] == b"#!AMR",
    "Matroska or WebM": lambda head: head[:4] == b"\x1a\x45\xdf\xa3",
}


def extension_of(path: str | bytes | Path) -> str:
    """The ending of a file's name, in small letters.

    >>> extension_of("talks/A.WAV")
    '.wav'
    """
    return os.path.splitext(os.fsdecode(path))[1].lower()


def is_audio_name(path: str | bytes | Path) -> bool:
    """Whether a file is audio by the ending of its name.

    >>> is_audio_name("a.WAV"), is_audio_name("a.m4a"), is_audio_name("a.txt")
    (True, True, False)
    """
    return extension_of(path) in EXTENSIONS | OTHER_EXTENSIONS


def first_names(files: list[str]) -> str:
    """The first few of many files, and how many more there are, as text that can be printed.

    >>> first_names([f"{number}.wav" for number in range(12)])[-23:]
    '8.wav, 9.wav and 2 more'
    """
    names = ", ".join(name if name.isprintable() else ascii(name) for name in files[:_NUM_NAMED])
    return names + (f" and {len(files) - _NUM_NAMED} more" if len(files) > _NUM_NAMED else "")


def looks_like_audio(path: str | bytes | Path) -> str:
    """What format of audio a file has by its first bytes, whatever its name.

    >>> path = getfixture("tmp_path") / "talk.bin"
    >>> _ = path.write_bytes(b"fLaC" + bytes(100))
    >>> looks_like_audio(path)
    'FLAC'
    """
    head = _read_head(path)
    return next((name for name, fits in (_READ | _NOT_READ).items() if fits(head)), "")


def _read_head(path):
    try:
        with open(path, "rb") as stream:
            return stream.read(_LONGEST)
    except OSError:
        return b""


def unreadable_problems(path: str | bytes | Path, cause: str) -> dict[str, str]:
    """Advice for a file that soundfile does not read, by what it is.

    >>> unreadable_problems("talk.m4a", "Format not recognised")
    {'format': '.m4a files cannot be read: convert it, for example to FLAC'}
    """
    extension, head = extension_of(path), _read_head(path)
    if any(fits(head) for fits in _READ.values()):
        return {"unreadable": f"unreadable audio ({cause}): restore it"}
    kind = next((name for name, fits in _NOT_READ.items() if fits(head)), "")
    if extension in OTHER_EXTENSIONS:
        kind = extension
    if not kind:
        return {"unreadable": f"unreadable audio ({cause}): restore it"}
    return {"format": f"{kind} files cannot be read: convert it, for example to FLAC"}
