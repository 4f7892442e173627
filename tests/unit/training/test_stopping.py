"""Signals save and end a run; the resumed run is the one that was never stopped."""

import json
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
import yaml

from speechbrain_pom.training import stopping
from speechbrain_pom.training.stopping import SIGNALS, StopRequest, leave_signals_to_parent
from tests.helpers.processes import run_in_two


def test_signals_are_noted_and_the_former_handlers_come_back(caplog):
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest() as stop:
        assert stop.signal_name is None
        assert not stop.agreed("cpu")
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal_name == "SIGTERM"
        assert stop.agreed("cpu")
        signal.raise_signal(signal.SIGTERM)  # batch systems repeat themselves
    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert (
        "SIGTERM: saving at the next optimizer step, then ending (Ctrl-C again ends at once)"
        in caplog.messages
    )


def test_without_it_ctrl_c_ends_the_run_at_once():
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("first", SIGNALS)
def test_a_second_ctrl_c_ends_at_once(first):
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest() as stop:
        signal.raise_signal(first)
        assert stop.signal_name == first.name
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_of_the_main_thread_signals_stay_the_callers_affair():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []

    def use():
        with StopRequest() as stop:
            seen.append(([signal.getsignal(number) for number in SIGNALS], stop.agreed("cpu")))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def agree_as_rank(rank, _):
    with StopRequest() as stop:
        answers = [stop.agreed("cpu")]
        if rank == 1:
            signal.raise_signal(signal.SIGTERM)
        return [*answers, stop.agreed("cpu"), stop.signal_name]


def test_all_processes_stop_when_one_is_asked(tmp_path):
    assert run_in_two(agree_as_rank, tmp_path) == 2 * [[False, True, "SIGTERM"]]


class Slow(torch.utils.data.Dataset):
    def __len__(self):
        return 1000

    def __getitem__(self, index):
        time.sleep(0.02)
        return index


unfinished = []


def load_until_asked(init, log_path, keep_loader):
    """A run with two workers, as the leader of its own process group."""
    os.setsid()
    sys.stderr = open(log_path, "w", buffering=1)  # noqa: SIM115
    logging.basicConfig(stream=sys.stderr, force=True)
    with StopRequest() as stop:
        since = 0
        loader = torch.utils.data.DataLoader(Slow(), num_workers=2, worker_init_fn=init)
        for count, _ in enumerate(loader):
            if count == 2:
                print("loading", file=sys.stderr)
            since += stop.signal_name is not None
            if since == 10:  # what the workers had loaded before the signal is used up
                break
        if keep_loader:
            unfinished.append(iter(loader))  # at the end its workers wait for more to do
    print("saved", file=sys.stderr)


def signal_the_group(tmp_path, init, number, keep_loader=False):
    """Signal a run with loader workers as a terminal or a batch system does: all of it."""
    log_path = tmp_path / "printed.txt"
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=load_until_asked, args=(init, log_path, keep_loader))
    process.start()
    while process.is_alive() and not (log_path.is_file() and "loading" in log_path.read_text()):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    process.join(timeout=120)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail("the process hangs: its workers do not end with it")
    return log_path.read_text()


def wait_to_be_ended():
    time.sleep(30)


@pytest.mark.slow
def test_forked_processes_end_whenever_they_are_told():
    """In their first moments signals are easily lost."""
    fork = multiprocessing.get_context("fork")
    with StopRequest() as stop:
        for _ in range(100):
            process = fork.Process(target=wait_to_be_ended)
            process.start()
            process.terminate()
            process.join(timeout=60)
            assert process.exitcode == -signal.SIGTERM
        assert stop.signal_name is None
        assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def signal_as_a_stranger(pid, *numbers):
    send = "import os, sys; [os.kill(int(sys.argv[1]), int(n)) for n in sys.argv[2:]]"
    command = [sys.executable, "-S", "-c", send, str(pid), *(str(int(n)) for n in numbers)]
    subprocess.run(command, check=True)


