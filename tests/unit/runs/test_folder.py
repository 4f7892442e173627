"""One folder, one run: its configuration, its lock, and its end."""

import errno
import fcntl
import hashlib
import json
import logging
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.experiment import load_experiment
from speechbrain_pom.runs.folder import claim_folder, lock_folder, mark_finished
from speechbrain_pom.runs.legacy import OLD_FILES
from speechbrain_pom.runs.options import RunRequest
from speechbrain_pom.runs.record import RUN_FILE, read_run
from speechbrain_pom.utils import locks
from speechbrain_pom.utils.errors import UserError

TOY = """
# A toy.
seed: 1
data_folder: null
output_folder: !ref results/<seed>
lr: 0.001
number_of_epochs: 3
optimizer_step_limit: null
num_workers: 4
precision: bf16
resume_anyway: False
demo:
    lr: 0.002
    d_model: 4
# The model
d_model: 8
model: !new:torch.nn.ModuleList
    - - !new:torch.nn.Linear
            in_features: !ref <d_model>
            out_features: 2
            bias: False
counter: !new:speechbrain.utils.epoch_loop.EpochCounter
    limit: !ref <number_of_epochs>
"""


@pytest.fixture(autouse=True)
def _no_locks(monkeypatch):
    """Locks last until the process ends: each test forgets those of the one before it."""
    monkeypatch.setattr(locks, "_held", {})


class Runs:
    """Experiments with one YAML and one output folder."""

    def __init__(self, folder):
        self.yaml_path = folder / "toy.yaml"
        self.yaml_path.write_text(TOY, encoding="utf-8")
        self.output_folder = folder / "out"

    def experiment(self, run_options=None, demo_data=None, **overrides):
        overrides = {"output_folder": str(self.output_folder), **overrides}
        request = RunRequest(self.yaml_path, overrides, run_options or {})
        return load_experiment(request, demo_data=demo_data)

    def edit(self, old, new):
        text = self.yaml_path.read_text(encoding="utf-8")
        assert text.count(old) == 1
        self.yaml_path.write_text(text.replace(old, new), encoding="utf-8")

    def begin(self, world_size=1, **options):
        """Start a run, to the point where it has a checkpoint."""
        experiment = self.experiment(**options)
        self.output_folder.mkdir(exist_ok=True)
        assert claim_folder(experiment, world_size) is False
        lock_folder(experiment, world_size)
        (self.output_folder / "save" / "CKPT+1").mkdir(parents=True, exist_ok=True)
        return experiment

    def refusal(self, world_size=1, **options):
        """What a start is refused with, or None."""
        try:
            assert claim_folder(self.experiment(**options), world_size) is False
        except UserError as error:
            return str(error)
        return None


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path)


def test_the_same_configuration_goes_on(runs):
    assert runs.refusal() is None  # no folder yet
    runs.begin()
    assert runs.refusal() is None


def test_another_configuration_is_refused_with_what_changed(runs):
    runs.begin()
    assert runs.refusal(lr=0.5, seed=2) == (
        f"'{runs.output_folder}' holds a run that was begun with seed 1 (now 2), lr 0.001 "
        "(now 0.5): choose another --output_folder, or continue it with the new values by "
        "--resume_anyway True"
    )


def test_resume_anyway_continues_and_is_then_the_configuration(runs):
    runs.begin()
    assert runs.refusal(lr=0.5, resume_anyway=True) is None
    runs.begin(lr=0.5, resume_anyway=True)
    assert runs.refusal(lr=0.5) is None
    assert "lr 0.5 (now 0.001)" in runs.refusal()


def test_before_the_first_checkpoint_anything_may_change(runs):
    runs.begin()
    (runs.output_folder / "save" / "CKPT+1").rmdir()
    assert runs.refusal(lr=0.5) is None


@pytest.mark.parametrize(
    "change",
    [
        {"number_of_epochs": 5},
        {"optimizer_step_limit": 7},
        {"num_workers": 0},
        {"data_folder": "/moved"},
        {"run_options": {"noprogressbar": True, "device": "cpu", "ckpt_interval_steps": 3}},
    ],
)
def test_what_may_change(runs, change):
    runs.begin()
    assert runs.refusal(**change) is None


