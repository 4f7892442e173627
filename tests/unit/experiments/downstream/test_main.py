"""`python -m experiments.downstream`: the plan, the runs, the record, the table."""

import json
import shutil

import pytest

from experiments.downstream import report
from experiments.downstream.__main__ import main
from experiments.downstream.protocols import find_protocol, plan_tasks
from experiments.replica.__main__ import main as main_of_replica
from experiments.replica.records import read_record
from speechbrain_pom.downstream.answers import write_answers
from speechbrain_pom.downstream.metrics import CLASSIFICATION_METRICS, VERIFICATION_METRICS
from speechbrain_pom.probe import ClassificationScores
from speechbrain_pom.runs.metrics import store_metrics
from speechbrain_pom.runs.record import record_run
from tests.helpers import ROOT

# Stands for every recipe: leaves what a finished run leaves, as prepared by the fixture.
RECIPE = """
import pathlib, shutil, sys
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
template = pathlib.Path("templates") / pathlib.Path(sys.argv[0]).stem
folder = pathlib.Path(words["--output_folder"])
if "pretrained" in words.get("--upstream", ""):
    assert (pathlib.Path(words["--pretrained"]) / "run.json").is_file()
if not (folder / "run.json").exists():
    shutil.copytree(template, folder, dirs_exist_ok=True)
with open("calls.txt", "a") as stream:
    print(folder, file=stream)
"""
PROTOCOLS = """
tiny:
  about: Made up.
  hardware: anything
  jobs: 1
  replica: small
  mixers: [PoM]
  random: [PoM]
  pretraining_seed: 1
  seeds: [1, 2]
  objectives:
    BEST-RQ: {recipe: recipes/LibriSpeech/train_bestrq.py, file: hparams/pom.yaml, options: {}}
  files: [words.csv]
  options: {num_workers: 0}
  tasks:
    words: {recipe: classification, train_csv: words.csv, lr: 0.5}
    speakers: {recipe: verification, train_csv: words.csv}
"""


