"""The mini corpus: layout, content, reproducibility, and what happens to a folder."""

import argparse
import logging
import multiprocessing
import os
import re
import shutil
import signal
import string
import time

import numpy as np
import pytest
import soundfile

from speechbrain_pom.cli import mini_corpus as command
from speechbrain_pom.data.mini_corpus import make as mini_corpus
from speechbrain_pom.data.mini_corpus.audio import render_utterance
from speechbrain_pom.data.mini_corpus.make import (
    demo_corpus,
    make_mini_corpus,
    read_manifest,
    verify_mini_corpus,
)
from speechbrain_pom.data.mini_corpus.plan import VOCABULARY, plan_corpus
from speechbrain_pom.utils.locks import locked

TRAIN, DEV, TEST, OTHER = "train-clean-100", "dev-clean", "test-clean", "test-other"
MINUTES = 1.0


def make(out, duration_min=MINUTES, **options):
    return make_mini_corpus(out, duration_min, show_progress=False, **options)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return make(tmp_path_factory.mktemp("original") / "mini")


@pytest.fixture
def corpus(original, tmp_path):
    return shutil.copytree(original, tmp_path / "mini")


@pytest.fixture(scope="module")
def default_plan():
    return plan_corpus(duration_min=15, seed=0)


def of_split(plan, split):
    return [utterance for utterance in plan if utterance.speaker.split == split]


# Content


def test_layout_is_librispeechs(original):
    assert {path.name for path in original.iterdir() if path.is_dir()} == {TRAIN, DEV, TEST, OTHER}
    transcripts = {}
    for path in original.rglob("*.trans.txt"):
        split, speaker, chapter, name = path.relative_to(original).parts
        assert name == f"{int(speaker)}-{int(chapter)}.trans.txt"
        lines = path.read_text().splitlines()
        assert lines == sorted(lines)
        for line in lines:
            name, text = line.split(" ", 1)
            assert re.fullmatch(rf"{speaker}-{chapter}-\d{{4}}", name)
            assert set(text.split()) <= VOCABULARY
            transcripts[f"{split}/{speaker}/{chapter}/{name}.flac"] = text
    audio = {path.relative_to(original).as_posix() for path in original.rglob("*.flac")}
    assert audio == transcripts.keys()


def test_audio_is_16_khz_mono_of_2_to_8_seconds(original):
    durations = []
    for path in original.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.format, info.subtype) == ("FLAC", "PCM_16")
        assert (info.samplerate, info.channels) == (16000, 1)
        durations.append(info.frames / 16000)
        samples, _ = soundfile.read(path, dtype="int16")
        assert 300 < np.abs(samples.astype(int)).max() < 32767  # neither silent nor clipped
    assert min(durations) >= 2
    assert max(durations) < 9
    assert sum(durations) == pytest.approx(60 * MINUTES, rel=0.15)


def test_speakers_file_and_manifest_agree_with_the_audio(original):
    manifest = read_manifest(original)
    assert manifest["options"] == {"duration_min": MINUTES, "seed": 0}
    assert {"espeak-ng", "numpy", "scipy", "libsndfile"} <= manifest["libraries"].keys()
    rows = [
        [field.strip() for field in line.split("|")]
        for line in (original / "SPEAKERS.TXT").read_text().splitlines()
        if not line.startswith(";")
    ]
    for split, totals in manifest["splits"].items():
        frames = {path: soundfile.info(path).frames for path in (original / split).rglob("*.flac")}
        for path, num_samples in frames.items():
            name = path.relative_to(original).as_posix()
            assert manifest["files"][name]["num_samples"] == num_samples
        speakers = {path.parts[-3] for path in frames}
        assert totals == {
            "num_speakers": len(speakers),
            "num_utterances": len(frames),
            "num_samples": sum(frames.values()),
        }
        assert {row[0] for row in rows if row[2] == split} == speakers
        minutes = sum(float(row[3]) for row in rows if row[2] == split)
        assert minutes == pytest.approx(sum(frames.values()) / 16000 / 60, abs=0.03)


def test_readme_says_what_it_is(original):
    text = " ".join((original / "README.TXT").read_text().split())
    assert "SYNTHETIC SPEECH" in text
    assert "says nothing about LibriSpeech" in text


