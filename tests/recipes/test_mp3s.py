"""The MP3S recipes by their real commands: heads, upstreams, resuming, reports, refusals."""

import json
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.scoring import read_word_edits
from speechbrain_pom.data.trials import read_trials
from speechbrain_pom.downstream.answers import read_wrong_answers

RECIPES = {"asr": "tokens", "classification": "label", "verification": "speaker"}
COMMON = {
    "number_of_epochs": 2,
    "num_workers": 0,
    "num_bootstrap": 20,
    "valid_batch_size": 3,
    "batch_size": 4,
    "cache_states": True,
    "device": "cpu",
}
OPTIONS = {
    "asr": {"corpus": "null", "hidden_size": 8, "lr": 0.01, "sorting": "random"},
    "classification": {"lr": 0.01, "hidden_size": 8, "channels": 8},
    "verification": {
        "channels": 8,
        "pooled_channels": 12,
        "embedding_size": 6,
        "valid_share": 0.3,
        "crop_s": 0.2,
    },
}
STATE = ("head", "layer_sum", "head_optimizer", "weights_optimizer")


def arguments(recipe, output_folder, **options):
    command = [f"recipes/MP3S/train_{recipe}.py", f"hparams/mp3s_{recipe}.yaml"]
    values = {"output_folder": output_folder, **COMMON, **OPTIONS[recipe], **options}
    for key, value in values.items():
        command += [f"--{key}", str(value)]
    return [*command, "--noprogressbar"]


@pytest.fixture(scope="module")
def given(pretrained_run, tmp_path_factory):
    """Tones and noise of awkward lengths: the label is the tone, and speakers differ in noise."""
    folder = tmp_path_factory.mktemp("mp3s")
    generator = np.random.default_rng(0)
    lines = {part: ["id,path,speaker,label,text"] for part in ("train", "valid", "test")}
    for part, text in lines.items():
        speakers = ("s0", "s1", "s2") if part != "test" else ("t0", "t1", "t2")
        for number in range(12 if part == "train" else 7):
            num_samples = int(generator.integers(5000, 9000))
            label, speaker = ("high", "low")[number % 2], speakers[number % 3]
            tone = np.sin(np.arange(num_samples) * (0.5 if label == "high" else 0.05))
            noise = generator.normal(0, 0.02 * (1 + number % 3), num_samples)
            name = f"{part}-{number}.flac"
            soundfile.write(folder / name, 0.3 * tone + noise, 16000)
            words = "A B" if label == "high" else "B"
            text.append(f"{part}{number},{name},{speaker},{label},{words}")
        (folder / f"{part}.csv").write_text("\n".join(text) + "\n")
    rows = [line.split(",")[:3:2] for line in lines["test"][1:]]
    trials = [f"{int(a[1] == b[1])} {a[0]} {b[0]}" for a in rows for b in rows if a[0] < b[0]]
    (folder / "pairs.txt").write_text("\n".join(trials) + "\n")
    csvs = {f"{part}_csv": folder / f"{part}.csv" for part in lines}
    return {"pretrained": pretrained_run, **csvs}


def own_data(recipe, given):
    """The data of a recipe: verification holds its validation out of the training speakers."""
    if recipe != "verification":
        return given
    pairs = given["test_csv"].with_name("pairs.txt")
    return {**{k: v for k, v in given.items() if k != "valid_csv"}, "trials": pairs}


@pytest.fixture(scope="module")
def straight(recipes, given, tmp_path_factory):
    """A run of each recipe without interruption: folder and what it printed."""
    runs = {}
    for recipe in RECIPES:
        folder = tmp_path_factory.mktemp("straight") / recipe
        command = [sys.executable, *arguments(recipe, folder, **own_data(recipe, given))]
        result = recipes.run(command, forked=recipe != "asr")
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        runs[recipe] = folder, result.stdout + result.stderr
    return runs


def results_of(folder):
    return json.loads((folder / "results.json").read_text())


def test_outputs_of_recognition(recipes, straight):
    folder, printed = straight["asr"]
    found = results_of(folder)["test"]["greedy"]
    assert 0 <= found["wer_low"] <= found["wer"] <= found["wer_high"]
    assert len(read_word_edits(folder / "wer_test_greedy.txt")) == 7
    assert "times real time" in printed
    records = recipes.history(folder)
    assert records[1]["train"]["loss"] < records[0]["train"]["loss"]
    assert {"lr_head", "lr_weights", "layer_weights"} <= records[0].keys()


