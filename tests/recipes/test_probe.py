"""Probing by its real command: both tasks, resumed, with random weights, calls that cannot work."""

import json
import sys

import pytest
import torch

from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.probe.frozen import load_frozen_encoder

OPTIONS = {
    "task": "speaker",
    "number_of_epochs": 3,
    "batch_size": 3,
    "lr": 0.01,
    "test_share": 0.3,
    "valid_share": 0.2,
    "num_workers": 0,
    "num_bootstrap": 20,
    "verification_splits": "[test-clean, test-other]",
    "device": "cpu",
}
PREPOSITIONS = "[UNDER, BEHIND, NEAR]"
STATE = ("probe", "optimizer")


def arguments(output_folder, **options):
    command = ["recipes/Probe/train_probe.py", "hparams/probe.yaml", "--noprogressbar"]
    for key, value in {"output_folder": output_folder, **OPTIONS, **options}.items():
        command += [f"--{key}", str(value)]
    return command


@pytest.fixture(scope="module")
def given(pretrained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "LibriSpeech"
    corpus = make_mini_corpus(folder, duration_min=4.0, show_progress=False)
    return {"data_folder": corpus, "pretrained": pretrained[0]}


@pytest.fixture(scope="module")
def probed(recipes, given, tmp_path_factory):
    """A run without interruption, and what it printed."""
    folder = tmp_path_factory.mktemp("probed") / "run"
    result = recipes.run([sys.executable, *arguments(folder, **given)], forked=False)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result.stdout + result.stderr


CALLS = {
    "keyword": {"task": "keyword", "keywords": PREPOSITIONS},
    "random": {"random_encoder": True},
    "uncached": {"cache_features": False},
    "no trials": {"verification_splits": "[]"},
}
# What the line says, and the options; {...} stands for paths of the session.
REFUSED = {
    "encoder is not what this run began with": {
        "output_folder": "{probed}",
        "pretrained": "{older}",
    },
    "task speaker (now keyword)": {"output_folder": "{probed}", "task": "keyword"},
    "pretrained is null, and a probe needs an encoder": {"pretrained": "null"},
    "'{tmp}/none' does not exist": {"pretrained": "{tmp}/none"},
    "keywords is null: the keyword task": {"task": "keyword"},
    "max_cache_gib is 1e-09": {"max_cache_gib": 1e-9},
    "more than max_batch_duration_s = 1": {"max_batch_duration_s": 1},
    "task is 'emotion': choose speaker or keyword or label": {"task": "emotion"},
    "did you mean --task?": {"taks": "speaker"},
}


def call_all(recipes, calls, given, tmp):
    """Exit code, stderr and folder of each."""
    folders = [tmp / str(number) for number in range(len(calls))]
    commands = [
        [str(part) for part in arguments(**{"output_folder": folder, **given, **options})]
        for folder, options in zip(folders, calls, strict=True)
    ]
    results = recipes.call_all(commands)
    return [(*result, folder) for result, folder in zip(results, folders, strict=True)]


@pytest.fixture(scope="module")
def others(recipes, given, tmp_path_factory):
    """Folders of other runs, by name."""
    tmp = tmp_path_factory.mktemp("others")
    outcomes = call_all(recipes, CALLS.values(), given, tmp)
    for code, stderr, _ in outcomes:
        assert code == 0, stderr[-3000:]
    return {name: folder for name, (_, _, folder) in zip(CALLS, outcomes, strict=True)}


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def check_test(summary):
    assert 0 <= summary["accuracy_low"] <= summary["accuracy"] <= summary["accuracy_high"] <= 100
    assert sum(one["utterances"] for one in summary["classes"].values()) > 0


def test_outputs(recipes, probed):
    folder, printed = probed
    results = results_of(folder)
    check_test(results["test"])
    assert 0 <= results["verification"]["eer"] <= 100
    assert results["random_encoder"] is False
    assert len(results["layer_weights"]) == recipes.ENCODER["num_encoder_layers"] + 1
    assert sum(results["layer_weights"]) == pytest.approx(1, abs=1e-3)
    assert "test: accuracy " in printed
    assert "verification: equal error rate " in printed
    assert "times real time" in printed
    records = recipes.history(folder)
    assert [record["epoch"] for record in records] == [1, 2, 3]
    assert records[2]["train"]["loss"] < records[0]["train"]["loss"]
    assert records[0]["valid"].keys() == {"loss", "error_rate"}
    assert records[0]["layer_weights"] != records[2]["layer_weights"]
    for name in ("train_log.txt", "curves.png", "manifests/train.csv", "manifests/trials.csv"):
        assert (folder / name).stat().st_size > 0


def test_checkpoints_hold_the_probe_alone(recipes, probed):
    tensors = recipes.tensors(probed[0], "probe")
    assert set(tensors) == {
        "probe.mean",
        "probe.std",
        "probe.layer_sum.scores",
        "probe.classifier.weight",
        "probe.classifier.bias",
    }
    assert (tensors["probe.layer_sum.scores"] != 0).all()
    checkpoint, _ = recipes.newest_checkpoint(probed[0])
    assert not (checkpoint / "model.ckpt").exists()


def test_killed_in_mid_epoch_and_resumed(recipes, given, probed, tmp_path):
    folder = tmp_path / "run"
    often = {"ckpt_interval_steps": 1, "ckpt_interval_minutes": 0}
    script, *rest = arguments(folder, **given, **often)
    result = recipes.run([sys.executable, "-c", recipes.KILLED, script, 2, 2, *rest])
    assert result.returncode == -9, result.stderr[-3000:]
    assert not (folder / "results.json").exists()
    result = recipes.run([sys.executable, *arguments(folder, **given)])
    assert result.returncode == 0, result.stderr[-3000:]
    assert "of its next epoch" in result.stdout + result.stderr
    assert recipes.differing(*(recipes.tensors(run, *STATE) for run in (probed[0], folder))) == []
    assert recipes.history(probed[0]) == recipes.history(folder)
    assert results_of(probed[0]) == results_of(folder)


def test_keywords_of_other_speakers(others):
    results = results_of(others["keyword"])
    assert "verification" not in results
    for split in ("test-clean", "test-other"):
        check_test(results[split])
        assert results[split]["classes"].keys() <= set(PREPOSITIONS[1:-1].split(", "))


def test_a_random_encoder_keeps_only_the_statistics(recipes, given, probed, others):
    assert results_of(others["random"])["random_encoder"] is True
    means = [recipes.tensors(run, "probe")["probe.mean"] for run in (probed[0], others["random"])]
    assert not torch.allclose(*means, rtol=0.1)
    trained = load_frozen_encoder(given["pretrained"])
    first, again, other = (
        load_frozen_encoder(given["pretrained"], random_encoder=True, seed=seed)
        for seed in (1, 1, 2)
    )
    hashes = [hash_of_tensors(encoder) for encoder in (trained, first, other)]
    assert len(set(hashes)) == 3
    assert hash_of_tensors(again) == hashes[1]
    for encoder in (trained, first):
        assert not encoder.training
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert hash_of_tensors(first.features) == hash_of_tensors(trained.features)
    weights = [dict(encoder.front_end.named_parameters()) for encoder in (trained, first)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_cache_changes_nothing_but_the_time(recipes, others, probed):
    for cached, uncached in zip(
        *map(recipes.history, (probed[0], others["uncached"])), strict=True
    ):
        for part in ("train", "valid"):
            assert uncached[part]["loss"] == pytest.approx(cached[part]["loss"], rel=1e-3)


def test_without_trials(others):
    assert "verification" not in results_of(others["no trials"])


def test_one_speaker_makes_no_trials(recipes, given, tmp_path):
    """The splits have several speakers: one of them is taken out into a split of his own."""
    corpus, test_clean = tmp_path / "corpus", given["data_folder"] / "test-clean"
    (corpus / "lonely").mkdir(parents=True)
    (corpus / "train-clean-100").symlink_to(given["data_folder"] / "train-clean-100")
    speaker = min(test_clean.iterdir())
    (corpus / "lonely" / speaker.name).symlink_to(speaker)
    options = {**given, "data_folder": corpus, "verification_splits": "[lonely]"}
    folder = tmp_path / "run"
    result = recipes.run([sys.executable, *arguments(folder, **options, number_of_epochs=1)])
    recipes.check_refusal(
        result.returncode, result.stderr, "no trials can be made of", "1 speakers"
    )
    assert not (folder / "history.jsonl").exists()


def test_refusals_and_a_finished_run(recipes, given, probed, tmp_path):
    older = min((given["pretrained"] / "save").glob("CKPT+*"))
    paths = {"tmp": tmp_path, "probed": probed[0], "older": older}
    filled = [
        {k: v.format(**paths) if isinstance(v, str) else v for k, v in options.items()}
        for options in REFUSED.values()
    ]
    before = {path: path.read_bytes() for path in probed[0].rglob("*") if path.is_file()}
    kept = ("results.json", "history.jsonl", "run.json", "hyperparams.yaml", "train_probe.py")
    finished = {"output_folder": probed[0]}
    outcomes = call_all(recipes, [finished, *filled], given, tmp_path)
    assert outcomes[0][0] == 0
    for message, (code, stderr, folder) in zip(REFUSED, outcomes[1:], strict=True):
        recipes.check_refusal(code, stderr, message.format(**paths))
        assert not any(folder.glob("save/CKPT+*"))
    for path, content in before.items():
        if path.name in kept or path.suffix == ".ckpt":
            assert path.read_bytes() == content
