"""`python -m experiments.replica`: the plan, the runs, the report."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.replica import __main__ as program
from experiments.replica import statistics
from experiments.replica.__main__ import main
from experiments.replica.report import BEGIN, END
from speechbrain_pom.data.mini_corpus.make import verify_mini_corpus
from speechbrain_pom.runs.record import finished_configuration
from tests.helpers import ROOT

RECIPE = """
import json, pathlib, sys
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
if words["--seed"] == "2":
    sys.exit("error: seeds of 2 do not grow")
folder = pathlib.Path(words["--output_folder"])
folder.mkdir(parents=True, exist_ok=True)
if not (folder / "run.json").exists():
    (folder / "run.json").write_text(json.dumps({"finished": words["--seed"]}))
"""
PROTOCOLS = """
tiny:
  hardware: anything
  jobs: 1
  corpus: {duration_min: 0.5, seed: 4}
  seeds: [1, 2]
  options: {num_encoder_layers: 2}
  pretraining: {optimizer_step_limit: 2}
  finetuning: {optimizer_step_limit: 3}
  mixers:
    PoM: {attention_type: PoM, d_model: 8, parameters: [1, 2]}
    regularMHA: {attention_type: regularMHA, d_model: 16, parameters: [1, 2]}
"""

TWIN = PROTOCOLS.replace("tiny", "twin").replace("seeds: [1, 2]", "seeds: [1]")


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder with what a replica needs of a checkout; the recipes are stand-ins."""
    for name in ("hparams", "docs"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "recipes/LibriSpeech").mkdir(parents=True)
    for name in ("train_bestrq.py", "train_ctc.py"):
        (tmp_path / "recipes/LibriSpeech" / name).write_text(RECIPE)
    (tmp_path / "own.yaml").write_text(PROTOCOLS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(statistics, "NUM_BOOTSTRAP", 40)
    monkeypatch.setattr(statistics, "NUM_RANDOMISATIONS", 400)
    return tmp_path


def made_up_record():
    """One run of each kind of PoM with one seed."""
    runs = []
    for kind, wrong in (("pretraining", None), ("finetuning", 0), ("scratch", 2)):
        run = {"mixer": "PoM", "seed": 1, "kind": kind, "commit": "abc1234"}
        run |= {"duration_s": 90, "cpu_s": 95.0, "peak_memory_mib": 500.0, "audio_s_per_s": 50.0}
        run["curve"] = {"steps": [1, 2], "loss": [3.0, 2.0], "wer": [90.0, 50.0]}
        run["curve"]["accuracy"] = [0.1, 0.2]
        if wrong is not None:
            for split in ("test-clean", "test-other"):
                run.setdefault("edits", {})[split] = [wrong, 0]
                run.setdefault("results", {})[split] = {"wer": 12.5 * wrong}
        runs.append(run)
    words = {split: {"u1": 4, "u2": 4} for split in ("test-clean", "test-other")}
    return {"machines": [], "utterances": words, "missing": ["another one"], "runs": runs}


def test_show(checkout, capsys):
    assert main(["show", "small", "--mixers", "hypermixing", "--seeds", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --att")
    assert "--seed 3 --data_folder results/replica/small/corpus" in lines[1]
    assert "--pretrained null" in lines[2]


def test_run_makes_the_corpus_and_names_what_failed(checkout, capsys):
    own = ["--protocols", "own.yaml", "--out", "runs"]
    assert main(["run", "tiny", *own, "--mixers", "PoM"]) == 1
    printed = capsys.readouterr().out
    verify_mini_corpus("runs/corpus")
    assert "[1/6] PoM, seed 1, pretraining: finished in 0:0" in printed
    assert "PoM, seed 2, scratch: FAILED with exit code 1: error: seeds of 2 do not grow" in printed
    assert "failed: PoM, seed 2, pretraining: see runs/logs/PoM-2-pretraining.log\n" in printed
    assert finished_configuration("runs/PoM/1/scratch") == "1"

    assert main(["run", "tiny", *own, "--seeds", "1", "--jobs", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count(": was finished") == printed.count(": finished in") == 3
    assert "all runs are finished; `python -m experiments.replica report tiny` writes" in printed


def test_parts_of_a_protocol(checkout, capsys):
    own = ["--protocols", "own.yaml", "--out", "runs", "--seeds", "1"]
    for number in (1, 2):
        assert main(["run", "tiny", *own, "--part", f"{number}/2"]) == 0
        printed = capsys.readouterr().out
        assert "all runs are finished" not in printed
        assert finished_configuration(f"runs/{['PoM', 'regularMHA'][number - 1]}/1/finetuning")
    assert "RelPosMHAXL" not in printed
    assert main(["run", "tiny", *own]) == 0
    assert capsys.readouterr().out.count(": was finished") == 6


def test_several_protocols_follow_each_other(checkout, capsys):
    (checkout / "own.yaml").write_text(PROTOCOLS + TWIN)
    # A failure of the first one does not keep the second from running, and is not forgotten.
    assert main(["run", "tiny", "twin", "--protocols", "own.yaml", "--mixers", "PoM"]) == 1
    printed = capsys.readouterr().out
    assert "failed: PoM, seed 2, pretraining" in printed
    assert "all runs are finished; `python -m experiments.replica report twin`" in printed
    assert finished_configuration("results/replica/tiny/PoM/1/scratch") == "1"
    assert finished_configuration("results/replica/twin/PoM/1/scratch") == "1"
    assert main(["show", "twin", "tiny", "--protocols", "own.yaml", "--mixers", "PoM"]) == 0
    assert capsys.readouterr().out.count("train_bestrq.py") == 3


def test_a_signal_stops_the_protocols_after_it_too(checkout, monkeypatch):
    folders = []

    def run_chains(chains, num_jobs, log_folder, show):
        folders.append(str(log_folder))
        return 143

    (checkout / "own.yaml").write_text(PROTOCOLS + TWIN)
    monkeypatch.setattr(program, "run_chains", run_chains)
    assert main(["run", "tiny", "twin", "--protocols", "own.yaml"]) == 143
    assert folders == ["results/replica/tiny/logs"]


def test_report_and_its_check(checkout, monkeypatch, capsys):
    document = Path("docs/replica.md")
    start, _, rest = document.read_text().partition(BEGIN)
    document.write_text(start + BEGIN + "\n" + END + rest.partition(END)[2])
    monkeypatch.setattr(program, "collect", lambda *_: made_up_record())
    assert main(["report", "small", "--check"]) == 1
    assert "docs/replica.md is not what the records say: run `" in capsys.readouterr().out
    assert main(["report", "small"]) == 0
    printed = capsys.readouterr().out
    assert (
        "3 runs: recipes/LibriSpeech/results/replica_small.json, docs/replica_small.png" in printed
    )
    assert "not finished: another one\n" in printed
    written = json.loads(Path("recipes/LibriSpeech/results/replica_small.json").read_text())
    assert written == made_up_record()
    assert Path("docs/replica_small.svg").is_file()
    assert "| PoM   | test-clean | -25.00 " in document.read_text()
    assert main(["report", "small", "--check"]) == 0


def test_report_of_ones_own_protocol(checkout, monkeypatch, capsys):
    Path("runs").mkdir()
    monkeypatch.setattr(program, "collect", lambda *_: made_up_record())
    before = Path("docs/replica.md").read_text()
    own = ["--protocols", "own.yaml", "--out", "runs"]
    assert main(["report", "tiny", *own]) == 0
    assert "### Protocol `tiny`: anything" in capsys.readouterr().out
    assert {path.name for path in Path("runs").iterdir()} == {
        f"replica_tiny.{suffix}" for suffix in ("json", "png", "svg")
    }
    assert Path("docs/replica.md").read_text() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "smal"], "unknown protocol 'smal': choose one of small, large"),
        (["run", "small", "--mixers", "PaM"], "mixer 'PaM' is not of protocol small: did you mean"),
        (["run", "small", "--seeds", "8"], "seed '8' is not of protocol small"),
        (["show", "small", "smal"], "unknown protocol 'smal'"),
        (
            ["run", "small", "study", "--out", "runs"],
            "--out runs is for one protocol, not for small, study: give them one by one",
        ),
        (["run", "small", "--jobs", "two"], "invalid int value: 'two'"),
        (["show", "small", "--protocols", "no.yaml"], "no such file of protocols: 'no.yaml'"),
        (["report", "small"], "no finished run of protocol small in 'results/replica/small'"),
        (
            ["report", "tiny", "--check", "--protocols", "own.yaml"],
            "--check is about the protocols of the checkout: leave --protocols out",
        ),
        ([], "the following arguments are required: ACTION"),
    ],
)
def test_bad_calls(arguments, message, checkout, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