@pytest.mark.parametrize(
    ("old", "new", "texts"),
    [
        ("bias: False", "bias: True", ["model ...", "bias: false}]] (now ...", "bias: true}]])"]),
        ("out_features: 2", "out_features: 3", ["out_features: 3"]),
        ("torch.nn.Linear", "torch.nn.LazyLinear", ["LazyLinear"]),
        ("lr: 0.001", "lr: 0.001\nnew_key: 5", ["new_key nothing (now 5)"]),
        ("lr: 0.001\n", "", ["lr 0.001 (now nothing)"]),
    ],
)
def test_edits_of_the_yaml_are_noticed(runs, old, new, texts):
    runs.begin()
    if "Lazy" in new:
        runs.edit("            in_features: !ref <d_model>\n", "")
    if new == "":
        runs.edit("demo:\n    lr: 0.002\n", "demo:\n")
    runs.edit(old, new)
    message = runs.refusal()
    assert message is not None
    for text in texts:
        assert text in message


def test_a_key_that_came_later_has_its_declared_value_in_the_message(runs):
    runs.begin()
    runs.edit("lr: 0.001\n", "lr: 0.001\nn_steps: 0\n_added: {n_steps: 0}\n")
    assert runs.refusal() is None
    assert "begun with n_steps 0 (now 9)" in runs.refusal(n_steps=9)
    runs.begin(n_steps=9, resume_anyway=True)
    assert "begun with n_steps 9 (now 0)" in runs.refusal()


@pytest.mark.parametrize("declared", ["_not_part_of_the_run", "_may_change"])
def test_a_yaml_may_declare_later_that_a_key_is_free(runs, declared):
    runs.edit("lr: 0.001\n", "lr: 0.001\n_not_part_of_the_run: []\n_may_change: [seed]\n")
    runs.begin()
    assert "num_workers 4 (now 2)" in runs.refusal(num_workers=2)
    if declared == "_may_change":
        runs.edit("_may_change: [seed]", "_may_change: [seed, num_workers]")
    else:
        runs.edit("_not_part_of_the_run: []", "_not_part_of_the_run: [num_workers]")
    assert runs.refusal(num_workers=2) is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# The model", "# Another word\n\n# about the model"),
        ("lr: 0.001", "lr:   0.001  # of the head"),
        ("            bias: False", "            bias: False  # as published\n"),
        ("in_features: !ref <d_model>", "in_features: !ref <seed> * <d_model>"),
        ("    lr: 0.002\n", "    lr: 0.004\n"),  # of the demo, which does not run here
    ],
)
def test_comments_layout_and_equal_values_are_no_change(runs, old, new):
    runs.begin()
    runs.edit(old, new)
    assert runs.refusal() is None


def test_long_lists_of_changes_are_cut(runs):
    runs.edit("lr: 0.001", "lr: 0.001\n" + "".join(f"key{i}: {'x' * 80}\n" for i in range(7)))
    runs.begin()
    message = runs.refusal(**{f"key{i}": "y" for i in range(7)})
    assert f"key0 {'x' * 57}... (now y)" in message
    assert "key4" in message
    assert "key5" not in message
    assert "and more: choose another" in message


def test_run_options_and_processes_count(runs):
    runs.begin()
    text = runs.refusal(run_options={"debug": True})
    assert "debug nothing (now True)" in text
    assert "processes 1 (now 2)" in runs.refusal(world_size=2)


def test_the_demo_is_its_effective_values(runs):
    runs.begin(demo_data=lambda: "/cache/mini")
    assert runs.refusal(demo_data=lambda: "/cache/elsewhere") is None
    assert "lr 0.002 (now 0.5)" in runs.refusal(demo_data=lambda: "/m", lr=0.5)
    text = runs.refusal(data_folder="/data")
    assert "lr 0.002 (now 0.001)" in text
    assert "d_model 4 (now 8)" in text
    runs.edit("    d_model: 4", "    d_model: 16")
    assert "d_model 4 (now 16)" in runs.refusal(demo_data=lambda: "/m")


