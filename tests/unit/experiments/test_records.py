"""Records of finished runs: what they hold, and which of them fill cells."""

import json
import re

import pytest

from experiments.records import (
    build_record,
    describe_machine,
    read_records,
    write_record,
)
from experiments.table import find_row
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus

EXPERIMENT = find_row("base-hyperconformer")


def test_a_run_of_the_row_on_librispeech(finished_runs, tmp_path):
    folders = finished_runs(EXPERIMENT)
    record = build_record(EXPERIMENT, folders)
    assert record["fills_cells"]
    assert (record["corpus"], record["differences"]) == ("LibriSpeech", {})
    assert (record["seed"], record["hardware"]) == ("1000", describe_machine())
    assert record["results"]["test-other"]["lm"]["wer"] == 10.0
    assert {"python", "torch", "speechbrain", "speechbrain-pom"} <= record["versions"].keys()
    assert record["pretraining"] == {
        "commit": "abc1234",
        "hours": 1.5,
        "processes": 2,
        "command": "torchrun --standalone --nproc-per-node=2 train.py hparams/pom.yaml --d_model 8",
    }
    assert record["finetuning"]["command"].startswith("python train.py hparams/pom_ctc.yaml")
    path = write_record(record, tmp_path / "records")
    assert path == tmp_path / "records/base-hyperconformer/seed1000.json"
    assert read_records(tmp_path / "records") == [record]


def test_the_hardware_of_a_record_stays(finished_runs, tmp_path):
    """Runs may be recorded again on another machine; other runs of the row have their own."""
    record = build_record(EXPERIMENT, finished_runs(EXPERIMENT))
    path = write_record(record, tmp_path, hardware="2 x A100")
    write_record({**record, "versions": {"torch": "9.9"}}, tmp_path)
    assert json.loads(path.read_text()) == {**record, "hardware": "2 x A100"}
    again = {**record, "finetuning": {**record["finetuning"], "hours": 2.0}}
    write_record(again, tmp_path)
    assert json.loads(path.read_text()) == again


def test_what_may_differ(finished_runs):
    """Seed, language model, and the same audio per step on another number of processes."""
    batch = {"processes": 8, "max_batch_duration_s": 350.0, "grad_accumulation_factor": 2}
    folders = finished_runs(
        EXPERIMENT,
        pretraining={**batch, "seed": 7, "num_workers": 0},
        finetuning={"seed": 7, "kenlm_model_path": "/lm/4-gram.arpa.gz", "pretrained": "x"},
    )
    record = build_record(EXPERIMENT, folders)
    assert record["differences"] == {}
    assert record["seed"] == "7"


@pytest.mark.parametrize(
    ("stage", "changes", "found"),
    [
        ("pretraining", {"d_model": 64}, {"d_model": ["672", "64"]}),
        ("pretraining", {"lr": 0.001}, {"lr": ["0.0008", "0.001"]}),
        ("pretraining", {"processes": 1}, {"batch of an optimizer step": [5600.0, 2800.0]}),
        ("finetuning", {"processes": 2}, {"batch of an optimizer step": [6.0, 12.0]}),
        ("finetuning", {"beam_size": 50}, {"beam_size": ["200", "50"]}),
    ],
)
def test_a_changed_row_fills_no_cell(finished_runs, tmp_path, stage, changes, found):
    record = build_record(EXPERIMENT, finished_runs(EXPERIMENT, **{stage: changes}))
    assert record["differences"] == {stage: found}
    assert not record["fills_cells"]
    write_record(record, tmp_path)
    assert read_records(tmp_path) == []


def test_other_corpora_fill_no_cell(finished_runs, tmp_path):
    for stage in ("pretraining", "finetuning"):
        folders = finished_runs(EXPERIMENT, name=stage, **{stage: {"num_utterances": 1000}})
        record = build_record(EXPERIMENT, folders)
        assert record["corpus"].startswith("other: not the training and test utterances of")
        assert not record["fills_cells"]

    folders = finished_runs(EXPERIMENT, name="less")
    results = json.loads((folders["finetuning"] / "results.json").read_text())
    results["test-clean"]["lm"]["num_words"] -= 1
    (folders["finetuning"] / "results.json").write_text(json.dumps(results))
    assert not build_record(EXPERIMENT, folders)["fills_cells"]


def test_a_corpus_of_pretraining_whose_utterances_are_not_published(finished_runs):
    """Of it nothing can be told; fine-tuning is still recognised, and the processes count."""
    row = find_row("wav2vec2-summarymixing")
    record = build_record(row, finished_runs(row, pretraining={"num_utterances": 7}))
    assert (record["corpus"], record["differences"]) == ("LibriSpeech", {})
    folders = finished_runs(row, name="two", pretraining={"processes": 2})
    differences = build_record(row, folders)["differences"]["pretraining"]
    assert differences == {"batch of an optimizer step": [5760.0, 2880.0]}
    folders = finished_runs(row, name="less", finetuning={"num_utterances": 7})
    assert not build_record(row, folders)["fills_cells"]


def test_the_mini_corpus_fills_no_cell(finished_runs, tmp_path):
    corpus = make_mini_corpus(tmp_path / "mini", 0.5, show_progress=False)
    folders = finished_runs(EXPERIMENT)
    (folders["finetuning"] / "hyperparams.yaml").write_text(
        f"# Command: x\ndata_folder: {corpus}\n"
    )
    record = build_record(EXPERIMENT, folders)
    assert record["corpus"] == "mini corpus (synthetic)"
    assert not record["fills_cells"]


def test_csv_files_of_ones_own_are_no_librispeech_by_their_place(finished_runs):
    folders = finished_runs(EXPERIMENT, pretraining={"num_utterances": 1000})
    (folders["finetuning"] / "hyperparams.yaml").write_text(
        "# Command: x\ndata_folder: null\ntrain_csv: own.csv\n"
    )
    assert build_record(EXPERIMENT, folders)["corpus"].startswith("other: not the training and")


def test_runs_that_are_none_are_refused(finished_runs, tmp_path):
    folders = finished_runs(EXPERIMENT)
    nowhere = {**folders, "pretraining": tmp_path / "nowhere"}
    with pytest.raises(ValueError, match="holds no finished run of pretraining: give its command"):
        build_record(EXPERIMENT, nowhere)
    exchanged = dict(zip(folders, reversed(folders.values()), strict=True))
    with pytest.raises(ValueError, match="is not a run of pretraining: give the pretraining's f"):
        build_record(EXPERIMENT, exchanged)
    other = finished_runs(EXPERIMENT, name="others")
    mixed = {**folders, "pretraining": other["pretraining"]}
    message = f"was started from '{folders['pretraining']}/save', not from a run in"
    with pytest.raises(ValueError, match=re.escape(message)):
        build_record(EXPERIMENT, mixed)


def test_machine():
    assert re.search(r"\d+ (x|CPU cores,) \S", describe_machine())
