"""Synthesis is a pure function, although eSpeak NG keeps state."""

import _ctypes
import contextlib
import ctypes
import shutil
import sys
from unittest.mock import MagicMock

import espeakng_loader
import numpy as np
import pytest

from speechbrain_pom.data.mini_corpus import espeak

SETTINGS = {"rate_wpm": 150, "pitch": 50, "pitch_range": 50}
SENTENCE = "paint the yellow box"


@pytest.fixture
def raw_library(tmp_path):
    """A copy of the library, started: its state is its own."""
    path = shutil.copy(espeakng_loader.get_library_path(), tmp_path)
    library = ctypes.CDLL(path)
    library.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
    yield library
    library.espeak_Terminate()
    _ctypes.dlclose(library._handle)


def test_speech_does_not_depend_on_what_was_said_before():
    first = espeak.synthesize(SENTENCE, "en-us+f2", **SETTINGS, seed=5)
    for voice in ("en+m3", "en-us+f4", "en-us+whisper", "en-us"):
        espeak.synthesize("now again", voice, rate_wpm=300, pitch=90, pitch_range=10, seed=8)
        again = espeak.synthesize(SENTENCE, "en-us+f2", **SETTINGS, seed=5)
        np.testing.assert_array_equal(first, again)


def test_espeak_without_unloading_does_depend_on_it(raw_library):
    """The state that `synthesize` must get rid of is real: seeding alone does not remove it."""
    outputs = [espeak._speak(raw_library, SENTENCE, "en-us+f2", SETTINGS, 5) for _ in range(2)]
    assert not np.array_equal(*outputs)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "paint the yellow lamp"},
        {"voice": "en-us+m2"},
        {"voice": "en+f2"},
        {"voice": "en-us+f3"},
        {"rate_wpm": 140},
        {"pitch": 55},
        {"pitch_range": 70},
        {"word_gap_10ms": 3},
        {"seed": 6},
    ],
)
def test_every_argument_counts(change):
    arguments = {"text": SENTENCE, "voice": "en-us+f2", "seed": 5, **SETTINGS}
    assert not np.array_equal(
        espeak.synthesize(**arguments), espeak.synthesize(**{**arguments, **change})
    )


def test_a_long_path_of_the_data_is_no_obstacle(monkeypatch):
    expected = espeak.synthesize(SENTENCE, "en-us", **SETTINGS)
    monkeypatch.setattr(espeak, "_MAX_DATA_PATH_BYTES", 1)  # goes through a short link
    np.testing.assert_array_equal(espeak.synthesize(SENTENCE, "en-us", **SETTINGS), expected)


def test_missing_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ValueError, match=r'not installed: pip install "speechbrain-pom\[demo\]"'):
        espeak.synthesize(SENTENCE, "en-us", **SETTINGS)


def test_unusable_library(monkeypatch, tmp_path):
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: str(tmp_path / "none.so"))
    with pytest.raises(ValueError, match=r"cannot use the eSpeak NG library '.*none\.so'"):
        espeak.synthesize(SENTENCE, "en-us", **SETTINGS)


def test_missing_data(monkeypatch, tmp_path):
    monkeypatch.setattr(espeakng_loader, "get_data_path", lambda: str(tmp_path))
    with pytest.raises(ValueError, match="eSpeak NG does not start with its data in"):
        espeak.synthesize(SENTENCE, "en-us", **SETTINGS)


def test_library_in_use_elsewhere_in_the_process(monkeypatch, raw_library):
    monkeypatch.setattr(espeakng_loader, "get_library_path", lambda: raw_library._name)
    with pytest.raises(RuntimeError, match="already in use in this process"):
        espeak.synthesize(SENTENCE, "en-us", **SETTINGS)


def test_unknown_voice():
    with pytest.raises(ValueError, match="eSpeak NG has no voice 'nobody'"):
        espeak.synthesize(SENTENCE, "nobody", **SETTINGS)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("rate_wpm", 79, "rate_wpm = 79: eSpeak NG takes 80 to 450"),
        ("rate_wpm", 451, "rate_wpm = 451: eSpeak NG takes 80 to 450"),
        ("pitch", -1, "pitch = -1: eSpeak NG takes 0 to 100"),
        ("pitch_range", 101, "pitch_range = 101: eSpeak NG takes 0 to 100"),
        ("word_gap_10ms", -1, "word_gap_10ms = -1: eSpeak NG takes 0 to 1000"),
    ],
)
def test_settings_out_of_range(name, value, text):
    with pytest.raises(ValueError, match=f"^{text}$"):
        espeak.synthesize(SENTENCE, "en-us", **{**SETTINGS, name: value})


def test_nothing_to_say():
    samples = espeak.synthesize("", "en-us", **SETTINGS)
    assert len(samples) < espeak.SAMPLE_RATE / 10  # silence, no error


def test_a_failure_inside_the_library(monkeypatch):
    library = MagicMock()
    library.espeak_SetVoiceByName.return_value = 0
    library.espeak_Synth.return_value = 1
    monkeypatch.setattr(espeak, "_fresh_library", lambda: contextlib.nullcontext(library))
    with pytest.raises(ValueError, match=r"^eSpeak NG could not say 'hello' \(status 1\)$"):
        espeak.synthesize("hello", "en-us", **SETTINGS)