def test_vocabulary_is_small_and_has_every_letter(default_plan):
    assert len(VOCABULARY) == 35
    assert set("".join(VOCABULARY)) == set(string.ascii_uppercase)
    train = " ".join(utterance.text for utterance in of_split(default_plan, TRAIN)).split()
    assert min(train.count(word) for word in VOCABULARY) >= 10


def test_test_sentences_and_speakers_are_unseen_in_training(default_plan):
    train = of_split(default_plan, TRAIN)
    held_out = [utterance for utterance in default_plan if utterance.speaker.split != TRAIN]
    texts = {utterance.text for utterance in train}
    assert len(texts) > 0.95 * len(train)
    assert sum(utterance.text in texts for utterance in held_out) < 0.05 * len(held_out)

    settings = ("pitch", "pitch_range", "rate_wpm", "source_rate_hz", "level_db", "snr_db")
    assert not {u.speaker.speaker_id for u in train} & {u.speaker.speaker_id for u in held_out}
    for name in settings:
        seen = {getattr(utterance.speaker, name) for utterance in train}
        assert len(seen) >= 6
        assert all(min(seen) <= getattr(u.speaker, name) <= max(seen) for u in held_out), name
    key = ("voice", "pitch", "rate_wpm", "source_rate_hz")
    assert not {tuple(getattr(u.speaker, name) for name in key) for u in train} & {
        tuple(getattr(u.speaker, name) for name in key) for u in held_out
    }
    assert {u.speaker.voice.split("+")[0] for u in train} >= {
        u.speaker.voice.split("+")[0] for u in held_out
    }
    for split in (TRAIN, DEV, TEST, OTHER):
        assert {u.speaker.sex for u in of_split(default_plan, split)} == {"F", "M"}


def test_test_other_is_noisier_by_the_stated_ratios(default_plan):
    assert {u.snr_db for u in of_split(default_plan, OTHER)} == {18, 15, 12}
    assert min(u.snr_db for u in default_plan if u.speaker.split in (DEV, TEST)) >= 20

    def measured_snr_db(utterance):
        audio = render_utterance(utterance) / 2.0**15
        noise = np.mean(audio[:640] ** 2)  # the first 40 ms are before the speech
        return 10 * np.log10(np.mean(audio**2) / noise)

    other = np.median([measured_snr_db(u) for u in of_split(default_plan, OTHER)[:7]])
    clean = np.median([measured_snr_db(u) for u in of_split(default_plan, TEST)[:7]])
    assert 10 < other < 20 < clean


def test_longer_corpora_have_more_speakers_and_chapters_of_limited_length():
    plan = plan_corpus(duration_min=600, seed=0)
    train = of_split(plan, TRAIN)
    assert len({u.speaker for u in train}) > 60
    chapters = [u.chapter_id for u in train]
    assert max(chapters.count(chapter) for chapter in set(chapters[:200])) == 25
    names = [u.audio_path for u in plan]
    assert len(set(names)) == len(names)


# Reproducibility


def test_same_bytes_for_any_number_of_workers(original, tmp_path):
    assert contents(make(tmp_path / "two", num_workers=2)) == contents(original)


def test_other_seeds_give_other_sentences_and_voices(original, tmp_path):
    other = make(tmp_path / "other", seed=1)
    assert (other / "SPEAKERS.TXT").read_bytes() != (original / "SPEAKERS.TXT").read_bytes()
    texts = [
        {
            line.split(" ", 1)[1]
            for path in folder.rglob("*.txt")
            for line in path.read_text().splitlines()
        }
        for folder in (original, other)
    ]
    assert not texts[0] & texts[1]


def test_an_utterance_does_not_depend_on_what_is_rendered_before(default_plan):
    plan = default_plan[::20]
    forward = [render_utterance(utterance) for utterance in plan]
    backward = [render_utterance(utterance) for utterance in reversed(plan)][::-1]
    assert all(np.array_equal(*pair) for pair in zip(forward, backward, strict=True))


# A folder that is there already


def test_an_intact_corpus_is_left_alone(corpus, monkeypatch, caplog):
    def must_not_run(*_):
        raise AssertionError("the corpus was made again")

    monkeypatch.setattr(mini_corpus, "write_corpus", must_not_run)
    times = {path: path.stat().st_mtime_ns for path in [corpus, *corpus.rglob("*")]}
    assert make(corpus) == corpus
    assert times == {path: path.stat().st_mtime_ns for path in [corpus, *corpus.rglob("*")]}
    assert not caplog.records