def test_outputs_of_classification(straight):
    folder, printed = straight["classification"]
    results = results_of(folder)
    wrong = read_wrong_answers(folder / "answers_test.csv")
    errors = sum(count for count, _ in wrong.values())
    assert results["test"]["accuracy"] == pytest.approx(100 - 100 * errors / 7)
    assert results["head"] == "mean"
    assert results["upstream"] == "pretrained"
    assert len(results["layer_weights"]) == 3
    assert "test: accuracy " in printed


def test_outputs_of_verification(straight, given):
    folder, printed = straight["verification"]
    found = results_of(folder)["pairs"]
    assert 0 <= found["eer_low"] <= found["eer_high"] <= 100
    assert (found["num_trials"], found["num_speakers"]) == (21, 3)
    lines = [line.split() for line in (folder / "scores_pairs.txt").read_text().splitlines()]
    assert {(one[1], one[2]) for one in lines} == {
        (trial.enrolment, trial.test)
        for trial in read_trials(own_data("verification", given)["trials"])
    }
    assert all(-1.001 <= float(one[3]) <= 1.001 for one in lines)
    assert "pairs: equal error rate " in printed


def test_checkpoints_hold_what_is_trained(recipes, straight):
    for recipe, (folder, _) in straight.items():
        tensors = recipes.tensors(folder, "layer_sum", "head")
        assert (tensors["layer_sum.scores"] != 0).any(), recipe
        checkpoint, _ = recipes.newest_checkpoint(folder)
        assert not (checkpoint / "model.ckpt").exists()


@pytest.mark.parametrize("recipe", ["asr", "verification"])
def test_killed_in_mid_epoch_and_resumed(recipes, given, straight, tmp_path, recipe):
    """Bit by bit the straight run, with the audio read again in place of the cache's first life."""
    folder, data = tmp_path / "run", own_data(recipe, given)
    script, *rest = arguments(recipe, folder, **data, ckpt_interval_steps=1)
    result = recipes.run([sys.executable, "-c", recipes.KILLED, script, 2, 2, *rest])
    assert result.returncode == -9, result.stderr[-3000:]
    result = recipes.run([sys.executable, *arguments(recipe, folder, **data)])
    assert result.returncode == 0, result.stderr[-3000:]
    assert "of its next epoch" in result.stdout + result.stderr
    expected = straight[recipe][0]
    assert recipes.differing(*(recipes.tensors(run, *STATE) for run in (expected, folder))) == []
    histories = [
        recipes.without_machine_figures(recipes.history(run)) for run in (expected, folder)
    ]
    assert histories[0] == histories[1]
    assert results_of(expected) == results_of(folder)


CALLS = {
    "uncached": ("asr", {"cache_states": False}),
    "fine-tuned": (
        "classification",
        {"cache_states": False, "freeze": False, "lr_encoder": 0.01, "head": "bilstm"},
    ),
    "random": ("classification", {"upstream": "random", "normalise_layers": True}),
    "log-mel": ("classification", {"upstream": "log_mel", "pretrained": "null", "head": "ecapa"}),
    "half": ("asr", {"cache_dtype": "fp16", "head": "linear", "decoding": "beam", "beam_size": 4}),
    "waveforms": ("verification", {"cache_states": False, "head": "ecapa", "trials": "null"}),
    "finished": ("classification", {"output_folder": "{classification}"}),
}
# What the line says, the recipe and the options.
REFUSED = {
    "head is 'conformer': choose bilstm or contextnet": ("asr", {"head": "conformer"}),
    "upstream is 'mfcc': choose pretrained or random or log_mel": ("asr", {"upstream": "mfcc"}),
    "cache_states is True, but freeze is False": ("classification", {"freeze": False}),
    "freeze is False, but log-mel features": (
        "classification",
        {"freeze": False, "upstream": "log_mel"},
    ),
    "pretrained is null: give the folder": (
        "classification",
        {"freeze": False, "pretrained": "null"},
    ),
    "max_cache_gib is 1e-09": ("asr", {"max_cache_gib": 1e-9}),
    "cache_dtype is 'int8': choose fp32 or fp16": ("asr", {"cache_dtype": "int8"}),
    "decoding is 'viterbi': choose greedy or beam": ("asr", {"decoding": "viterbi"}),
    "corpus is 'breton': choose librispeech or welsh": ("asr", {"corpus": "breton"}),
    "and sample_rate is 8000": ("asr", {"sample_rate": 8000}),
    "but test_csv is not: trials need other speakers": ("verification", {"test_csv": "null"}),
    "have speaker 's0', who is in training too": (
        "verification",
        {"test_csv": "{train}?speaker=s0", "trials": "null"},
    ),
    "encoder is not what this run began with": (
        "classification",
        {"output_folder": "{begun}", "number_of_epochs": 3, "pretrained": "{other}"},
    ),
}