def write_template(folder, task, results):
    folder.mkdir(parents=True)
    store_metrics(folder, task)
    record_run(folder, finished={"seed": "1"})
    stored = {"head": "mean", "layer_weights": [0.5, 0.5], **results}
    (folder / "results.json").write_text(json.dumps(stored))
    (folder / "history.jsonl").write_text('{"epoch": 1, "steps": 3, "valid": {"loss": 1.0}}\n')


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what the protocols need of a checkout; the recipes are stand-ins."""
    for name in ("hparams", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in (
        "LibriSpeech/train_bestrq",
        "LibriSpeech/train_ctc",
        "MP3S/train_classification",
        "MP3S/train_verification",
    ):
        recipe = tmp_path / f"recipes/{path}.py"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(RECIPE)
    templates = tmp_path / "templates"
    scores = ClassificationScores()
    scores.append(list("abcd"), ["X", "X", "Y", "Y"], ["X", "X", "X", "Y"])
    summary = scores.summary(20)
    write_template(templates / "train_classification", CLASSIFICATION_METRICS, {"test": summary})
    write_answers(templates / "train_classification/answers_test.csv", scores.answers())
    figures = {"eer": 12.5, "eer_low": 10.0, "eer_high": 20.0, "num_trials": 8, "num_speakers": 3}
    write_template(templates / "train_verification", VERIFICATION_METRICS, {"test": figures})
    (templates / "train_bestrq").mkdir()
    (templates / "train_bestrq/run.json").write_text('{"finished": {}}')
    (tmp_path / "speech").mkdir()
    (tmp_path / "speech/words.csv").write_text("id,path\n")
    (tmp_path / "own.yaml").write_text(PROTOCOLS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words):
    return main([*words, "--protocols", "own.yaml", "--out", "out"])


def calls(folder):
    path = folder / "calls.txt"
    return path.read_text().splitlines() if path.exists() else []


def test_runs_and_their_table(checkout, capsys):
    assert call("run", "tiny", "--speech", "speech") == 0
    made = calls(checkout)
    assert made[0] == "out/BEST-RQ_PoM/1/pretraining"  # encoders come first, each once
    assert len(made) == 1 + 2 * 2 * 3
    capsys.readouterr()
    assert call("report", "tiny") == 0
    printed = capsys.readouterr().out
    assert "| BEST-RQ PoM | 75.00 (" in printed.replace("**", "")
    assert "log-mel" in printed
    assert "12.50** (10.00 to 20.00)" in printed or "12.50 (10.00 to 20.00)" in printed
    record = read_record(checkout / "out/downstream_tiny.json")
    assert len(record["runs"]) == 12
    assert record["missing"] == []
    assert record["utterances"] == {"words": dict.fromkeys("abcd", 1)}
    # What the record has is neither run again nor lost with the folder.
    shutil.rmtree(checkout / "out/log-mel")
    assert call("run", "tiny", "--speech", "speech") == 0
    assert "12 of 12 runs are in the record: left out" in capsys.readouterr().out
    assert len(calls(checkout)) == len(made)
    assert call("report", "tiny") == 0
    assert read_record(checkout / "out/downstream_tiny.json") == record


def test_encoders_of_the_replica_are_its_own_runs(checkout, capsys):
    path = checkout / "own.yaml"
    start = "    BEST-RQ: "
    lines = path.read_text().splitlines()
    path.write_text("\n".join(f"{start}null" if x.startswith(start) else x for x in lines))
    words = ("--tasks", "words", "--seeds", "2")
    assert call("run", "tiny", "--speech", "speech", *words) == 0
    encoder = "results/replica/small/PoM/1/pretraining"
    assert calls(checkout)[0] == encoder
    capsys.readouterr()
    assert call("show", "tiny", *words) == 0
    shown = capsys.readouterr().out.splitlines()
    main_of_replica(["show", "small"])
    commands = capsys.readouterr().out.splitlines()
    (there,) = (one for one in commands if f"--output_folder {encoder} " in one)
    data_folder = there.split("--data_folder ")[1].split(" --")[0]
    assert shown[0] == there.replace(data_folder, '"$SPEECHBRAIN_POM_SPEECH"')
    assert f"--pretrained {encoder} " in shown[1]


def test_some_of_the_runs(checkout, capsys):
    words = ("--upstreams", "log-mel", "--tasks", "words", "--seeds", "2")
    assert call("run", "tiny", "--speech", "speech", *words) == 0
    assert calls(checkout) == ["out/log-mel/2/words"]
    assert call("show", "tiny", *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("python recipes/") for line in lines) == 1
    assert "--upstream log_mel --pretrained null" in lines[-1]
    assert call("report", "tiny") == 0
    printed = capsys.readouterr().out
    assert "not finished: BEST-RQ PoM, seed 1, words; " in printed


def test_the_document_is_written_from_the_records(checkout):
    path = checkout / "docs/downstream.md"
    report.update_document(path, checkout)
    assert report.update_document(path, checkout, check=True)
    assert "Not run yet." in path.read_text()


def test_every_command_of_the_protocol_is_one():
    """Options are checked where the commands are made."""
    protocol = find_protocol("real")
    chains = plan_tasks(protocol, "out", "speech")
    assert len(chains) == len(protocol.upstreams) * len(protocol.tasks) * len(protocol.seeds)
    assert len({run.folder for chain in chains for run in chain}) == len(chains)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "tiny", "--upstreams", "BEST-RQ PaM"), "upstream 'BEST-RQ PaM' is not of"),
        (("show", "tiny", "--tasks", "songs"), "task 'songs' is not of protocol tiny"),
        (("run", "tiny", "--speech", "docs"), "'docs' has no words.csv"),
        (("report", "tiny"), "no finished run of protocol tiny in 'out'"),
        (("report", "tiny", "--check"), "--check is about the protocols of the checkout"),
        (("show", "huge"), "unknown protocol 'huge': choose one of tiny"),
    ],
)
def test_calls_that_are_refused(checkout, capsys, words, message):
    with pytest.raises(SystemExit):
        call(*words)
    assert message in capsys.readouterr().err


def test_protocols_that_cannot_be(checkout, capsys):
    text = PROTOCOLS.replace("mixers: [PoM]", "mixers: [Moon]")
    (checkout / "own.yaml").write_text(text)
    with pytest.raises(SystemExit):
        call("show", "tiny")
    assert "mixer 'Moon' is not of the replica's protocol small" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["show", "tiny", "--protocols", "none.yaml"])
    assert "no such file of protocols" in capsys.readouterr().err


def test_a_task_has_one_test(checkout, capsys):
    assert call("run", "tiny", "--speech", "speech", "--upstreams", "log-mel") == 0
    path = checkout / "out/log-mel/1/words/results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps({**results, "other": results["test"]}))
    with pytest.raises(SystemExit):
        call("report", "tiny")
    assert "has 2 results: a task of a protocol has one test set" in capsys.readouterr().err