def damage(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (damage, "the file '{}' is damaged (its checksum differs)"),
        (os.unlink, "the file '{}' is missing"),
    ],
)
@pytest.mark.parametrize("pattern", ["test-clean/*/*/*.flac", "train-*/*/*/*.txt", "SPEAKERS.TXT"])
def test_damage_is_named_and_mended(corpus, original, caplog, harm, problem, pattern):
    path = min(corpus.glob(pattern))
    harm(path)
    message = problem.format(path.relative_to(corpus).as_posix())
    with pytest.raises(ValueError, match=re.escape(message)):
        verify_mini_corpus(corpus)
    make(corpus)
    assert f"{message}: making the mini corpus again" in caplog.text
    assert contents(corpus) == contents(original)
    assert [path.name for path in corpus.parent.iterdir()] == ["mini"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "is not a mini corpus: it has no manifest.json"),
        ('{\n "kind": "speech', "the file 'manifest.json' is damaged"),
        ('{"kind": "speechbrain-pom mini corpus"}', "the file 'manifest.json' is damaged"),
        ("[]", "is not a mini corpus: its manifest.json is of something else"),
    ],
)
def test_bad_manifest_is_named_and_mended(corpus, original, caplog, content, problem):
    manifest = corpus / "manifest.json"
    manifest.unlink() if content is None else manifest.write_text(content)
    with pytest.raises(ValueError, match=re.escape(problem)):
        verify_mini_corpus(corpus)
    make(corpus)
    assert f"{problem}: making the mini corpus again" in caplog.text
    assert contents(corpus) == contents(original)


def test_the_first_bad_file_is_named(corpus):
    first, *_, last = sorted(corpus.rglob("*.flac"))
    damage(last)
    first.unlink()
    with pytest.raises(ValueError, match=f"'{first.relative_to(corpus).as_posix()}' is missing"):
        verify_mini_corpus(corpus)


@pytest.mark.parametrize("name", ["notes.txt", "dev-clean/102/empty-folder"])
def test_additional_files_are_kept_unless_forced(corpus, original, name):
    extra = corpus / name
    extra.write_text("mine") if extra.suffix else extra.mkdir()
    with pytest.raises(ValueError, match=f"the file '{name}' is not part of it"):
        verify_mini_corpus(corpus)
    with pytest.raises(ValueError, match=f"'{name}' is not part of it: move it away"):
        make(corpus)
    assert extra.exists()
    make(corpus, force=True)
    assert contents(corpus) == contents(original)
    assert not extra.exists()


def test_other_options_are_refused_unless_forced(corpus, original, tmp_path):
    message = "has version 1, duration_min 1.0, seed 0, but version 1, duration_min 0.5, seed 3 is"
    with pytest.raises(ValueError, match=message):
        make(corpus, 0.5, seed=3)
    assert contents(corpus) == contents(original)
    make(corpus, 0.5, seed=3, force=True)
    assert contents(corpus) == contents(make(tmp_path / "new", 0.5, seed=3))


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("other_manifest", [False, True])
def test_a_folder_with_other_content_is_never_touched(tmp_path, force, other_manifest):
    (tmp_path / "thesis.tex").write_text("mine")
    if other_manifest:
        (tmp_path / "manifest.json").write_text('{"kind": "of something else"}')
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=r"is not a mini corpus: .*'thesis.tex': give an empty"):
        make(tmp_path, force=force)
    assert contents(tmp_path) == before


def test_an_empty_folder_and_missing_parents_are_fine(tmp_path, original):
    (tmp_path / "empty").mkdir()
    assert contents(make(tmp_path / "empty")) == contents(original)
    assert contents(make(tmp_path / "a" / "b")) == contents(original)


def test_a_link_to_a_folder_is_followed(tmp_path, original):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    assert make(tmp_path / "link") == tmp_path / "there"
    assert contents(tmp_path / "there") == contents(original)


# Interruptions and several processes


def run_in_process(function, *arguments, **options):
    # Forked, for speed: neither this process nor the child has started a library's threads.
    context = multiprocessing.get_context("fork")
    process = context.Process(target=function, args=arguments, kwargs=options)
    process.start()
    return process