def is_pending(pid, number):
    """Whether a signal has been sent to a process that has not taken it yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = re.search(r"^ShdPnd:\s*(\w+)$", status, re.MULTILINE)[1]
    return bool(int(pending, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")
def test_forked_processes_ignore_signals_to_all_from_their_first_moment():
    """Only their parent's count: the others are for the run, which saves before it ends."""
    fork = multiprocessing.get_context("fork")
    with StopRequest():
        for _ in range(20):
            process = fork.Process(target=wait_to_be_ended)
            process.start()
            signal_as_a_stranger(process.pid, *SIGNALS)
            assert process.is_alive()
            # Where one SIGTERM waits to be taken, a second one is dropped; that is the next test.
            while is_pending(process.pid, signal.SIGTERM):
                time.sleep(0.001)
            process.terminate()
            process.join(timeout=60)
            assert process.exitcode == -signal.SIGTERM


def end_while_a_worker_is_away(told_once, comes_back):
    """A run that ends before its worker has taken the SIGTERM that all processes got."""
    os.setsid()
    if told_once:
        stopping._ends_children.add(os.getpid())  # leaves it to multiprocessing
    elif not comes_back:
        stopping._PATIENCE_S = 0.05
    with StopRequest():
        worker = multiprocessing.get_context("fork").Process(target=wait_to_be_ended, daemon=True)
        worker.start()
        os.kill(worker.pid, signal.SIGSTOP)  # as on a machine that is busy with others
        signal_as_a_stranger(worker.pid, signal.SIGTERM)
    if comes_back:
        threading.Timer(0.5, os.kill, (worker.pid, signal.SIGCONT)).start()


@pytest.mark.parametrize(("told_once", "comes_back"), [(True, True), (False, True), (False, False)])
def test_a_run_does_not_wait_for_ever_for_a_worker_that_lost_its_signal(told_once, comes_back):
    """Two SIGTERMs that wait to be taken are one, with the sender of the first."""
    run = multiprocessing.get_context("fork").Process(
        target=end_while_a_worker_is_away, args=(told_once, comes_back)
    )
    run.start()
    run.join(timeout=3 if told_once else 60)
    if told_once:
        assert run.is_alive()
        os.killpg(run.pid, signal.SIGKILL)
        run.join()
    else:
        assert run.exitcode == 0


STARTED_BY_ITSELF = """
import sys, time
from speechbrain_pom.training.stopping import leave_signals_to_parent
leave_signals_to_parent()
connection.send("ready")
time.sleep(300)
"""


def test_a_worker_of_a_fork_server_obeys_the_run_and_not_the_server():
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe()
    # A function of this file could not be imported there.
    target = {"target": exec, "args": (STARTED_BY_ITSELF, {"connection": there})}
    worker = context.Process(**target, daemon=True)
    worker.start()
    assert here.recv() == "ready"
    worker.terminate()
    worker.join(timeout=60)
    # Or later tests had this server, which has imported nothing, for all their processes.
    forkserver._forkserver._stop()
    assert worker.exitcode == 0


@pytest.mark.parametrize("keep_loader", [False, True])
@pytest.mark.parametrize("number", SIGNALS)
def test_workers_of_the_loader_outlive_signals_to_all(tmp_path, number, keep_loader):
    printed = signal_the_group(tmp_path, leave_signals_to_parent, number, keep_loader)
    assert "saved\n" in printed, printed
    assert printed.count("saving at the next optimizer step") == 1  # not once per worker


def as_pytorch_has_it(_worker_id):
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def test_without_that_sigterm_to_all_processes_ends_the_run_unsaved(tmp_path):
    assert "saved\n" not in signal_the_group(tmp_path, as_pytorch_has_it, signal.SIGTERM)


NOT_COMPARED = ("audio_s_per_s", "peak_memory_mib")


def history(folder):
    """The figures of each epoch, without those that no two runs share."""
    records = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return [
        {
            **record,
            "train": {k: v for k, v in record["train"].items() if k not in NOT_COMPARED},
        }
        for record in records
    ]


