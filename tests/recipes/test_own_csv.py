"""All recipes on data of one's own, none edited; statistics of layers; plateaus."""

import csv
import json
import re
import sys

import pytest

from speechbrain_pom.data.manifest import read_manifest


@pytest.fixture(scope="module")
def own(corpus, tmp_path_factory):
    """The mini corpus as one CSV file with a column `split`."""
    folder = tmp_path_factory.mktemp("own")
    with open(folder / "own.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "path", "split", "text", "reader"])
        for transcripts in sorted(corpus.rglob("*.trans.txt")):
            split = transcripts.relative_to(corpus).parts[0]
            for line in transcripts.read_text().splitlines():
                key, _, text = line.partition(" ")
                audio = transcripts.with_name(f"{key}.flac")
                writer.writerow([key, audio, split, text, key.partition("-")[0]])
    return folder / "own.csv"


@pytest.fixture(scope="module")
def pretrained_on_own(recipes, own, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrained_on_own") / "run"
    recipes.train(
        "bestrq",
        folder,
        train_csv=f"[{own}?split=train-clean-100]",
        valid_csv=f"{own}?split=dev-clean",
        train_splits=None,
        number_of_epochs=1,
        layer_statistics_interval=2,
        f_max=6000,
    )
    return folder


def test_pretraining(pretrained_on_own, recipes, pretrained):
    (record,) = recipes.history(pretrained_on_own)
    assert record["train"]["masked_share"] > 0.1
    manifests = [
        {key: row["num_samples"] for key, row in read_manifest(run / "manifests/train.csv").items()}
        for run in (pretrained_on_own, pretrained[0])
    ]
    assert manifests[0] == manifests[1]
    lines = (pretrained_on_own / "layers.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == list(range(0, record["steps"], 2))


@pytest.mark.parametrize("is_blank", [True, False])
def test_fine_tuning_and_a_plateau(recipes, own, pretrained_on_own, tmp_path, is_blank):
    """Rates are annealed in every epoch that writes anything, and in no other."""
    too_fast = {"lr": 0.05, "lr_encoder": 0.001, "grad_accumulation_factor": 1}
    printed = recipes.train(
        "ctc",
        tmp_path / "run",
        **(too_fast if is_blank else {}),
        pretrained=pretrained_on_own,
        train_csv=f"[{own}?split=train-clean-100]",
        valid_csv=f"{own}?split=dev-clean",
        test_csv=f"[{own}?split=test-clean]",
        train_splits=None,
        number_of_epochs=3,
        improvement_threshold=10,  # nothing is ever enough
    )
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert list(results) == ["own-test-clean"]
    records = recipes.history(tmp_path / "run")
    assert [record["valid"]["blank_share"] == 1 for record in records] == [is_blank] * 3
    assert is_blank == ("rates are not annealed while all outputs are blank" in printed)
    # The scheduler compares with the loss of an earlier epoch, so that the first one changes none.
    for key, factor in (("lr_head", 0.5), ("lr_encoder", 0.7)):
        first, second, third = (record[key] for record in records)
        assert second == first
        assert third == pytest.approx(first * (1 if is_blank else factor))


def test_calls_that_cannot_work(recipes, own, tmp_path):
    train = {"train_csv": f"{own}?split=train-clean-100"}
    both = {**train, "valid_csv": f"{own}?split=dev-clean", "pretrained": "null"}
    named = tmp_path / "train.csv"
    named.write_text(own.read_text())
    calls = {
        "train_csv is given, but valid_csv is not: give both": ("bestrq", train),
        "a test set is called 'train', which is the name of another manifest": (
            "ctc",
            {**both, "test_csv": named},
        ),
        "two of the sources": ("bestrq", {**both, "train_csv": f"[{own}, {own}]"}),
    }
    commands = []
    for number, (stage, options) in enumerate(calls.values()):
        options = {k: v for k, v in options.items() if stage == "ctc" or k != "pretrained"}
        command = recipes.arguments(stage, output_folder=tmp_path / str(number), **options)
        commands.append([str(part) for part in command])
    for message, (code, stderr) in zip(calls, recipes.call_all(commands), strict=True):
        recipes.check_refusal(code, stderr, message)


PREPARE = """
from pathlib import Path

def prepare(data_folder, save_folder, splits):
    Path(save_folder).mkdir(parents=True)
    lines = Path(data_folder, "own.csv").read_text().splitlines()
    made = {}
    for part, split in splits.items():
        made[part] = f"{save_folder}/own-{part}.csv"
        chosen = [line for line in lines[1:] if f",{split}," in line]
        Path(made[part]).write_text("\\n".join([lines[0], *chosen]))
    return made
"""
YAML = """prepare: !name:own_corpus.prepare
    splits: {train: train-clean-100, valid: dev-clean, test: test-clean}
"""
AUGMENT = """fea_augment: !new:speechbrain.augment.augmenter.Augmenter
    augmentations:
        - !new:speechbrain.augment.freq_domain.SpectrogramDrop
            dim: 2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "augmentations"), [("bestrq", ["fea_augment: null", AUGMENT]), ("ctc", [AUGMENT])]
)
def test_a_preparation_of_ones_own_and_augmented_features(
    recipes, own, tmp_path, stage, augmentations
):
    """Named in a YAML of one's own, without a change of any recipe."""
    (tmp_path / "own_corpus.py").write_text(PREPARE)
    source = {"bestrq": "hparams/pom.yaml", "ctc": "hparams/pom_ctc.yaml"}[stage]
    text = (recipes.ROOT / source).read_text()
    keys = {"data_folder": own.parent, "train_splits": None, "number_of_epochs": 1}
    keys |= {"pretrained": "null"} if stage == "ctc" else {}
    losses = []
    for number, augment in enumerate(augmentations):
        changed = re.sub(r"prepare: null.*\n( {10,}#.*\n)*", YAML, text, count=1)
        changed = re.sub("fea_augment: null.*\n", f"{augment}\n", changed, count=1)
        (tmp_path / "own.yaml").write_text(changed)
        folder = tmp_path / str(number)
        keys |= {"yaml": tmp_path / "own.yaml", "output_folder": folder}
        command = [sys.executable, *recipes.arguments(stage, **keys)]
        result = recipes.run(command, forked=False, PYTHONPATH=f"{recipes.ROOT}:{tmp_path}")
        assert result.returncode == 0, result.stderr[-3000:]
        losses.append(recipes.history(folder)[0]["train"]["loss"])
    assert len(set(losses)) == len(augmentations)
    if stage == "ctc":
        assert list(json.loads((folder / "results.json").read_text())) == ["own-test"]


def test_a_probe_of_any_column(recipes, own, pretrained_on_own, tmp_path):
    command = ["recipes/Probe/train_probe.py", "hparams/probe.yaml", "--noprogressbar"]
    options = {
        "task": "label",
        "label_column": "reader",
        "train_csv": f"{own}?split=train-clean-100",
        "pretrained": pretrained_on_own,
        "output_folder": tmp_path / "run",
        "number_of_epochs": 2,
        "batch_size": 3,
        "test_share": 0.3,
        "valid_share": 0.3,
        "num_workers": 0,
        "num_bootstrap": 20,
        "device": "cpu",
    }
    for key, value in options.items():
        command += [f"--{key}", str(value)]
    result = recipes.run([sys.executable, *command])
    assert result.returncode == 0, result.stderr[-3000:]
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["task"] == "label"
    assert 0 <= results["test"]["accuracy"] <= 100
