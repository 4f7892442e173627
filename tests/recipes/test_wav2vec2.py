"""wav2vec 2.0 pretraining by its real command, and what is done with its encoder afterwards."""

import json
import math
import sys

import pytest
import torch

from speechbrain_pom import load_encoder
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.reports.summary import summarize

STATE = ("model", "linear", "mask_vector", "quantizer", "optimizer", "normalize")
PROGRAM = [sys.executable, "-m", "speechbrain_pom"]


def rate(recipes, step):
    """Learning rate of a step, counted from 1: linear up, then linear down to 0 after the last."""
    peak, up, last = (recipes.WAV2VEC2[key] for key in ("lr", "n_warmup_steps", "n_schedule_steps"))
    return peak * (step / up if step <= up else (last + 1 - step) / (last + 1 - up))


def speechbrain_pom(recipes, *words):
    """Run a command of the package; what it printed."""
    result = recipes.run([*PROGRAM, *words])
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    return result.stdout


def test_what_it_logs(recipes, wav2vec2):
    folder, printed = wav2vec2
    first, last = recipes.history(folder)
    for record in (first, last):
        assert record["lr"] == pytest.approx(rate(recipes, record["steps"]))
        for stats in (record["train"], record["valid"]):
            assert all(math.isfinite(value) for value in stats.values())
            assert 1 < stats["code_perplexity_1"] <= stats["codes_in_use_1"] <= 8
            assert stats["masked_share"] == pytest.approx(0.68, abs=0.08)
            assert 0 <= stats["dropped_negatives"] < 0.9
    assert last["train"]["loss"] < first["train"]["loss"]
    assert first["train"]["gumbel_temperature"] < 2
    assert last["train"]["gumbel_temperature"] < first["train"]["gumbel_temperature"]
    assert last["valid"]["masked_share"] == first["valid"]["masked_share"]
    assert "running the demo" not in printed
    assert (folder / "curves.png").is_file()
    assert (folder / "train_wav2vec2.py").is_file()
    assert f"{100 * last['valid']['accuracy']:.1f} %" in summarize(folder)


def test_finished_is_finished(recipes, wav2vec2, corpus):
    folder, _ = wav2vec2
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert "this run is finished" in recipes.train("wav2vec2", folder, data_folder=corpus)
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert after == before


def test_killed_in_mid_epoch_and_resumed(recipes, wav2vec2, corpus, tmp_path):
    """Layers that are dropped, noise, temperature and rate are functions of the step."""
    straight, folder = wav2vec2[0], tmp_path / "run"
    options = {"data_folder": corpus, "ckpt_interval_steps": 1, "ckpt_interval_minutes": 0}
    recipes.train_until_killed("wav2vec2", folder, epoch=2, batch=4, **options)
    state = [recipes.tensors(run, *STATE) for run in (straight, folder)]
    assert recipes.differing(*state)  # the comparison can fail
    printed = recipes.train("wav2vec2", folder, **options)
    assert "at batch 2 of its next epoch" in printed
    state = [recipes.tensors(run, *STATE) for run in (straight, folder)]
    assert recipes.differing(*state) == []
    records = [recipes.without_machine_figures(recipes.history(run)) for run in (straight, folder)]
    assert records[0] == records[1]


def test_the_first_step_is_not_at_the_peak(recipes, corpus, tmp_path):
    """Adam's first step is as long as the rate that it had; norms begin with biases of 0.

    The run ends with the first batch of an epoch, whose time counts as well.
    """
    options = {"data_folder": corpus, "optimizer_step_limit": 1, "weight_decay": 0}
    options |= {"layerdrop_prob": 0, "grad_accumulation_factor": 1}
    recipes.train("wav2vec2", tmp_path / "run", **options)
    record = recipes.history(tmp_path / "run")[0]
    assert record["train"]["audio_s_per_s"] > 0
    assert record["lr"] == pytest.approx(recipes.WAV2VEC2["lr"] / 8)
    biases = recipes.tensors(tmp_path / "run", "model").items()
    moved = [float(one.abs().max()) for key, one in biases if key.endswith("norm.bias")]
    assert max(moved) == pytest.approx(record["lr"], rel=0.01)


def test_the_encoder_is_loaded_and_exact(wav2vec2):
    encoder = load_encoder(wav2vec2[0])
    assert isinstance(encoder.front_end, ValidConvolutions)
    wavs = torch.randn(2, 16000)
    frames, num_frames = encoder(wavs, torch.tensor([16000, 9000]))
    alone, _ = encoder(wavs[1:, :9000])
    assert num_frames.tolist() == [48, 26]
    torch.testing.assert_close(frames[1:, :26], alone, rtol=1e-4, atol=1e-5)


