"""The words of the demo: made once, mended when damaged."""

import logging

import pytest

from speechbrain_pom.data.mini_corpus import words as module
from speechbrain_pom.data.mini_corpus.words import WORDS, plan_words


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """Two speakers' words in an empty cache, without its mini corpus."""
    monkeypatch.setattr(module, "demo_corpus", lambda show_progress: tmp_path / "mini_corpus")
    plan = [utterance for utterance in plan_words() if utterance.speaker.speaker_id in (101, 105)]
    monkeypatch.setattr(module, "plan_words", lambda: plan)
    return tmp_path


def test_each_speaker_says_each_word():
    plan = plan_words()
    for split in ("train-clean-100", "dev-clean", "test-clean", "test-other"):
        speakers = {u.speaker.speaker_id for u in plan if u.speaker.split == split}
        assert speakers
        for speaker in speakers:
            texts = sorted(u.text for u in plan if u.speaker.speaker_id == speaker)
            assert texts == sorted(2 * WORDS)
    assert len({u.utterance_id for u in plan}) == len({u.seed for u in plan}) == len(plan)


def test_made_once_and_again_when_damaged(cache, caplog):
    folder = module.mini_words(show_progress=False)
    files = sorted(folder.rglob("*.flac"))
    assert len(files) == 2 * 2 * len(WORDS)
    made = files[0].read_bytes(), files[0].stat().st_mtime_ns
    assert module.mini_words(show_progress=False) == folder
    assert files[0].stat().st_mtime_ns == made[1]
    files[0].write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        module.mini_words(show_progress=False)
    assert "is damaged (its checksum differs): making it again" in caplog.text
    assert files[0].read_bytes() == made[0]
    assert {path.name for path in cache.iterdir()} == {folder.name}
