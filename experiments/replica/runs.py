"""The runs of a replica as processes, several at a time; a failure does not stop the others."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from experiments.records import describe_machine, installed_versions
from experiments.replica.protocols import ReplicaRun
from speechbrain_pom.runs.record import finished_configuration
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.processes import num_processes

CHECKOUT = Path(__file__).resolve().parents[2]
CONDITIONS_FILE = "conditions.json"


def run_chains(
    chains: list[list[ReplicaRun]],
    num_jobs: int,
    log_folder: str | Path,
    show: Callable[[str], None] = print,
) -> int:
    """Run `num_jobs` chains at a time, each to its end or its first failure; return the exit code.

    Each run gets its share of the CPU cores as OMP_NUM_THREADS; what it prints goes to a file in
    `log_folder`. A recipe resumes where it was stopped, and does nothing if it is finished.
    SIGTERM is passed on, and Ctrl-C reaches the recipes by itself: they save their state, and
    nothing more is started. The code is 1 if a run failed, 128 + its number after a signal.
    """
    if num_jobs < 1:
        raise UserError(f"--jobs is {num_jobs}: give at least 1")
    Path(log_folder).mkdir(parents=True, exist_ok=True)
    runner = _Runner(sum(map(len, chains)), num_jobs, Path(log_folder), show)
    with runner.signals_noted(), ThreadPoolExecutor(num_jobs) as executor:
        list(executor.map(runner.run_chain, chains))
    for label in runner.failed:
        show(f"failed: {label}")
    if runner.signal_number is not None:
        show("stopped: the same command resumes")
        return 128 + runner.signal_number
    return 1 if runner.failed else 0


class _Runner:
    """The state that the threads of `run_chains` share."""

    def __init__(self, num_runs, num_jobs, log_folder, show):
        self.num_runs = num_runs
        self.log_folder = log_folder
        self.show = show
        self.num_done = 0
        self.failed = []
        self.signal_number = None
        self._processes = set()
        self._lock = threading.RLock()  # a signal's handler may interrupt its holder
        num_threads = max(1, num_processes(None) // num_jobs)
        # Waiting threads that spin slow down the run beside them.
        # The recipes import `experiments.replica.variants`, whose mixers the study has.
        paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._environment = {
            "OMP_WAIT_POLICY": "PASSIVE",
            **os.environ,
            "OMP_NUM_THREADS": str(num_threads),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self._conditions = {
            "hardware": describe_machine(),
            "jobs": num_jobs,
            "threads": num_threads,
            "versions": installed_versions(),
        }

    @contextmanager
    def signals_noted(self):
        numbers = (signal.SIGINT, signal.SIGTERM)
        former = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _stop(self, number, _frame):
        with self._lock:
            self.signal_number = number
            for process in self._processes if number == signal.SIGTERM else ():
                os.kill(process.pid, number)

    def run_chain(self, chain):
        for position, run in enumerate(chain):
            if not self._run(run):
                left = chain[position + 1 :] if self.signal_number is None else ()
                for left_out in left:
                    self._tell(left_out, f"left out, as {run.kind} is not finished")
                return

    def _run(self, run):
        """Whether the run is finished."""
        log = self.log_folder / f"{run.folder.parents[1].name}-{run.seed}-{run.kind}.log"
        before, start = _state(run.folder), time.monotonic()
        code, cpu_s = self._call(run, log)
        if code is None:
            return False
        repeated = before is not None and _state(run.folder) == before
        if not repeated and run.folder.is_dir():
            self._note_conditions(run, cpu_s)
        if code == 0:
            passed_s = round(time.monotonic() - start)
            took = f"finished in {passed_s // 60}:{passed_s % 60:02d}"
            self._tell(run, "was finished" if repeated else took)
            return True
        if self.signal_number is None:
            self._tell(run, f"FAILED with exit code {code}: {_last_line(log)}")
            self.failed.append(f"{run.label}: see {log}")
        else:
            self._tell(run, "stopped")
        return False

    def _call(self, run, log):
        """Exit code and seconds of CPU time; None for both if a signal came before the start."""
        with open(log, "a", encoding="utf-8") as stream:
            with self._lock:
                if self.signal_number is not None:
                    return None, None
                process = subprocess.Popen(
                    [sys.executable, *run.command[1:]],
                    env=self._environment,
                    stdout=stream,
                    stderr=subprocess.STDOUT,
                )
                self._processes.add(process)
            # Popen.wait() would not say how much CPU time this child used. It is reaped under the
            # lock, so that no signal goes to a number that is another process by then.
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with self._lock:
                _, status, usage = os.wait4(process.pid, 0)
                self._processes.discard(process)
                process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode, usage.ru_utime + usage.ru_stime

    def _note_conditions(self, run, cpu_s):
        """What the run was made with; the CPU time of its parts, if it was stopped, adds up."""
        path = run.folder / CONDITIONS_FILE
        if path.is_file():
            cpu_s += json.loads(path.read_text(encoding="utf-8"))["cpu_s"]
        conditions = {"machine": self._conditions, "cpu_s": round(cpu_s, 3)}
        write_atomically(path, json.dumps(conditions, indent=1) + "\n")

    def _tell(self, run, text):
        with self._lock:
            self.num_done += 1
            width = len(str(self.num_runs))
            self.show(f"[{self.num_done:{width}}/{self.num_runs}] {run.label}: {text}")


def _state(folder):
    """What changes when a finished run is not left alone; None for one that is not finished."""
    finished, log = finished_configuration(folder), folder / "log.txt"
    if finished is None:
        return None
    return finished, log.stat().st_mtime_ns if log.is_file() else None


def _last_line(log):
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it printed nothing")
