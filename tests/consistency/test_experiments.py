"""The table of experiments: each row builds, has its parameters, and is in the README."""

import configparser

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from setuptools import find_packages

from experiments.commands import build_commands
from experiments.readme import README, update_readme
from experiments.records import RECORDS_FOLDER, read_records
from experiments.table import load_table
from speechbrain_pom.runs.options import parse_command_line
from tests.helpers import ROOT

EXPERIMENTS = load_table()
TOLERANCE = 0.03


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def stage_overrides(experiment, stage, folder):
    """What the recipe of a stage lays over its hparams file, from the command of the row."""
    words = build_commands(experiment, num_processes=1, results_folder=folder)[stage]
    return parse_command_line(words[2:]).overrides


def build(path, overrides, device):
    """The objects of an hparams file; on "meta" without memory for their parameters."""
    with open(path, encoding="utf-8") as stream, torch.device(device):
        return load_hyperpyyaml(stream, overrides)


def count(module):
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_parameters_of_a_row(name, tmp_path):
    experiment = EXPERIMENTS[name]
    overrides = stage_overrides(experiment, "pretraining", tmp_path)
    pretrained = build(experiment.files["pretraining"], overrides, "meta")
    counts = [count(pretrained["Transformer"]), count(pretrained["objective"])]
    assert counts == experiment.parameters

    # A row outside of the tolerance says why, and no other one does.
    deviation = abs(counts[1] / experiment.num_parameters_wanted - 1)
    assert (deviation > TOLERANCE) == bool(experiment.outside), f"{deviation:.1%}"


def test_summary_mixing_of_the_publication_has_its_parameters():
    """Front end, input, Conformer, quantizer and output, as they were counted there."""
    parts = 912_384 + 394_752 + 152_784_384 + 476_032 + 196_864
    assert EXPERIMENTS["wav2vec2-summarymixing"].parameters[1] == parts


@pytest.mark.parametrize("name", [name for name, row in EXPERIMENTS.items() if "hybrid" in name])
def test_hybrids_compute(name, tmp_path):
    """Attention and PoM in one stack at the table's width and number of heads, on real memory."""
    experiment = EXPERIMENTS[name]
    small = {"d_ffn": 8, "cnn_channels": 4}
    overrides = {**stage_overrides(experiment, "pretraining", tmp_path), **small}
    hparams = build(experiment.files["pretraining"], overrides, "cpu")
    feats, num_features = torch.randn(2, 32, 80), torch.tensor([32, 16])
    frames, _ = hparams["encoder"].encode(feats, num_features)
    assert frames.shape == (2, 8, hparams["d_model"])
    assert frames.isfinite().all()


def test_readme_is_what_the_table_and_the_records_say():
    assert update_readme(read_records(RECORDS_FOLDER), README, check=True), (
        "run `python -m experiments readme`"
    )


def test_experiments_are_not_installed_with_the_package():
    config = configparser.ConfigParser()
    config.read("setup.cfg")
    include = config["options.packages.find"]["include"].split()
    found = find_packages(".", include=include)
    assert "speechbrain_pom.cli" in found
    assert [name for name in found if "experiments" in name] == []
    assert find_packages(".", include=["experiments"]) == ["experiments"]  # and this can fail
