"""Folders of finished runs, as the recipes leave them, without the training."""

import json
from pathlib import Path

import pytest

from experiments import records
from experiments.commands import row_values
from experiments.table import STAGES
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.record import record_fingerprint, record_run
from tests.helpers import ROOT


def write_run(folder, experiment, stage, processes=1, num_utterances=None, **changes):
    """One finished run of an experiment, with other values for some of its keys."""
    (folder / "manifests").mkdir(parents=True)
    overrides = {**row_values(experiment, stage, read_tree(experiment.files[stage])), **changes}
    run = Run({}, {}, overrides, {}, False, Path(experiment.files[stage]))
    record_run(folder, finished=configuration(run, processes))
    known = {"pretraining": experiment.pretraining_utterances or 1}
    known["finetuning"] = records.FINETUNING_UTTERANCES
    num_rows = num_utterances or known[stage]
    (folder / "manifests/train.csv").write_text("ID,duration\n" + "a,1\n" * num_rows)
    (folder / "hyperparams.yaml").write_text(
        f"# Command: train.py {experiment.files[stage]} --d_model 8\ndata_folder: /data\n"
    )
    (folder / "env.log").write_text("====\nGit revision:\nabc1234\n====\n")
    (folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 - quirks - INFO - Applied quirks (see ...): []\n"
        "2026-01-01 11:30:00,000 - train - INFO - done\n"
    )


def summary_of(split, wer):
    num_utterances, num_words = records.TESTS[split]
    rates = {f"{name}{end}": wer + x for name in ("wer", "cer") for end, x in ENDS.items()}
    return {**rates, "num_utterances": num_utterances, "num_words": num_words}


ENDS = {"": 0.0, "_low": -0.25, "_high": 0.25}


@pytest.fixture
def finished_runs(tmp_path, monkeypatch):
    """Function of an experiment: the folders of its two runs on LibriSpeech, by stage."""
    monkeypatch.chdir(ROOT)

    def write(experiment, name="runs", pretraining=(), finetuning=()):
        folders = {stage: tmp_path / name / stage for stage in STAGES}
        options = {"processes": experiment.num_processes, **dict(pretraining)}
        write_run(folders["pretraining"], experiment, "pretraining", **options)
        write_run(folders["finetuning"], experiment, "finetuning", **dict(finetuning))
        results = {
            split: {"no_lm": summary_of(split, wer), "lm": summary_of(split, wer / 2)}
            for split, wer in (("test-clean", 9.0), ("test-other", 20.0))
        }
        (folders["finetuning"] / "results.json").write_text(json.dumps(results))
        source = str((folders["pretraining"] / "save").resolve())
        record_fingerprint(folders["finetuning"], pretrained_from=source)
        return folders

    return write


@pytest.fixture
def tested_run(tmp_path):
    """Function of a name and predictions: the folder of a run that was tested on them."""

    def write(name, predictions, references, epochs=2):
        folder = tmp_path / name / "ctc"
        rates = ErrorRates()
        rates.append([f"u{i}" for i in range(len(references))], predictions, references)
        rates.write(folder / "wer_test-clean_no_lm.txt")
        results = {"test-clean": {"no_lm": rates.summary(20)}}
        (folder / "results.json").write_text(json.dumps(results))
        history = EpochHistory(folder / "history.jsonl")
        for epoch in range(1, epochs + 1):
            losses = {"train": {"loss": 5.0 / epoch}, "valid": {"loss": 6.0 / epoch, "wer": 50.0}}
            history.append({"epoch": epoch, "steps": 10 * epoch, **losses})
        return folder

    return write
