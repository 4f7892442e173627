"""Audio files for commands."""

import pytest

from tests.helpers.sounds import write_noise


@pytest.fixture
def audio(tmp_path, monkeypatch):
    """Three files, in the working folder: audio/a.wav, audio/b.flac, audio/deep/c.wav."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(["a.wav", "b.flac", "deep/c.wav"]):
        write_noise(tmp_path / "audio" / name, 0.7 + 0.4 * seed, seed)
    return tmp_path / "audio"
