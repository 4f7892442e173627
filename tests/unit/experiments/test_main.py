"""`python -m experiments`: the table, the commands of a row, records and the README."""

import json
import shutil

import pytest

from experiments import __main__ as program
from experiments.__main__ import main
from experiments.table import STAGES, load_table
from tests.helpers import ROOT


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what the experiments need of a checkout, which may be written to."""
    shutil.copytree(ROOT / "hparams", tmp_path / "hparams")
    shutil.copytree(
        ROOT / "recipes", tmp_path / "recipes", ignore=shutil.ignore_patterns("results")
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_list(checkout, capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-2]] == list(load_table())
    assert "93.1 M" in next(line for line in lines if line.startswith("base-summarymixing "))


def test_show(checkout, capsys):
    assert main(["show", "base-ropemha", "--nproc", "1", "--data_folder", "/d"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "base-ropemha"
    assert "  overrides   --attention_type RoPEMHA --d_model 576" in lines
    assert "  parameters  90,033,888 as pretrained, 85,257,408 of them in the encoder" in lines
    assert "              more than 3 % from the size: the published d_model" in "\n".join(lines)
    assert any("other 17.53 ±0.48" in line and "(arXiv 2603.00683)" in line for line in lines)
    assert lines[-2].startswith("python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --att")
    assert lines[-2].endswith("--grad_accumulation_factor 4 --data_folder /d")
    assert lines[-1].startswith(
        "python recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml --output_folder"
    )


def test_show_what_is_not_published(checkout, capsys):
    assert main(["show", "hybrid-relpos4-pom8"]) == 0
    assert "  published   nothing\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "base-pon"], "unknown experiment 'base-pon': did you mean base-pom?"),
        (["run", "base-pon"], "unknown experiment 'base-pon': did you mean base-pom?"),
        (["run", "base-pom", "--d_modle", "8"], "unknown option --d_modle: did you mean --d_model"),
        (["show", "base-pom", "--nproc", "0"], "--nproc is 0: give at least 1"),
        (
            ["list", "--d_model", "8"],
            "unrecognized arguments: --d_model 8 (python -m experiments list",
        ),
        (["readme", "--chek"], "unrecognized arguments: --chek (python -m experiments readme"),
        (["record", "base-pom", "no", "where"], "'no' holds no finished run of pretraining"),
        ([], "the following arguments are required: ACTION"),
    ],
)
def test_bad_calls(arguments, message, checkout, capsys):
    assert message in refused(arguments, capsys)


def test_a_stage_that_fails_ends_the_run(checkout, monkeypatch, capsys):
    commands = []
    monkeypatch.setattr(program, "run_command", lambda words: commands.append(words) or 3)
    assert main(["run", "base-pom", "--nproc", "1"]) == 3
    assert [words[1] for words in commands] == ["recipes/LibriSpeech/train_bestrq.py"]
    assert "pretraining ended with exit code 3: the same command resumes" in capsys.readouterr().out


@pytest.mark.parametrize("fills_cells", [True, False])
def test_where_a_record_goes(checkout, monkeypatch, capsys, fills_cells):
    """Into the repository where the tables read it, or beside its runs."""
    facts = {"commit": "abc1234", "hours": None, "processes": 1, "command": "python train.py"}
    wer = {"no_lm": {"wer": 8.4, "wer_low": 8.0, "wer_high": 8.6}}
    record = {
        "experiment": "base-pom",
        "corpus": "LibriSpeech",
        "differences": {} if fills_cells else {"pretraining": {"d_model": ["488", "64"]}},
        "fills_cells": fills_cells,
        "results": {"test-clean": wer},
        "seed": "7",
        "hardware": "a machine",
        **dict.fromkeys(STAGES, facts),
    }
    monkeypatch.setattr(program, "build_record", lambda *_: record)
    assert main(["record", "base-pom", "a", "b", "--results_folder", "out"]) == 0
    path = "recipes/LibriSpeech/results" if fills_cells else "out"
    path += "/base-pom/seed7.json"
    assert json.loads((checkout / path).read_text()) == record
    printed = capsys.readouterr().out
    assert f"record: {path}\n" in printed
    assert ("pretraining: d_model 64 (not 488)" in printed) != fills_cells

    assert main(["readme"]) == 0
    readme = (checkout / "recipes/LibriSpeech/README.md").read_text()
    assert ("8.31 ±0.31 | 8.40 ±0.30 |" in readme) == fills_cells
    assert ("? + ? hours; a machine" in readme) == fills_cells
    capsys.readouterr()
    assert main(["list"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "base-pom " in line)
    assert line.endswith("  1") == fills_cells


def test_check_of_the_readme(checkout, capsys):
    assert main(["readme", "--check"]) == 0
    path = checkout / "recipes/LibriSpeech/README.md"
    path.write_text(path.read_text().replace("| 8.31 ±0.31 |", "| 8.13 ±0.31 |"))
    assert main(["readme", "--check"]) == 1
    assert "is not what the records say: run" in capsys.readouterr().out
    assert main(["readme"]) == 0
    assert main(["readme", "--check"]) == 0
