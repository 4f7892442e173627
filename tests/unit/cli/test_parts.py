"""Commands in parts: each file once, whoever is killed, and one record of all at the end."""

import json
import sys

import numpy as np
import pytest
import soundfile

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference.jobs.outputs import own_folder
from speechbrain_pom.utils.locks import acquire, release
from speechbrain_pom.utils.parts import Part

NUM_FILES = 5


@pytest.fixture
def audio(tmp_path):
    random = np.random.default_rng(0)
    folder = tmp_path / "audio"
    folder.mkdir()
    for number in range(NUM_FILES):
        path = folder / f"{number}.wav"
        soundfile.write(path, random.uniform(-0.5, 0.5, 8000 + 500 * number), 16000)
    return folder


def entries(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_parts_of_encode_are_the_whole(pretrained_run, audio, tmp_path, capsys):
    call = ["encode", str(pretrained_run), str(audio), "--device", "cpu", "--out"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*call, str(whole)]) == 0
    assert main([*call, str(parts), "--part", "1/2"]) == 0
    assert len(list(parts.glob("*.npy"))) == 3
    soundfile.write(audio / "late.wav", np.ones(8000) / 2, 16000)  # not in the list
    assert main([*call, str(parts), "--part", "2/2"]) == 0
    names = sorted(path.name for path in whole.glob("*.npy"))
    assert sorted(path.name for path in parts.glob("*.npy")) == names
    for name in names:
        np.testing.assert_array_equal(np.load(parts / name), np.load(whole / name))
    assert not (parts / "manifest.jsonl").exists()
    assert "2 were finished before" not in capsys.readouterr().out
    assert main([*call, str(parts), "--part", "1/2"]) == 0
    assert "0 of 3 files encoded, 3 were finished before" in capsys.readouterr().out
    (audio / "late.wav").unlink()
    assert main([*call, str(parts)]) == 0
    assert (
        f"0 of {NUM_FILES} files encoded, {NUM_FILES} were finished be" in capsys.readouterr().out
    )
    assert not list(parts.glob("part-*"))
    found, expected = (entries(folder / "manifest.jsonl") for folder in (parts, whole))
    assert found == expected


def test_a_part_is_taken_once_and_not_beside_the_whole(pretrained_run, audio, tmp_path, capsys):
    call = ["encode", str(pretrained_run), str(audio), "--device", "cpu"]
    call += ["--out", str(tmp_path / "out")]
    with own_folder(tmp_path / "out", Part(1, 2)):
        pass
    for held, words in (
        (".part-00001-of-00002.lock", ["--part", "1/2"]),
        (".part-00001-of-00002.lock", []),
        (".writing.lock", ["--part", "1/2"]),
    ):
        acquire(tmp_path / "out" / held)
        with pytest.raises(SystemExit) as caught:
            main([*call, *words])
        release(tmp_path / "out" / held)
        assert caught.value.code == 2
        assert "another process is writing to it: wait, or give another" in capsys.readouterr().err
    assert main([*call, "--part", "1/2"]) == 0
    other = [*call[:2], str(audio / "0.wav"), *call[3:], "--part", "2/2"]
    with pytest.raises(SystemExit):
        main(other)
    assert "is the list of " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--on", "local"],
            "--on local needs --parts N, at least 1, and no --part (it has --parts",
        ),
        (
            ["--on", "local", "--parts", "2", "--part", "1/2"],
            "and no --part (it has --parts 2, --p",
        ),
        (
            ["--on", "local", "--parts", "2", "--job_option", "fast"],
            "--job_option fast: give NAME=",
        ),
        (["--on", "local", "--parts", "2", "--job_option", "speed=2"], "--on local: "),
        (["--on", "slurm", "--parts", "2"], "--on slurm: "),
        (["--part", "2"], "--part 2: give I/N such as 3/64"),
    ],
)
def test_launches_that_cannot_work(audio, tmp_path, capsys, words, message):
    pytest.importorskip("submitit", reason="extra [cluster]")
    with pytest.raises(SystemExit) as caught:
        main(["pack", str(audio), str(tmp_path / "out"), *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_without_submitit_and_without_out(audio, tmp_path, capsys, monkeypatch, finetuned_run):
    monkeypatch.setitem(sys.modules, "submitit", None)
    for words, message in (
        (["pack", audio, tmp_path / "out", "--on", "local", "--parts", "1"], "needs submitit: pip"),
        (
            ["transcribe", finetuned_run, audio, "--part", "1/2"],
            "--part and --on need --out, a fol",
        ),
    ):
        with pytest.raises(SystemExit):
            main([str(word) for word in words])
        assert message in capsys.readouterr().err


@pytest.mark.slow
def test_jobs_of_this_machine(audio, tmp_path, capsys):
    pytest.importorskip("submitit", reason="extra [cluster]")
    pytest.importorskip("pyarrow", reason="extra [scale]")
    out = tmp_path / "out"
    words = ["pack", str(audio), str(out), "--on", "local", "--parts", "2", "--num_workers=1"]
    assert main(words) == 0
    assert "2 parts on local, logs in" in capsys.readouterr().out
    assert (out / "index.parquet").is_file()