def test_fine_tuning_and_its_export(recipes, wav2vec2, corpus, tmp_path):
    folder = tmp_path / "ctc"
    options = {"pretrained": wav2vec2[0], "number_of_epochs": 1, "weighted_sum": True}
    printed = recipes.train("ctc", folder, data_folder=corpus, **options)
    assert "Pretrained encoder: " in printed
    results = json.loads((folder / "results.json").read_text())
    assert results["test-clean"]["no_lm"]["num_utterances"] == 2
    tuned = load_encoder(folder)
    begun = load_encoder(wav2vec2[0])
    weights = [one.front_end.convs[0].weight for one in (tuned, begun)]
    assert weights[0].shape == weights[1].shape
    assert not torch.equal(*weights)  # it is trained on
    speechbrain_pom(recipes, "export", folder, tmp_path / "exported")
    audio = next(corpus.rglob("*.flac"))
    words = ["transcribe", tmp_path / "exported", audio, "--out", tmp_path / "text"]
    speechbrain_pom(recipes, *words)
    assert [path.stem for path in (tmp_path / "text").rglob("*.txt")] == [audio.stem]


def test_encode_export_and_card_of_the_pretrained_encoder(recipes, wav2vec2, corpus, tmp_path):
    exported = tmp_path / "exported"
    speechbrain_pom(recipes, "export", wav2vec2[0], exported)
    assert "wav2vec 2.0" in (exported / "README.md").read_text()
    audio = next(corpus.rglob("*.flac"))
    speechbrain_pom(recipes, "encode", exported, audio, "--out", tmp_path / "frames")
    assert any((tmp_path / "frames").rglob("*"))
    frames = [load_encoder(path).encode_file(audio) for path in (exported, wav2vec2[0])]
    assert torch.equal(*frames)


def test_probes_and_heads_on_the_pretrained_encoder(recipes, wav2vec2, corpus, tmp_path):
    """The probe and a head of MP3S read it; random weights in its place give other results."""
    keywords = {"task": "keyword", "keywords": "[UNDER, BEHIND, NEAR]", "batch_size": 3}
    probe = ["recipes/Probe/train_probe.py", "hparams/probe.yaml", keywords]
    head = ["recipes/MP3S/train_asr.py", "hparams/mp3s_asr.yaml", {"head": "linear"}]
    common = {
        "pretrained": wav2vec2[0],
        "data_folder": corpus,
        "number_of_epochs": 1,
        "num_bootstrap": 10,
        "num_workers": 0,
        "device": "cpu",
    }
    runs = {
        "trained": (*probe, {"random_encoder": False}),
        "random": (*probe, {"random_encoder": True}),
        "head": (*head, {"hidden_size": 4, "cache_states": True}),
    }
    commands = []
    for name, (script, yaml, own, options) in runs.items():
        values = {**common, **own, **options, "output_folder": tmp_path / name}
        words = [str(word) for key in values for word in (f"--{key}", values[key])]
        commands.append([script, yaml, *words])
    for code, stderr in recipes.call_all(commands):
        assert code == 0, stderr[-3000:]
    pair = [tmp_path / "trained", tmp_path / "random"]
    speechbrain_pom(recipes, "compare", *pair, "--out", tmp_path / "curves.png")
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in runs}
    assert len(results["head"]["layer_weights"]) == 1 + recipes.ENCODER["num_encoder_layers"]
    assert results["trained"] != results["random"]


def test_bad_calls_are_one_line(recipes, corpus, tmp_path):
    wrong = [
        ({"mask_length": 0}, "mask_length"),
        ({"mask_length": 2000}, "cannot be used by wav2vec 2.0"),
        ({"num_negatives": 0}, "num_negatives = 0: give a whole number of at least 1"),
        ({"data_layout": "tree"}, "data_layout is 'tree': choose librispeech, folder or shards"),
    ]
    commands = [
        recipes.arguments(
            "wav2vec2", **{"data_folder": corpus, "output_folder": tmp_path / str(number)} | options
        )
        for number, (options, _) in enumerate(wrong)
    ]
    for (code, stderr), (_, message) in zip(recipes.call_all(commands), wrong, strict=True):
        recipes.check_refusal(code, stderr, message)