def test_a_killed_generation_is_started_again(tmp_path, original, caplog):
    out = tmp_path / "mini"
    process = run_in_process(make, out, 15)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.rglob("*.flac"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not out.exists()
    make(out)
    assert f"the generation of '{out}' was interrupted: starting again" in caplog.text
    assert contents(out) == contents(original)
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("died")])
def test_a_failed_generation_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(folder, *_):
        (folder / TRAIN).mkdir(parents=True)
        raise error

    monkeypatch.setattr(mini_corpus, "write_corpus", fail)
    with pytest.raises(error if isinstance(error, type) else type(error)):
        make(tmp_path / "mini")
    assert not list(tmp_path.iterdir())


def test_a_failed_repair_keeps_the_old_folder(corpus, monkeypatch):
    damage(corpus / "SPEAKERS.TXT")
    before = contents(corpus)

    def disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mini_corpus, "write_corpus", disk_full)
    with pytest.raises(ValueError, match=r"cannot make a mini corpus in '.*': disk full, make"):
        make(corpus)
    assert contents(corpus) == before


def test_two_processes_at_the_same_time(tmp_path, original):
    out = tmp_path / "mini"
    processes = [run_in_process(make, out) for _ in range(3)]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert contents(out) == contents(original)
    assert [path.name for path in tmp_path.iterdir()] == ["mini"]


def test_the_second_process_waits_and_says_so(tmp_path, caplog):
    lock_path = tmp_path / ".lock"

    def hold():
        with locked(lock_path, wait=True):
            (tmp_path / "held").touch()
            time.sleep(0.3)

    process = run_in_process(hold)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with locked(lock_path, wait=True):
        process.join()
    assert "waiting for another process that holds" in caplog.text
    assert not lock_path.exists()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.lockf", no_locks)
    with pytest.raises(ValueError, match=r"without file locks .*: choose a folder on a local disk"):
        make(tmp_path / "mini")


# Demo, command line and bad calls


def test_demo_corpus_is_cached(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        mini_corpus, "make_mini_corpus", lambda out, **options: calls.append((out, options))
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SPEECHBRAIN_POM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    demo_corpus(show_progress=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    demo_corpus()
    monkeypatch.setenv("SPEECHBRAIN_POM_CACHE", str(tmp_path / "own"))
    demo_corpus()
    name = "mini_corpus-v1-15min-seed0"
    assert calls == [
        (tmp_path / "home" / ".cache" / "speechbrain_pom" / name, {"show_progress": False}),
        (tmp_path / "xdg" / "speechbrain_pom" / name, {"show_progress": True}),
        (tmp_path / "own" / name, {"show_progress": True}),
    ]


def test_command_line(tmp_path, original, capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args([str(tmp_path / "mini"), "--minutes", "1", "--seed", "0"])
    assert command.run(args) == 0
    assert contents(tmp_path / "mini") == contents(original)
    output = capsys.readouterr()
    assert "synthetic speech" in output.out
    assert re.search(r"train-clean-100 +4 speakers +\d+ utterances +0\.\d\d min", output.out)
    assert "mini corpus: 100%" in output.err
    defaults = parser.parse_args(["out"])
    assert (defaults.minutes, defaults.seed, defaults.num_workers) == (15.0, 0, None)
    assert not defaults.force
    help_text = parser.format_help()
    assert all(f"--{name}" in help_text for name in ("minutes", "seed", "num_workers", "force"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"duration_min": 0.25}, "a mini corpus of 0.25 minutes is not possible: ask for 0.5"),
        ({"duration_min": float("nan")}, "a mini corpus of nan minutes is not possible"),
        ({"seed": -1}, "seed -1 is not possible: give an integer >= 0"),
        ({"seed": 0.5}, "seed 0.5 is not possible"),
        ({"num_workers": 0}, "0 worker processes are not possible: give 1 or more"),
    ],
)
def test_impossible_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "mini", **options)
    assert not list(tmp_path.iterdir())


def test_impossible_folders(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"'.*file' is a file: give another folder"):
        make(tmp_path / "file")
    with pytest.raises(ValueError, match=r"cannot make a mini corpus in '.*file/mini': "):
        make(tmp_path / "file" / "mini")


def test_a_repair_is_said_once(corpus, caplog):
    caplog.set_level(logging.DEBUG, logger="speechbrain_pom")
    (corpus / "README.TXT").unlink()
    make(corpus)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
