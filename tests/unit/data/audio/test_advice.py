"""What is said of files that are not read: the advice fits the cause."""

import os

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.audio.files import inspect_audio
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.utils.errors import UserError

FTYP = bytes(4) + b"ftypM4A " + bytes(100)
CONVERT = "files cannot be read: convert it, for example to FLAC"


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.m4a", FTYP, ".m4a"),
        ("a.wma", b"\x30\x26\xb2\x75" + bytes(100), ".wma"),
        ("a.aac", b"\xff\xf1" + bytes(100), ".aac"),
        ("a.ape", b"MAC " + bytes(100), ".ape"),
        ("a.mp3", FTYP, "MP4 or M4A"),  # by its content, where the ending says something else
        ("noending", b"\xff\xf9" + bytes(100), "AAC"),
        ("a.wav", b"\x1a\x45\xdf\xa3" + bytes(100), "Matroska or WebM"),
    ],
)
def test_formats_that_are_not_read_have_to_be_converted(tmp_path, name, content, kind):
    path = tmp_path / name
    path.write_bytes(content)
    assert inspect_audio(path).problems == {"format": f"{kind} {CONVERT}"}
    with pytest.raises(UserError, match="convert it, for example to FLAC"):
        AudioReader(path)


def test_files_of_readable_formats_that_are_broken_have_to_be_restored(tmp_path):
    for name, content in (("a.wav", b"RIFF\x10\0\0\0WAVEfmt "), ("b.flac", b"fLaC"), ("c", b"x")):
        (tmp_path / name).write_bytes(content)
        problem = inspect_audio(tmp_path / name).problems["unreadable"]
        assert problem.startswith("unreadable audio (")
        assert problem.endswith("): restore it")


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    assert inspect_audio(tmp_path / "pipe.wav").problems == {
        "unreadable": "is a pipe, and audio is read more than once: give a file"
    }
    assert inspect_audio(tmp_path).problems == {
        "unreadable": "is not a file, and audio is read more than once: give a file"
    }


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    soundfile.write(tmp_path / "a.wav", np.zeros(100), 16000)
    monkeypatch.setattr("speechbrain_pom.data.audio.files.AudioStream", refuse)
    assert inspect_audio(tmp_path / "a.wav").problems == {
        "unreadable": "unreadable audio (Permission denied): change permissions"
    }


@pytest.mark.parametrize(
    ("channels", "problems"),
    [
        ((1, -1), "its channels cancel each other out when they are averaged: keep one of them"),
        ((0, 0), "all its samples are zero: restore or remove it"),
        ((1, 0), None),
        ((1, -0.9), None),
        ((1,), None),
    ],
)
@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.mp3"])
def test_silence_is_that_of_the_mean_of_the_channels(tmp_path, name, channels, problems):
    signal = 0.3 * np.sin(np.arange(8000) / 9)[:, None] * np.array(channels)
    soundfile.write(tmp_path / name, signal, 16000)
    found = inspect_audio(tmp_path / name, "decode").problems
    assert found == ({"silence": problems} if problems else {})
