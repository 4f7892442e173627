"""Running the runs of a replica: side by side, again, with failures, and stopped."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from experiments.replica.protocols import find_protocol, plan_runs
from experiments.replica.runs import run_chains
from tests.helpers import ROOT

# Stands in for both recipes: fails or waits where a file asks for it, and is finished only once.
RECIPE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output_folder") + 1])
if (folder / "run.json").exists():
    sys.exit(print("this run is finished, nothing to do"))
folder.mkdir(parents=True, exist_ok=True)
(folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])
if pathlib.Path("fail_" + "_".join(folder.parts[-3:])).exists():
    sys.exit("Traceback ...\\nRuntimeError: out of zebras")
if pathlib.Path("wait").exists():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    pathlib.Path("waiting").touch()
    time.sleep(60)
(folder / "run.json").write_text('{"finished": {}}')
"""


@pytest.fixture
def chains(tmp_path, monkeypatch):
    """The runs of two mixers with one seed, in a checkout whose recipes are stand-ins."""
    shutil.copytree(ROOT / "hparams", tmp_path / "hparams")
    (tmp_path / "recipes/LibriSpeech").mkdir(parents=True)
    for name in ("train_bestrq.py", "train_ctc.py"):
        (tmp_path / "recipes/LibriSpeech" / name).write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return plan_runs(find_protocol("small"), "out", ["PoM", "regularMHA"], [1])


def run(chains, num_jobs=2):
    """Exit code, and the lines of progress without their numbers."""
    lines = []
    code = run_chains(chains, num_jobs, "out/logs", lines.append)
    return code, [line.partition("] ")[2] or line for line in lines]


def test_all_runs_and_then_none(chains):
    code, lines = run(chains)
    assert code == 0
    labels = {run.label for chain in chains for run in chain}
    assert {line.partition(":")[0] for line in lines} == labels
    assert all(": finished in 0:0" in line for line in lines)
    for kind in ("pretraining", "finetuning", "scratch"):
        conditions = json.loads(Path(f"out/PoM/1/{kind}/conditions.json").read_text())
        machine = conditions["machine"]
        assert machine["jobs"] == 2
        assert 0 < conditions["cpu_s"] < 10
        threads = Path(f"out/PoM/1/{kind}/threads").read_text()
        assert int(threads) == machine["threads"] == max(1, len(os.sched_getaffinity(0)) // 2)
    code, lines = run(chains)
    assert code == 0
    assert all(line.endswith(": was finished") for line in lines)


def test_recipes_find_the_mixers_of_the_study(chains, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    script = "import importlib.util as i; print(i.find_spec('experiments.replica.variants').origin)"
    Path("recipes/LibriSpeech/train_bestrq.py").write_text(f"{script}\n{RECIPE}")
    code, _ = run([chain[:1] for chain in chains[:1]])
    assert code == 0
    printed = Path("out/logs/PoM-1-pretraining.log").read_text()
    assert str(ROOT / "experiments/replica/variants.py") in printed


def test_a_run_that_fails_stops_no_other(chains):
    Path("fail_PoM_1_pretraining").touch()
    code, lines = run(chains, num_jobs=1)
    assert code == 1
    failed = "PoM, seed 1, pretraining: FAILED with exit code 1: RuntimeError: out of zebras"
    assert lines[:2] == [
        failed,
        "PoM, seed 1, finetuning: left out, as pretraining is not finished",
    ]
    assert lines[-1] == "failed: PoM, seed 1, pretraining: see out/logs/PoM-1-pretraining.log"
    assert "Traceback" in Path("out/logs/PoM-1-pretraining.log").read_text()
    assert sum("finished in" in line for line in lines) == 4

    Path("fail_PoM_1_pretraining").unlink()
    code, lines = run(chains, num_jobs=1)
    assert code == 0
    assert sum("finished in" in line for line in lines) == 2
    assert sum("was finished" in line for line in lines) == 4


def test_sigterm_is_passed_on_and_nothing_more_is_started(chains):
    Path("wait").touch()

    def stop_when_waiting():
        while not Path("waiting").exists():
            ended.wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    ended, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_when_waiting, daemon=True).start()
    code, lines = run(chains, num_jobs=1)
    assert code == 128 + signal.SIGTERM
    assert lines == [
        "PoM, seed 1, pretraining: stopped",
        "stopped: the same command resumes",
    ]
    assert signal.getsignal(signal.SIGTERM) == before
    Path("wait").unlink()
    assert run(chains)[0] == 0


def test_less_than_one_job_is_refused(chains):
    with pytest.raises(ValueError, match="--jobs is 0: give at least 1"):
        run(chains, num_jobs=0)
