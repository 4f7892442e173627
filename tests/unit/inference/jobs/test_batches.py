"""Several files through a model at once: what each gets alone."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.inference.transcription import transcribe
from tests.unit.inference.streaming.test_stream import sound

# In seconds: the first is one frame, the last is longer than a window.
DURATIONS_S = [0.025, 0.3, 0.31, 0.7, 1.1, 1.1, 2.0, 3.2]


@pytest.fixture
def audio(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "audio").mkdir()
    order = list(enumerate(DURATIONS_S))
    random.Random(1).shuffle(order)
    for seed, duration_s in order:
        wav = sound(round(16000 * duration_s), seed)
        soundfile.write(tmp_path / f"audio/{seed}.wav", wav.numpy(), 16000)
    return tmp_path / "audio"


@pytest.fixture
def sizes(monkeypatch):
    """The batches that models get."""
    from speechbrain_pom.encoder.encoder import SpeechEncoder

    found, forward = [], SpeechEncoder.forward

    def counted(self, wavs, *args, **kwargs):
        found.append(tuple(wavs.shape))
        return forward(self, wavs, *args, **kwargs)

    monkeypatch.setattr(SpeechEncoder, "forward", counted)
    return found


@pytest.mark.parametrize("layers", ["last", "0,2"])
def test_frames(pretrained_run, audio, sizes, layers):
    call = ["encode", str(pretrained_run), "audio", "--device", "cpu", "--window_s", "3"]
    call += ["--layers", layers]
    assert main([*call, "--out", "alone"]) == 0
    sizes.clear()
    assert main([*call, "--out", "together", "--batch_s", "4"]) == 0
    assert [count for count, _ in sizes if count > 1] == [2, 3, 2]
    assert all(count * samples <= 4 * 16000 for count, samples in sizes)
    outs = [Path(out, "manifest.jsonl").read_text().splitlines() for out in ("alone", "together")]
    records = [list(map(json.loads, lines)) for lines in outs]
    assert records[0] == records[1]
    for seed in range(len(DURATIONS_S)):
        alone, together = (np.load(f"{out}/{seed}.npy") for out in ("alone", "together"))
        np.testing.assert_allclose(together, alone, rtol=0, atol=1e-4)


def test_transcripts(finetuned_run, audio, sizes, capsys):
    recogniser = load_recogniser(finetuned_run)
    files = [f"audio/{seed}.wav" for seed in range(len(DURATIONS_S))]
    expected = {file: transcribe(recogniser, file, window_s=3) for file in files}
    sizes.clear()
    call = ["transcribe", str(finetuned_run), *files, "--window_s", "3", "--batch_s", "4"]
    assert main([*call, "--device", "cpu"]) == 0
    assert max(sizes)[0] > 1
    lines = dict(line.split("\t") for line in capsys.readouterr().out.splitlines())
    assert lines == {file: expected[file].text for file in files}
    assert any(lines.values())
    assert main([*call, "--device", "cpu", "--out", "texts", "--format", "json"]) == 0
    for file, transcript in expected.items():
        found = json.loads(Path("texts", Path(file).stem + ".json").read_text())
        words = [word for segment in found["segments"] for word in segment["words"]]
        wanted = [word for segment in transcript.segments for word in segment.words]
        assert [word["text"] for word in words] == [word.text for word in wanted]
        assert [word["start_s"] for word in words] == pytest.approx([w.start_s for w in wanted])


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_bad_files_are_named_and_the_rest_go_on(finetuned_run, audio, capsys, monkeypatch, jobs):
    from speechbrain_pom.inference.jobs import encoding

    monkeypatch.setattr(encoding, "GROUP_SIZE", 3)
    (audio / "3.wav").write_bytes(b"no audio")
    call = [
        "encode",
        str(finetuned_run),
        "audio",
        "--out",
        "out",
        "--batch_s",
        "60",
        "--jobs",
        jobs,
    ]
    assert main([*call, "--device", "cpu"]) == 1
    printed = capsys.readouterr()
    assert printed.out.startswith("out: 7 of 8 files encoded")
    (failed,) = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert failed.startswith("failed: audio/3.wav: audio file 'audio/3.wav': unreadable audio")


def test_a_batch_that_fails_is_tried_one_by_one(pretrained_run, audio, sizes, monkeypatch):
    from speechbrain_pom.encoder.encoder import SpeechEncoder

    forward = SpeechEncoder.forward

    def too_large(self, wavs, *args, **kwargs):
        if len(wavs) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, wavs, *args, **kwargs)

    monkeypatch.setattr(SpeechEncoder, "forward", too_large)
    call = ["encode", str(pretrained_run), "audio", "--out", "out", "--batch_s", "60"]
    assert main([*call, "--device", "cpu"]) == 0
    encoder = load_encoder(pretrained_run)
    for seed in (0, 7):
        assert np.array_equal(np.load(f"out/{seed}.npy"), encoder.encode_file(f"audio/{seed}.wav"))


def test_a_model_whose_frames_depend_on_the_batch(pretrained_run, audio, capsys, monkeypatch):
    from speechbrain_pom.inference.jobs import encoding

    def load(*args, **kwargs):
        encoder = load_encoder(*args, **kwargs)
        encoder.padding = "speechbrain"
        return encoder

    monkeypatch.setattr(encoding, "load_encoder", load)
    call = ["encode", str(pretrained_run), "audio", "--out", "out", "--batch_s", "60"]
    with pytest.raises(SystemExit):
        main([*call, "--device", "cpu"])
    expected = "--batch_s: the model was trained with padding speechbrain, and its frames depend on"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("how", ["--stream", "--serve"])
def test_streams_are_not_batches(finetuned_run, audio, capsys, how):
    files = ["audio/0.wav", "--stream"] if how == "--stream" else ["--serve"]
    with pytest.raises(SystemExit):
        main(["transcribe", str(finetuned_run), *files, "--batch_s", "4"])
    assert "--batch_s is " in capsys.readouterr().err