def test_paths_of_folders_do_not_count(runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    absolute = configuration(runs.experiment(), 1)
    assert configuration(runs.experiment(output_folder="out"), 1) == absolute
    assert configuration(runs.experiment(output_folder="./elsewhere/../out"), 1) == absolute
    assert configuration(runs.experiment(data_folder="/data"), 1) == absolute
    assert configuration(runs.experiment(lr=0.5), 1) != absolute


def test_a_finished_run_is_claimed_as_finished(runs):
    experiment = runs.begin()
    mark_finished(experiment, 1)
    assert claim_folder(runs.experiment(), 1) is True
    assert claim_folder(runs.experiment(number_of_epochs=4), 1) is False
    assert "lr 0.001 (now 0.5)" in runs.refusal(lr=0.5)
    runs.begin(number_of_epochs=4)
    assert claim_folder(runs.experiment(), 1) is True  # this one was, and still is
    mark_finished(runs.experiment(number_of_epochs=4), 1)
    assert claim_folder(runs.experiment(number_of_epochs=4), 1) is True


def hold_the_folder(runs, lock, ready):
    """A run with a loader worker that outlives it."""
    runs.output_folder.mkdir(exist_ok=True)
    if lock == "ours":
        lock_folder(runs.experiment(), 1)
    else:
        stream = open(runs.output_folder / ".lock", "a")  # noqa: SIM115
        fcntl.flock(stream, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    ready.send(pid)
    time.sleep(60)


@pytest.fixture
def held(runs):
    """Start a process that holds the folder; gives its pid and its worker's."""
    pids = []
    fork = multiprocessing.get_context("fork")

    def hold(lock="ours"):
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=hold_the_folder, args=(runs, lock, sender))
        process.start()
        pids.extend([process.pid, receiver.recv()])
        return process

    yield hold
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_a_second_process_is_refused_while_the_first_lives(runs, held):
    process = held()
    message = (
        f"another process is running in '{runs.output_folder}': wait for it, or choose another "
        "--output_folder"
    )
    before = folder_content(runs.output_folder)
    assert runs.refusal() == message
    assert runs.refusal(lr=0.5, resume_anyway=True) == message
    with pytest.raises(UserError, match="another process is running in"):
        lock_folder(runs.experiment(), 1)
    assert folder_content(runs.output_folder) == before
    process.kill()
    process.join()
    # Its worker still runs.
    assert runs.refusal() is None
    lock_folder(runs.experiment(), 1)


def test_a_lock_that_workers_inherit_would_outlive_the_run(runs, held):
    """Why it is no flock: a killed run could not be started again at once."""
    process = held("flock")
    process.kill()
    process.join()
    with open(runs.output_folder / ".lock", "a") as stream, pytest.raises(BlockingIOError):
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_system_without_locks_is_said_and_no_obstacle(runs, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with caplog.at_level(logging.WARNING):
        runs.begin()
    assert caplog.messages == [
        f"'{runs.output_folder}' cannot be locked ([Errno 37] No locks available): make sure that "
        "only one run uses it"
    ]


def folder_content(folder):
    """Hash and time of every file, and the time of every folder."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_the_command_of_a_finished_run_writes_nothing(pretraining, tmp_path):
    folder = tmp_path / "run"
    code, printed = pretraining.run(folder, number_of_epochs=1)
    assert code == 0, printed
    before = folder_content(folder)

    code, printed = pretraining.run(folder, number_of_epochs=1)
    assert code == 0, printed
    assert f"{folder}: this run is finished, nothing to do (raise number_of_epochs" in printed
    assert folder_content(folder) == before

    code, printed = pretraining.run(folder, number_of_epochs=1, lr=0.5)
    assert code == 2
    assert "lr 0.01 (now 0.5)" in printed
    assert folder_content(folder) == before

    code, printed = pretraining.run(folder, number_of_epochs=2)
    assert code == 0, printed
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert not Path(folder / "save" / ".deleting").exists()


def make_old(folder, **changes):
    """Turn the record of a run into that of version 0.1."""
    record = read_run(folder)
    for entry, name in OLD_FILES.items():
        if entry in record:
            (folder / name).write_text(json.dumps({**record[entry], **changes}))
    (folder / RUN_FILE).unlink()


def test_a_folder_of_version_0_1_goes_on_with_its_classes_moved(runs):
    runs.begin()
    moved = "{limit: 3, logger: !new:speechbrain_pom.training.logs.ExperimentLogger {}}"
    make_old(runs.output_folder, counter=moved, a_key_that_is_gone="5")
    assert runs.refusal() is None
    assert "lr 0.001 (now 0.5)" in runs.refusal(lr=0.5)
    runs.begin()
    assert "counter" not in (runs.refusal(lr=0.5) or "")
    assert RUN_FILE in {path.name for path in runs.output_folder.iterdir()}
    runs.edit("bias: False", "bias: True")  # from here on all counts
    assert "bias: true" in runs.refusal()


def test_a_finished_folder_of_version_0_1_is_finished(runs):
    mark_finished(runs.begin(), 1)
    make_old(runs.output_folder)
    before = folder_content(runs.output_folder)
    assert claim_folder(runs.experiment(), 1) is True
    assert folder_content(runs.output_folder) == before
    assert claim_folder(runs.experiment(number_of_epochs=4), 1) is False
