"""Frames in tars: complete, once each, and where the manifest says."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference.jobs import frame_tars
from tests.helpers import ROOT
from tests.unit.inference.streaming.test_stream import sound

NUM_FILES = 12


@pytest.fixture
def audio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(frame_tars.FrameTars.__init__, "__defaults__", (frame_tars.WHOLE, 10_000))
    (tmp_path / "audio/deep").mkdir(parents=True)
    for seed in range(NUM_FILES):
        wav = sound(random.Random(seed).randrange(8_000, 24_000), seed)
        soundfile.write(tmp_path / f"audio/{'deep/' * (seed % 2)}{seed}.wav", wav.numpy(), 16000)
    return tmp_path / "audio"


def encode(model, *words):
    return main(["encode", str(model), "audio", "--device", "cpu", *map(str, words)])


def members(folder):
    """Name to bytes, as tarfile reads them; no name may come twice."""
    found = {}
    for path in sorted(Path(folder).glob("*.tar")):
        assert path.stat().st_size % 512 == 0
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.name not in found
                found[info.name] = tar.extractfile(info).read()
    return found


def files(folder):
    paths = Path(folder).rglob("*.npy")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def check(folder, expected):
    """The tars hold what is expected, and the manifest says where."""
    assert members(folder) == expected
    lines = [json.loads(line) for line in Path(folder, "manifest.jsonl").read_text().splitlines()]
    assert {line["output"] for line in lines} == expected.keys()
    for line in lines:
        with open(Path(folder, line["tar"]), "rb") as stream:
            content = os.pread(stream.fileno(), line["bytes"], line["offset"])
        assert content == expected[line["output"]]
        assert len(np.load(io.BytesIO(content))) == line["num_frames"]
    assert not list(Path(folder).glob(".*frames"))


@pytest.mark.parametrize("more", [[], ["--jobs", "2"], ["--batch_s", "4", "--layers", "0,2"]])
def test_they_hold_the_files(pretrained_run, audio, more):
    assert encode(pretrained_run, "--out", "files", *more) == 0
    assert encode(pretrained_run, "--out", "tars", "--format", "tar", *more) == 0
    expected = files("files")
    assert len(expected) == NUM_FILES
    if "--layers" not in more:
        check("tars", expected)
    else:
        assert members("tars").keys() == expected.keys()
    tars = sorted(Path("tars").glob("*.tar"))
    assert [path.name for path in tars[:2]] == ["frames-000000.tar", "frames-000001.tar"]
    assert not list(Path("tars").rglob("*.npy"))
    before = {path: path.read_bytes() for path in tars}
    assert encode(pretrained_run, "--out", "tars", "--format", "tar", *more) == 0
    assert {path: path.read_bytes() for path in sorted(Path("tars").glob("*.tar"))} == before


def test_webdataset_reads_them(pretrained_run, audio):
    webdataset = pytest.importorskip("webdataset")
    assert encode(pretrained_run, "--out", "files") == 0
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    paths = [str(path) for path in sorted(Path("tars").glob("*.tar"))]
    samples = webdataset.WebDataset(paths, shardshuffle=False, empty_check=False)
    assert {f"{one['__key__']}.npy": one["npy"] for one in samples} == files("files")


def test_what_a_killed_call_left_is_cut_off(pretrained_run, audio):
    assert encode(pretrained_run, "--out", "files") == 0
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    draw, manifest = random.Random(0), Path("tars/manifest.jsonl")
    for _ in range(4):
        # Killed in a member, of which there is no line yet.
        lines = manifest.read_text().splitlines()
        kept = sorted(map(json.loads, lines), key=lambda one: (one["tar"], one["offset"]))
        kept = kept[: draw.randrange(NUM_FILES)]
        manifest.write_text("".join(json.dumps(line) + "\n" for line in kept))
        newest = max(Path("tars").glob("*.tar"))
        newest.write_bytes(newest.read_bytes()[: -draw.randrange(1, 2000)])
        Path("tars/.frames").mkdir()
        Path("tars/.frames/half.npy").touch()
        assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
        check("tars", files("files"))


def test_parts_have_tars_of_their_own(pretrained_run, audio):
    assert encode(pretrained_run, "--out", "files") == 0
    for number in (2, 1):
        words = ["--out", "tars", "--format", "tar", "--part", f"{number}/2"]
        assert encode(pretrained_run, *words) == 0
    assert not list(Path("tars").glob("frames-*.tar"))
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    check("tars", files("files"))


def test_frames_in_a_tar_are_not_replaced(pretrained_run, audio, capsys):
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    soundfile.write("audio/0.wav", sound(20_000, 99).numpy(), 16000)
    with pytest.raises(SystemExit):
        encode(pretrained_run, "--out", "tars", "--format", "tar")
    assert "has changed since 'tars/frames-00000" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        encode(pretrained_run, "--out", "more", "--format", "tar", "--dtype", "bfloat16")
    assert "NumPy has no such type: add --format safetensors" in capsys.readouterr().err


def test_a_lost_tar_is_made_again(pretrained_run, audio):
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    expected = members("tars")
    Path("tars/frames-000000.tar").unlink()
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    check("tars", expected)


@pytest.mark.slow
def test_killed_again_and_again(pretrained_run, audio):
    assert encode(pretrained_run, "--out", "files") == 0
    words = [sys.executable, "-m", "speechbrain_pom", "encode", pretrained_run, "audio"]
    words += ["--out", "tars", "--format", "tar", "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    draw, codes = random.Random(1), []
    for _ in range(8):
        program = subprocess.Popen(list(map(str, words)), env=environment)
        deadline = time.time() + 60
        start = Path("tars/manifest.jsonl")
        before = start.read_text() if start.exists() else ""
        while program.poll() is None and time.time() < deadline:
            if start.exists() and start.read_text() != before:
                time.sleep(draw.uniform(0, 0.05))
                program.send_signal(signal.SIGKILL)
                break
            time.sleep(0.005)
        codes.append(program.wait())
    assert -signal.SIGKILL in codes
    assert encode(pretrained_run, "--out", "tars", "--format", "tar") == 0
    check("tars", files("files"))
