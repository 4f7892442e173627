"""What all benchmarks share: seconds, peak memory of fresh processes, and the record of a run.

Memory on a CPU is the peak resident memory during a pass over the resident memory before it, in a
process that has done nothing else of that size. On a GPU it is the peak of PyTorch's allocator,
weights included.
"""

import contextlib
import ctypes
import gc
import json
import math
import os
import platform
import re
import selectors
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from speechbrain_pom.utils.files import write_atomically

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
MIB = 2**20
# A worker is ended when less than this share of the memory is left, before the system ends others.
RESERVE = 0.03


class OutOfMemory(Exception):  # noqa: N818  (a result that is recorded)
    """A pass needs more memory than there is."""


class WorkerError(Exception):
    """A worker ended with an error: its last lines."""


def fit_exponent(lengths, values):
    """The exponent p of the power law a * length^p: least squares in logarithms."""
    if len(lengths) < 2:
        raise ValueError(f"{len(lengths)} points have no exponent: give 2 or more")
    x = [math.log(length) for length in lengths]
    y = [math.log(value) for value in values]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def timed(function, device):
    """Seconds of one call, its work on a GPU included."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def peak_memory_mib(function, device):
    """Peak of one call in MiB; the head of this file says of what."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        timed(function, device)
        return torch.cuda.max_memory_allocated() / MIB
    # VmHWM belongs to this program, unlike ru_maxrss, which starts at the peak of its parent.
    Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM to VmRSS
    before_kib = _status_kib("VmRSS")
    timed(function, device)
    return max(0, _status_kib("VmHWM") - before_kib) / 1024


def release_memory(device):
    """Give back what a pass left behind, so that waiting processes hold their weights only."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    else:
        ctypes.CDLL(None).malloc_trim(0)


def _wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def _status_kib(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def serve(prepare):
    """The side of the worker: reply to each line of the standard input with a measurement.

    `prepare(task)` gets the task of `Worker` and returns a function without arguments, which
    measures once and returns a dict. What runs out of memory is replied, not raised.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed is no reply
    measure = None
    for _ in sys.stdin:
        try:
            measure = measure or prepare(json.loads(sys.argv[-1]))
            reply = measure()
        except (torch.OutOfMemoryError, MemoryError) as error:
            reply = {"out_of_memory": str(error).split(". ")[0] or "MemoryError"}
        except RuntimeError as error:
            if "allocate memory" not in str(error):
                raise
            wanted = re.search(r"allocate \d+ bytes", str(error))
            reply = {"out_of_memory": f"cannot {wanted[0] if wanted else 'allocate memory'}"}
        print(json.dumps(reply), file=replies, flush=True)


class Worker:
    """A fresh process that measures when it is asked to, and holds its memory in between.

    Arguments
    ---------
    script : str
        In this folder; it calls `serve` when its first argument is --worker.
    task : dict
        What to measure; `threads` are the threads of the process.
    environment : dict
        Variables to set for the process.
    """

    def __init__(self, script, task, environment=()):
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by close)
        self.process = subprocess.Popen(
            [sys.executable, FOLDER / script, "--worker", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(task["threads"]), **dict(environment)},
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def ask(self):
        """The next measurement.

        Raises
        ------
        OutOfMemory
            If it does not fit; the worker has ended then.
        WorkerError
            If the worker ended for another reason.
        """
        with contextlib.suppress(BrokenPipeError):  # it has ended: the reply says why
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        reply = self._reply()
        if "out_of_memory" in reply:
            self.close()
            raise OutOfMemory(f"out of memory: {reply['out_of_memory']}")
        return reply

    def close(self):
        """End the process."""
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()

    def _reply(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(timeout=0.2):
                    self._check_memory()
                    continue
                line = self.process.stdout.readline()
                if not line:
                    raise self._death()
                return json.loads(line)

    def _check_memory(self):
        available, total = memory_mib()
        if available < RESERVE * total:
            self.close()
            raise OutOfMemory(f"out of memory: ended with {available:.0f} MiB left")

    def _death(self):
        code = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines() or ["no message"]
        self.close()
        if code == -9:
            return OutOfMemory("out of memory: ended by the system")
        return WorkerError(f"ended with code {code}: {lines[-1]}")


def memory_mib():
    """(available, total) memory of the machine, or of the container if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    info = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    available, total = info["MemAvailable"], info["MemTotal"]
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
        group = Path("/sys/fs/cgroup")
        limit = int((group / "memory.max").read_text()) / MIB
        available = min(available, limit - int((group / "memory.current").read_text()) / MIB)
        total = min(total, limit)
    return available, total


def describe_run(device, threads):
    """Machine, versions, commit and command of this run, for its JSON."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        **git_state(),
        "machine": {
            "cpu": cpu[0].split(":", 1)[1].strip() if cpu else platform.machine(),
            "cores": os.cpu_count(),
            "memory_mib": round(memory_mib()[1]),
            "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
            "threads": threads,
        },
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "speechbrain", "triton")},
            "cuda": torch.version.cuda if device == "cuda" else None,
        },
    }


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state():
    """The commit of this tree, and whether files that it tracks have changed; None without git."""
    words = (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=FOLDER, capture_output=True, text=True, check=True
            ).stdout.strip()
            for arguments in words
        )
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    # Results of earlier benchmarks are not the code that ran.
    code = [line for line in changes.splitlines() if "benchmarks/results/" not in line]
    return {"commit": commit, "dirty": bool(code)}


def write_json(path, record):
    """Write the record of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())
    print(f"written: {path}")
