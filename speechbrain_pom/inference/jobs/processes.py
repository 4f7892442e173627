"""Processes that each load a model and take files one by one; if one dies, the others go on.

`concurrent.futures` would drop all work when one process is killed, as the kernel does where memory
is short.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from speechbrain_pom.utils.errors import UserError, one_line

# Errors whose message says enough: bad files, full disks, too little memory on a device.
_PLAIN_ERRORS = (UserError, OSError, RuntimeError)  # soundfile's are RuntimeErrors
_PATIENCE_S = 5  # for a process that was told to end


def attempt(work: Callable[[Path], Any], file: Path) -> tuple[Any, str | None]:
    """What work(file) returns and None, or None and its error in one line.

    >>> attempt(len, "abc"), attempt(len, 3)
    ((3, None), (None, "TypeError: object of type 'int' has no len()"))
    """
    try:
        return work(file), None
    except Exception as error:
        kind = "" if isinstance(error, _PLAIN_ERRORS) else f"{type(error).__name__}: "
        return None, kind + one_line(error)


@contextmanager
def cpu_threads() -> Iterator[None]:
    """Context manager: as many CPU threads as OMP_NUM_THREADS says, one by default."""
    former = torch.get_num_threads()
    value = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(value) if value.isdecimal() and int(value) else 1)
    try:
        yield
    finally:
        torch.set_num_threads(former)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context manager for the main thread: SIGTERM unwinds as Ctrl-C does, so that nothing is left.

    >>> with ended_by_signals():
    ...     signal.raise_signal(signal.SIGTERM)
    Traceback (most recent call last):
    SystemExit: 143
    """

    def end(number, _frame):
        raise SystemExit(128 + number)

    former = signal.signal(signal.SIGTERM, end)
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        signal.signal(signal.SIGTERM, former)


def _serve(connection, make_worker, environment):
    """What a process does: load the model, then answer each file with (result, error)."""
    os.environ.clear()  # of a server that may be older
    os.environ.update(environment)
    # Ctrl-C in a terminal reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with ended_by_signals(), cpu_threads():
        try:
            work = make_worker()
        except UserError as error:  # it is the same in all processes
            connection.send((None, one_line(error)))
            return
        connection.send((None, None))
        while True:
            try:
                file = connection.recv()
            except EOFError:  # no more files, or the first process has ended
                return
            connection.send(attempt(work, file))


def in_processes(
    files: list[Path],
    make_worker: Callable[[], Callable[[Path], Any]],
    num_jobs: int,
    note: Callable[[Path, Any, str | None], None],
) -> None:
    """Work on files in processes of their own, as `run_jobs` does.

    `note(file, result, error)` is called in this process, in the order of completion.
    """
    _Processes(files, make_worker, num_jobs, note).run()


def _context(make_worker):
    """Processes are forked from one that has the imports, but neither CUDA nor threads."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    made_by = getattr(make_worker, "func", make_worker)  # of a partial
    context.set_forkserver_preload([__name__, made_by.__module__])
    return context


class _Process:
    """One of the processes, and the file that it works on."""

    def __init__(self, make_worker):
        context = _context(make_worker)
        self.connection, remote = context.Pipe()
        self.is_loaded, self.file = False, None
        arguments = (remote, make_worker, dict(os.environ))
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        # Blocked until `_serve` ignores it: the imports before would die with a traceback.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        remote.close()

    def cause_of_death(self):
        """How it died, for a reader."""
        self.process.join(_PATIENCE_S)
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"its process ended with code {code}"
        hint = ": is memory short? try fewer --jobs" if code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    def stop(self):
        """Make it end, at once if it is at work."""
        self.connection.close()
        if self.file is not None or not self.is_loaded:
            self.process.terminate()

    def join(self):
        """Wait for its end, but kill it if that takes too long."""
        self.process.join(_PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Processes:
    """Hands files to processes one by one, and replaces those that die."""

    def __init__(self, files, make_worker, num_jobs, note):
        self.files, self.make_worker, self.num_jobs = deque(files), make_worker, num_jobs
        self.note, self.alive = note, []

    def start(self):
        self.alive.append(_Process(self.make_worker))

    def run(self):
        death = None
        try:
            for _ in range(self.num_jobs):
                self.start()
            while self.alive:
                ready = set(wait([each.connection for each in self.alive]))
                for each in [each for each in self.alive if each.connection in ready]:
                    death = self.listen(each) or death
        finally:
            for each in self.alive:
                each.stop()
            for each in self.alive:
                each.join()
        for file in self.files:  # all processes died while they loaded the model
            self.note(file, None, f"not begun, no model could be loaded: {death}")

    def listen(self, each):
        """Take a process's answer and give it another file; returns how it died, if it did."""
        try:
            result, error = each.connection.recv()
        except (EOFError, ConnectionError):
            return self.replace(each)
        if not each.is_loaded:
            if error is not None:
                raise UserError(error)
            each.is_loaded = True
        else:
            self.note(each.file, result, error)
        each.file = self.files.popleft() if self.files else None
        if each.file is None:
            self.alive.remove(each)
            each.stop()
            each.join()
            return None
        try:
            each.connection.send(each.file)
        except ConnectionError:
            return self.replace(each)
        return None

    def replace(self, each):
        """Note what a process died of; another takes its place unless it died while it loaded."""
        self.alive.remove(each)
        death = each.cause_of_death()
        if each.file is not None:
            self.note(each.file, None, death)
            if self.files:
                self.start()
        each.connection.close()
        return death
