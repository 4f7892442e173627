"""`encode` on the command line."""

import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open

from speechbrain_pom.__main__ import main
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.overlapping import encode_windows
from speechbrain_pom.inference import load_encoder
from speechbrain_pom.inference.jobs.frame_files import new_frames
from speechbrain_pom.inference.jobs.outputs import own_folder
from speechbrain_pom.nnet import WeightedSum
from speechbrain_pom.utils.errors import UserError
from tests.helpers.sounds import write_noise

NAMES = ("a", "b", "deep/c")


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_run):
    """Runs of pretraining with random weights."""
    folder = tmp_path_factory.mktemp("models")
    make_run(folder / "pom", seed=0)
    make_run(folder / "other", seed=1)
    make_run(folder / "mha", seed=2, attention_type="regularMHA")
    return folder


@pytest.fixture
def model(models):
    return str(models / "pom")


def encode(*arguments):
    return main(["encode", *map(str, arguments), "--out", "frames"])


def manifest(folder="frames"):
    with open(os.path.join(folder, "manifest.jsonl"), encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def contents(folder):
    """Bytes of each file; nothing may lie there but outputs and the manifest."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def written(folder):
    return {name: (folder / f"{name}.npy").stat().st_mtime_ns for name in NAMES}


def rewritten(before, folder):
    return [name for name, time_ns in written(folder).items() if time_ns != before[name]]


def test_frames_and_manifest(model, audio, tmp_path, capsys):
    assert encode(model, "audio") == 0
    printed = capsys.readouterr()
    assert printed.out == "frames: 3 of 3 files encoded\n"
    assert "encode: 100%" in printed.err
    encoder, lines = load_encoder(model), manifest()
    assert [line["output"] for line in lines] == [f"{name}.npy" for name in NAMES]
    for line, file in zip(lines, ("a.wav", "b.flac", "deep/c.wav"), strict=True):
        frames = np.load(tmp_path / "frames" / line["output"])
        assert frames.dtype == np.float32
        expected = encoder.encode_file(audio / file)
        torch.testing.assert_close(torch.from_numpy(frames), expected, rtol=0, atol=1e-6)
        assert line["file"] == str(audio / file)
        assert line["num_frames"] == len(frames)
        assert line["duration_s"] == soundfile.info(audio / file).duration
        assert (line["windows"], line["layers"], line["dtype"]) == (None, "last", "float32")
        assert len(line["model_sha256"]) == 64
        assert line["model"].startswith(os.path.join(model, "save", "CKPT+"))
    assert set(contents(tmp_path / "frames")) == {f"{n}.npy" for n in NAMES} | {"manifest.jsonl"}


def test_safetensors_with_several_layers(model, audio):
    assert encode(model, "audio/a.wav", "--format", "safetensors", "--layers", "2,0") == 0
    expected = load_encoder(model).encode_file(audio / "a.wav", layers=[2, 0])
    with safe_open("frames/a.safetensors", "pt") as file:
        assert list(file.keys()) == ["frames"]
        frames, facts = file.get_tensor("frames"), file.metadata()
    torch.testing.assert_close(frames, torch.stack(expected), rtol=0, atol=1e-6)
    digest = manifest()[0]["model_sha256"]
    assert facts == {
        "model_sha256": digest,
        "layers": "[2, 0]",
        "sample_rate": "16000",
        "samples_per_frame": "640",
        "frame_hop_ms": "40",
    }


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("window_s", ["0.3", "300"])
def test_types_of_the_files(model, audio, dtype, window_s):
    options = ["--format", "safetensors", "--layers", "1", "--window_s", window_s]
    assert encode(model, "audio/b.flac", "--dtype", dtype, *options) == 0
    expected = load_encoder(model).encode_file(audio / "b.flac", layers=1)
    with safe_open("frames/b.safetensors", "pt") as file:
        frames = file.get_tensor("frames")
    assert frames.dtype == getattr(torch, dtype)
    error = (frames.float() - expected).abs().max() / expected.abs().max()
    assert error < {"float16": 1e-3, "bfloat16": 8e-3}[dtype]


@pytest.mark.parametrize(("kind", "windows"), [("pom", "exact"), ("mha", "overlapping")])
@pytest.mark.parametrize("layers", ["last", "0,2"])
def test_long_files_are_encoded_in_windows(models, audio, kind, windows, layers):
    options = ["--window_s", "0.5", "--overlap_s", "0.2", "--layers", layers]
    assert encode(models / kind, "audio/a.wav", "audio/deep/c.wav", *options) == 0
    assert [line["windows"] for line in manifest()] == [windows, windows]
    with AudioReader(audio / "deep/c.wav") as reader:
        expected = encode_windows(
            load_encoder(models / kind),
            reader,
            window_s=0.5,
            overlap_s=0.2,
            layers="last" if layers == "last" else [0, 2],
        )
    expected = expected if layers == "last" else torch.stack(expected)
    frames = torch.from_numpy(np.load("frames/deep/c.npy"))
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-6)


def test_a_learnt_sum_of_layers(make_run, model, audio, tmp_path, capsys):
    checkpoint = make_run(tmp_path / "ctc", "ctc", weighted_sum=True)
    torch.save(WeightedSum(3).state_dict(), checkpoint / "layer_sum.ckpt")
    assert encode(checkpoint, "audio/a.wav", "--layers", "sum") == 0
    expected = load_encoder(checkpoint).encode_file(audio / "a.wav", layers="sum")
    frames = torch.from_numpy(np.load("frames/a.npy"))
    torch.testing.assert_close(frames, expected, rtol=0, atol=1e-6)
    with pytest.raises(SystemExit):
        main(["encode", model, "audio", "--layers", "sum", "--out", "none"])
    assert "has learnt no sum of layers: give last or numbers" in capsys.readouterr().err


def test_bytes_do_not_depend_on_the_number_of_processes(model, audio, tmp_path):
    for jobs in ("1", "2"):
        assert encode(model, "audio", "--jobs", jobs) == 0
        (tmp_path / "frames").rename(tmp_path / f"frames{jobs}")
    assert contents(tmp_path / "frames1") == contents(tmp_path / "frames2")


def test_bad_files_are_named_and_the_rest_go_on(model, audio, tmp_path, capsys):
    (audio / "empty.wav").touch()
    (audio / "text.mp3").write_text("no audio")
    (audio / "cut.flac").write_bytes((audio / "b.flac").read_bytes()[:2000])
    assert encode(model, "audio") == 1
    printed = capsys.readouterr()
    assert printed.out == "frames: 3 of 6 files encoded\n"
    failed = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in failed] == [
        "audio/cut.flac",
        "audio/empty.wav",
        "audio/text.mp3",
    ]
    assert "the file is empty (0 bytes)" in failed[1]
    assert set(contents(tmp_path / "frames")) == {f"{n}.npy" for n in NAMES} | {"manifest.jsonl"}


def test_what_is_finished_is_skipped(model, audio, tmp_path, capsys):
    frames = tmp_path / "frames"
    encode(model, "audio")
    first, before = contents(frames), written(frames)
    assert encode(model, "audio") == 0
    assert "frames: 0 of 3 files encoded, 3 were finished before\n" in capsys.readouterr().out
    assert rewritten(before, frames) == []

    (frames / "b.npy").unlink()
    with open(frames / "manifest.jsonl", "r+", encoding="utf-8") as stream:
        lines = stream.readlines()
        stream.truncate(len("".join(lines)) - 30)  # killed while it wrote the last line
    assert encode(model, "audio") == 0
    assert set(rewritten(before, frames)) == {"b", "deep/c"}
    assert contents(frames) == first


def test_changed_audio_is_encoded_again(model, audio, tmp_path):
    frames = tmp_path / "frames"
    encode(model, "audio")
    before = written(frames)
    write_noise(audio / "a.wav", 0.9, seed=7)
    assert encode(model, "audio") == 0
    assert rewritten(before, frames) == ["a"]
    assert len(manifest()) == 3
    soundfile.write(audio / "a.wav", np.zeros(0), 16000)
    assert encode(model, "audio") == 1
    assert [line["output"] for line in manifest()] == ["b.npy", "deep/c.npy"]


def test_more_files_keep_the_names_of_the_others(model, audio, tmp_path):
    assert encode(model, "audio/deep") == 0  # c.npy
    assert encode(model, "audio") == 0
    assert [line["output"] for line in manifest()] == ["a.npy", "b.npy", "c.npy"]


def test_a_killed_run_goes_on(model, audio, tmp_path):
    for number in range(40):
        write_noise(audio / f"{number}.wav", 2.0, number)
    command = [sys.executable, "-m", "speechbrain_pom", "encode", model, "audio", "--out", "frames"]
    root = os.path.dirname(os.path.dirname(sys.modules["speechbrain_pom"].__file__))
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=environment)
    frames, deadline = tmp_path / "frames", time.monotonic() + 60
    while len(list(frames.glob("*.npy"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert encode(model, "audio") == 0
    resumed = contents(frames)
    frames.rename(tmp_path / "resumed")
    assert encode(model, "audio") == 0
    assert contents(frames) == resumed


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["encode", *map(str, arguments)])
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "1"], "holds frames with layers 'last', this call has 1: give another fol"),
        (["--dtype", "float16"], "holds frames with dtype 'float32', this call has 'float16'"),
        (["--window_s", "5"], "holds frames with window_s 300.0, this call has 5.0"),
    ],
)
def test_other_options_need_another_folder(model, audio, capsys, options, message):
    encode(model, "audio/a.wav")
    assert message in refusal(capsys, model, "audio", "--out", "frames", *options)


def test_another_model_needs_another_folder(models, model, audio, capsys):
    encode(model, "audio/a.wav")
    text = refusal(capsys, models / "other", "audio", "--out", "frames")
    assert "error: --out 'frames' holds frames with model_sha256 '" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "first"], "--layers first: give last, sum, or numbers such as 4,8"),
        (["--layers", "1,"], "--layers 1,: give last, sum, or numbers such as 4,8"),
        (["--layers", "3"], "layers is 3: give 'last', 'sum', or numbers from 0"),
        (["--dtype", "bfloat16"], "NumPy has no such type: add --format safetensors"),
        (["--window_s", "0"], "--window_s is 0.0: give seconds, more than 0"),
        (["--window_s", "nan"], "--window_s is nan: give seconds, more than 0"),
        (
            ["--window_s", "2", "--overlap_s", "2"],
            "--overlap_s is 2, --window_s is 2: give an overlap of at least 0 that is shorter "
            "than the window",
        ),
        (["--jobs", "0"], "--jobs is 0: give at least 1"),
        (["--batch_s", "0"], "--batch_s is 0.0: give seconds, more than 0"),
        (["--device", "quantum"], "--device quantum cannot be used: "),
    ],
)
def test_options_that_cannot_be(model, audio, capsys, options, message):
    text = refusal(capsys, model, "audio", "--out", "frames", *options)
    assert f"error: {message}" in text or message in text
    assert text.count("\n") == 1 or "encode:" in text  # one line, beside the progress bar


def test_models_and_paths_that_are_not_there(model, audio, capsys):
    assert "no such file or folder: 'nowhere'" in refusal(capsys, model, "nowhere", "--out", "x")
    assert "'nowhere' does not exist" in refusal(capsys, "nowhere", "audio", "--out", "x")
    text = refusal(capsys, model, "audio", "--out", "audio/a.wav")
    assert "--out 'audio/a.wav' cannot be used (File exists): give another folder" in text


def test_outputs_of_others_are_not_overwritten(model, audio, tmp_path, capsys):
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames/a.npy").write_bytes(b"precious")
    text = refusal(capsys, model, "audio", "--out", "frames")
    assert "has a file a.npy that encode did not write: give another folder" in text
    assert contents(tmp_path / "frames") == {"a.npy": b"precious"}

    write_noise(tmp_path / "more/c.wav", 0.5, 0)
    assert main(["encode", model, "audio/deep", "--out", "two"]) == 0
    text = refusal(capsys, model, "more", "--out", "two")
    assert f"has c.npy of '{audio}/deep/c.wav', which 'more/c.wav' would overwrite" in text


def test_two_commands_do_not_share_a_folder(model, audio, tmp_path, capsys):
    with own_folder(tmp_path / "frames"):
        text = refusal(capsys, model, "audio", "--out", "frames")
    assert "another process is writing to it: wait, or give another folder" in text
    assert encode(model, "audio/a.wav") == 0


def test_a_full_disk_is_a_failure_of_the_file(model, audio, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert encode(model, "audio/a.wav") == 1
    assert (
        "failed: audio/a.wav: disk full: no room in 'frames': make room, or give another --out\n"
    ) in capsys.readouterr().err
    assert contents(tmp_path / "frames") == {"manifest.jsonl": b""}


def test_names_are_checked_before_the_work(model, audio, tmp_path, capsys):
    (audio / "a.wav").rename(audio / f"{'x' * 251}.wav")
    text = refusal(capsys, model, "audio", "--out", "frames", "--format", "safetensors")
    assert f"the name '{'x' * 251}.safetensors' has 263 bytes, and names in" in text
    assert encode(model, "audio") == 0
    assert f"{'x' * 251}.npy" in contents(tmp_path / "frames")


def test_a_manifest_that_cannot_be_written(model, audio, tmp_path, monkeypatch, capsys):
    (tmp_path / "frames/manifest.jsonl").mkdir(parents=True)
    text = refusal(capsys, model, "audio/a.wav", "--out", "frames")
    assert (
        "cannot write 'frames/manifest.jsonl' (Is a directory): make room, or give another" in text
    )


def test_values_that_do_not_fit(tmp_path):
    path = tmp_path / "a.npy"
    with (
        pytest.raises(UserError, match=r"values up to 70000 do not fit torch.float16: give --dty"),
        new_frames(path, "npy", "float16", (3, 2), {}) as frames,
    ):
        frames.fill_(70000)
    assert list(tmp_path.iterdir()) == []