def newest(folder):
    """Meta data, and all that the newest checkpoint holds but the wall-clock sums."""
    metas = {
        path.parent: yaml.safe_load(path.read_text()) for path in folder.glob("save/*/CKPT.yaml")
    }
    checkpoint = max(metas, key=lambda path: metas[path]["unixtime"])
    names = ("model", "linear", "quantizer", "normalize", "optimizer", "noam_scheduler")
    states = {name: torch.load(checkpoint / f"{name}.ckpt", weights_only=True) for name in names}
    texts = {name: (checkpoint / f"{name}.ckpt").read_text() for name in ("counter", "brain")}
    return metas[checkpoint], {**states, **texts}


def assert_equal(first, second):
    """Nested values, bit by bit."""
    assert type(first) is type(second)
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for ours, theirs in zip(first, second, strict=True):
            assert_equal(ours, theirs)
    else:
        assert first == second


def curve_steps(folder):
    """The steps of each TensorBoard curve, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def stop_at(epoch, batch, act):
    """What to do in the new process: `act` at the start of one batch."""

    def prepare():
        from speechbrain_pom.training.brain import ExactBrain

        def start(self, *_):
            if (self.epoch, self.step) == (epoch, batch):
                act()

        ExactBrain.on_fit_batch_start = start

    return prepare


def die_before_saving(epoch):
    """What to do in the new process: die when the logs have an epoch and no checkpoint has it."""

    def prepare():
        from speechbrain_pom.training.brain import ExactBrain

        save_epoch = ExactBrain.save_epoch

        def save(self, *args, **kwargs):
            if self.epoch == epoch:
                os.kill(os.getpid(), signal.SIGKILL)
            save_epoch(self, *args, **kwargs)

        ExactBrain.save_epoch = save

    return prepare


@pytest.mark.slow
def test_stopped_and_killed_and_resumed_is_the_straight_run(pretraining, tmp_path):
    pytest.importorskip("torch.utils.tensorboard")  # here, and so in all of the processes at once
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    options = {"tensorboard": True, "number_of_epochs": 3}
    code, printed = pretraining.run(straight, **options)
    assert code == 0, printed

    terminate = stop_at(2, 3, lambda: signal.raise_signal(signal.SIGTERM))
    code, printed = pretraining.run(stopped, terminate, **options)
    assert code == 128 + signal.SIGTERM, printed
    # Epochs of 8 batches, windows of 2: the window of batch 3 is finished first.
    assert "Ended by SIGTERM after 6 optimizer steps; the same command resumes" in printed
    assert newest(stopped)[0]["end-of-epoch"] is False
    assert len(history(stopped)) == 1

    code, printed = pretraining.run(stopped, die_before_saving(3), **options)
    assert code == -signal.SIGKILL, printed
    assert "Resumed after 6 optimizer steps, at batch 4 of its next epoch" in printed
    assert len(history(stopped)) == 3  # one more than there are checkpoints of

    code, printed = pretraining.run(stopped, **options)
    assert code == 0, printed
    assert "Resumed after 8 optimizer steps, at an epoch's end" in printed
    assert_equal(newest(straight)[1], newest(stopped)[1])
    assert history(straight) == history(stopped)
    logs = [(folder / "train_log.txt").read_text().splitlines() for folder in (straight, stopped)]
    for ours, theirs in zip(*logs, strict=True):
        assert ours.split(", ")[:4] == theirs.split(", ")[:4]  # epoch, steps, rate and loss
    assert [line.split(",")[0] for line in logs[1]] == ["epoch: 1", "epoch: 2", "epoch: 3"]
    steps = curve_steps(stopped)
    assert steps == curve_steps(straight)
    assert set(map(tuple, steps.values())) == {(1, 2, 3)}


def test_ctrl_c_saves_and_a_second_one_does_not_wait(pretraining, tmp_path):
    once = stop_at(1, 3, lambda: signal.raise_signal(signal.SIGINT))
    code, printed = pretraining.run(tmp_path / "once", once)
    assert code == 128 + signal.SIGINT
    assert "Ended by SIGINT after 2 optimizer steps; the same command resumes" in printed
    assert newest(tmp_path / "once")[0]["optimizer_step"] == 2

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    code, printed = pretraining.run(tmp_path / "twice", stop_at(1, 3, twice))
    assert code == 1
    assert "KeyboardInterrupt" in printed
    assert not list((tmp_path / "twice").glob("save/CKPT+*"))