@pytest.fixture(scope="module")
def outcomes(recipes, given, straight, make_run, tmp_path_factory):
    """Exit code, stderr and folder of each call, by its name."""
    tmp = tmp_path_factory.mktemp("calls")
    make_run(tmp / "other", seed=5)
    shutil.copytree(straight["classification"][0], tmp / "begun")
    paths = {"classification": straight["classification"][0], "other": tmp / "other"}
    paths["begun"] = tmp / "begun"
    paths["train"] = given["train_csv"]
    commands, folders = [], {}
    for name, (recipe, options) in {**CALLS, **REFUSED}.items():
        folder = tmp / str(len(commands))
        options = {key: str(value).format_map(paths) for key, value in options.items()}
        values = {"output_folder": folder, **own_data(recipe, given), **options}
        folders[name] = values["output_folder"]
        commands.append([str(part) for part in arguments(recipe, **values)])
    log = paths["classification"] / "log.txt"
    before = log.stat().st_mtime_ns
    found = recipes.call_all(commands)
    assert log.stat().st_mtime_ns == before  # a finished run is finished
    return {name: (*result, folders[name]) for name, result in zip(folders, found, strict=True)}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_work(outcomes, name):
    code, stderr, _ = outcomes[name]
    assert code == 0, stderr[-3000:]


@pytest.mark.parametrize("message", REFUSED)
def test_calls_that_are_refused(recipes, outcomes, message):
    code, stderr, _ = outcomes[message]
    recipes.check_refusal(code, stderr, message)


def test_the_cache_changes_rounding_alone(recipes, straight, outcomes):
    runs = (straight["asr"][0], outcomes["uncached"][2])
    losses = [[one["valid"]["loss"] for one in recipes.history(run)] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_fine_tuning_moves_the_encoder(recipes, outcomes, pretrained_run):
    checkpoint, _ = recipes.newest_checkpoint(outcomes["fine-tuned"][2])
    tuned = torch.load(checkpoint / "model.ckpt", weights_only=True)
    first, _ = recipes.newest_checkpoint(pretrained_run)
    begun = torch.load(first / "model.ckpt", weights_only=True)
    moved = [key for key in begun if not torch.equal(begun[key], tuned[key])]
    assert len(moved) > len(begun) / 2
    assert all(torch.isfinite(tensor.float()).all() for tensor in tuned.values())


def test_upstreams_differ(straight, outcomes):
    weights = {name: results_of(outcomes[name][2]) for name in ("random", "log-mel")}
    assert weights["log-mel"]["layer_weights"] == [1.0]
    assert len(weights["random"]["layer_weights"]) == 3
    assert list(results_of(outcomes["half"][2])["test"]) == ["no_lm"]


def test_trials_are_drawn_where_there_is_no_list(outcomes):
    found = results_of(outcomes["waveforms"][2])["test"]
    assert (found["num_trials"], found["num_speakers"]) == (21, 3)


def test_reports(straight, outcomes, tmp_path, capsys):
    folders = {name: str(folder) for name, (folder, _) in straight.items()}
    assert main(["summary", *folders.values()]) == 0
    printed = capsys.readouterr().out
    assert "equal error rate" in printed
    assert "answers_test.csv" in printed
    others = [str(outcomes[name][2]) for name in ("random", "log-mel")]
    assert main(["summary", "--table", *folders.values(), *others]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "test, greedy, bilstm: WER (%)" in lines[0]
    assert "pairs, xvector: equal error rate (%)" in lines[0]
    assert [line.split("|")[1].strip().split(",")[0] for line in lines[3:5]] == [
        "random",
        "log-mel",
    ]
    out = tmp_path / "compare.png"
    options = ["--num_bootstrap", "20", "--num_randomisations", "20", "--out", str(out)]
    assert main(["compare", folders["classification"], others[0], *options]) == 0
    assert "error rate (points)" in capsys.readouterr().out
    assert main(["compare", folders["verification"], *options]) == 0
    assert "equal error rate (%)" in capsys.readouterr().out
    assert out.stat().st_size > 0
