"""The preparation script of the LibriSpeech recipes."""

import json
import runpy
import sys

import pytest

from speechbrain_pom.data.manifest import read_manifest
from tests.helpers import ROOT

SCRIPT = ROOT / "recipes/LibriSpeech/librispeech_prepare.py"


def test_script_merges_the_training_splits(corpus, tmp_path):
    prepare_all = runpy.run_path(str(SCRIPT))["prepare"]
    splits = ["train-clean-100", "train-other-500", "dev-clean"]
    paths = prepare_all(corpus.root, tmp_path / "csv", splits, show_progress=False)
    assert list(paths) == [*splits, "train"]
    assert len(read_manifest(paths["train"])) == 10
    assert "train" not in prepare_all(corpus.root, tmp_path / "dev", ["dev-clean"])
    paths = prepare_all(corpus.root, tmp_path / "csv", splits, ["dev-clean", "train-other-500"])
    assert len(read_manifest(paths["train"])) == 4
    with pytest.raises(ValueError, match="training split 'test-clean' is not in splits"):
        prepare_all(corpus.root, tmp_path / "csv", splits, ["test-clean"])


def test_script_with_a_split_called_train(corpus, tmp_path):
    prepare_all = runpy.run_path(str(SCRIPT))["prepare"]
    (corpus.root / "train-other-500").rename(corpus.root / "train")
    path = prepare_all(corpus.root, tmp_path / "csv", ["train", "dev-clean"])["train"]
    assert list(read_manifest(path)) == ["20-205-0000"]
    with pytest.raises(ValueError, match=r"split 'train' beside the .*; rename that folder"):
        prepare_all(corpus.root, tmp_path / "csv", ["train", "train-clean-100"])


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script_as_a_command(corpus, tmp_path, monkeypatch, capsys):
    command = [corpus.root, tmp_path / "csv", "--splits", "dev-clean", "--num_workers", "1"]
    corpus.transcripts.unlink()
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, *command)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: dev-clean: 0 utterances (0.000 h) are good, 3 ")
    run_script(monkeypatch, *command, "--no_transcripts")
    assert len(read_manifest(tmp_path / "csv/dev-clean.csv")) == 3
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, *command, "--no_trans")  # no abbreviations
    run_script(monkeypatch, *command, "--no_transcripts", "--check_data", "decode")
    record = json.loads((tmp_path / "csv/dev-clean.json").read_text())
    assert record["source"]["check_data"] == "decode"


def prepare_pretraining(folder, out, **options):
    defaults = {
        "data_layout": "librispeech",
        "train_splits": ["train-clean-100", "train-other-500"],
        "valid_split": "dev-clean",
        "valid_share": 0.01,
        "max_bad_share": 0.0,
        "check_data": "headers",
    }
    hparams = {"data_folder": folder, **defaults, **options}
    return runpy.run_path(str(SCRIPT))["prepare_pretraining"](hparams, out)


def test_pretraining_needs_no_transcripts(corpus, tmp_path):
    corpus.transcripts.unlink()
    paths = prepare_pretraining(corpus.root, tmp_path / "csv")
    assert paths[:3] == (tmp_path / "csv/train.csv", tmp_path / "csv/valid.csv", {})
    assert len(read_manifest(paths.train)) == 10
    assert list(read_manifest(paths.valid)) == [f"84-121123-000{i}" for i in range(3)]


def test_pretraining_takes_a_folder_of_audio(corpus, tmp_path):
    paths = prepare_pretraining(corpus.root, tmp_path / "csv", data_layout="folder")
    parts = [read_manifest(path) for path in (paths.train, paths.valid)]
    assert len(parts[0]) + len(parts[1]) == 13
    assert "dev-clean/84/121123/84-121123-0000.flac" in parts[0] | parts[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data_layout": "kaldi"}, "data_layout is 'kaldi': choose librispeech, folder or shards"),
        ({"train_splits": ["valid"]}, "manifest of 'valid' would be that of validation, valid.csv"),
    ],
)
def test_pretraining_refuses(corpus, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        prepare_pretraining(corpus.root, tmp_path / "csv", **options)
