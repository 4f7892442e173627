"""`submit`: a training as a job, interrupted and gone on with."""

import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from speechbrain_pom.__main__ import main
from speechbrain_pom.cli.submit import SAVED, TrainingJob

# Saves and ends when it is told to; the second time it is finished after a moment.
RECIPE = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[2])
folder.mkdir(exist_ok=True)
def save(*_):
    (folder / "saved").touch()
    sys.exit({code})
signal.signal(signal.SIGUSR1, save)
(folder / f"began{rank}").write_text(" ".join(sys.argv[1:]))
if not (folder / "saved").exists():
    time.sleep(60)
(folder / f"finished{rank}").touch()
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(code=SAVED, rank=""):
        text = RECIPE.replace("{code}", str(code)).replace("{rank}", rank)
        Path("train.py").write_text(text)
        return ["train.py", "pom.yaml", "out", "--lr", "0.1"]

    return write


def interrupted(job):
    """What `checkpoint` gives after the recipe has begun, and what the job returned."""
    codes = []
    thread = threading.Thread(target=lambda: codes.append(job()))
    thread.start()
    while not list(Path().glob("out/began*")):
        time.sleep(0.05)
    again = job.checkpoint()
    thread.join()
    return again, codes[0]


def test_saved_and_gone_on_with(recipe):
    pytest.importorskip("submitit", reason="extra [cluster]")
    again, code = interrupted(TrainingJob(recipe()))
    assert code == SAVED
    assert not Path("out/finished").exists()
    assert again.function() == 0
    assert Path("out/finished").exists()
    assert Path("out/began").read_text() == "pom.yaml out --lr 0.1"


def test_what_failed_is_not_begun_again(recipe):
    pytest.importorskip("submitit", reason="extra [cluster]")
    assert interrupted(TrainingJob(recipe(code=1))) == (None, 1)


def test_the_signal_of_the_batch_system_is_not_the_recipe_s(recipe):
    """Slurm sends it to all processes of a job."""
    words = ["-c", "import os, signal; os.kill(os.getpid(), signal.SIGUSR2); raise SystemExit(5)"]
    assert TrainingJob(words)() == 5


@pytest.mark.parametrize(("number", "expected"), [(1, "--standalone"), (4, "--rdzv-endpoint=n1:")])
def test_processes_under_torchrun(recipe, monkeypatch, number, expected):
    submitit = pytest.importorskip("submitit", reason="extra [cluster]")
    place = SimpleNamespace(raw_job_id="1234", hostnames=["n1", "n2", "n3", "n4"])
    monkeypatch.setattr(submitit, "JobEnvironment", lambda: place)
    words = TrainingJob(["a.py"], number, 8)._launcher()
    assert words[:3] == ["-m", "torch.distributed.run", "--nproc-per-node=8"]
    assert any(word.startswith(expected) for word in words)
    assert (f"--nnodes={number}" in words) == (number > 1)
    from torch.distributed.run import get_args_parser

    parsed = get_args_parser().parse_args([*words[2:], "a.py", "pom.yaml"])
    assert "SIGUSR1" in parsed.signals_to_handle
    assert parsed.training_script == "a.py"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes", "0"], "--nodes is 0: give at least 1"),
        (["--nproc", "0"], "--nproc is 0: give at least 1"),
        (["--nodes", "2"], "--nodes is 2: this machine is one: leave it out"),
        (["--job_option", "fast"], "--job_option fast: give NAME=VALUE"),
        (["--", "nothing.py"], "no such recipe: 'nothing.py'; give it after --, as for python"),
        ([], "the following arguments are required: --on, COMMAND"),
    ],
)
def test_calls_that_cannot_work(recipe, capsys, words, message):
    pytest.importorskip("submitit", reason="extra [cluster]")
    call = ["--on", "local", *words]
    call += [] if "--" in words else ["--", *recipe()]
    with pytest.raises(SystemExit) as stop:
        main(["submit", *(call if words else [])])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("processes", [[], ["--nproc", "2"]])
def test_a_job_of_this_machine_whose_time_ends(recipe, capsys, processes):
    """submitit warns it, and queues it again."""
    pytest.importorskip("submitit", reason="extra [cluster]")
    rank = "{os.environ.get('RANK', '')}" if processes else ""
    words = recipe(rank=rank)
    options = ["--job_option", "timeout_min=1"]  # the warning comes 30 s before
    assert main(["submit", "--on", "local", *processes, *options, "--", *words]) == 0
    assert "job " in capsys.readouterr().out
    ranks = ("0", "1") if processes else ("",)
    assert all(Path(f"out/finished{rank}").exists() for rank in ranks)
    logs = "".join(path.read_text() for path in Path("jobs").glob("*.out"))
    assert "after SIGUSR1" in logs


def test_the_signals_number_is_the_code():
    assert SAVED == 128 + signal.SIGUSR1
