"""Processes that take items of work one by one; if one dies, the others go on.

`concurrent.futures` would drop all work when one process is killed, as the kernel does where memory
is short.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import wait
from typing import Any, NamedTuple, TypeAlias

from speechbrain_pom.utils.errors import UserError, one_line

_PATIENCE_S = 5  # for a process that was told to end

Worker: TypeAlias = Callable[[Any], Any]
"""Works on one item."""


class ProcessDeathError(RuntimeError):
    """A process died while it worked on an item."""


class RemoteTracebackError(Exception):
    """The traceback, as text, of an error in another process: the cause of what is raised here."""


class Outcome(NamedTuple):
    """What became of one item; its error is None if it went well."""

    index: int
    result: Any
    error: Exception | None


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


def work_in_processes(
    items: Sequence[Any],
    make_worker: Callable[[], Worker],
    num_workers: int,
    method: str | None = None,
    imports: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Work on items in processes of their own, and yield what became of each, in any order.

    `make_worker` is called once in each process and returns `work(item)`. A process that dies costs
    its item, and is replaced; a `UserError` of `make_worker` is raised here. All processes have
    ended when this is exhausted or closed. `method` is how processes start; by default they are
    forked from one that has made `imports`, but has neither CUDA nor threads.
    """
    return _Pool(items, make_worker, num_workers, _context(method, imports)).outcomes()


def _serve(connection, inherited, make_worker, environment):
    """What a process does: make its worker, then answer each item with (result, error, text)."""
    for other in inherited:  # or their ends would never be noticed
        other.close()
    os.environ.clear()  # of a server that may be older
    os.environ.update(environment)
    # Ctrl-C in a terminal reaches all processes: the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with ended_by_signals():
        try:
            work = make_worker()
        except UserError as error:  # a bad call is the same in all processes
            connection.send(one_line(error))
            return
        connection.send(None)
        while True:
            try:
                item = connection.recv()
            except EOFError:  # no more items, or the first process has ended
                return
            connection.send(_attempt(work, item))


def _attempt(work, item):
    try:
        return work(item), None, None
    except Exception as error:
        text = traceback.format_exc()
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # of a class that another process cannot rebuild
            error = RuntimeError(f"{type(error).__name__}: {one_line(error)}")
        return None, error, text


def _context(method, imports):
    if method is not None or "forkserver" not in get_all_start_methods():
        return get_context(method or "spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__, *imports])
    return context


class _Process:
    """One of the processes, and the index of the item that it works on."""

    def __init__(self, context, make_worker, others):
        self.connection, remote = context.Pipe()
        self.is_ready, self.index = False, None
        forked = context.get_start_method() == "fork"
        inherited = [self.connection, *(each.connection for each in others)] if forked else []
        arguments = (remote, inherited, make_worker, dict(os.environ))
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
        hint = ": is memory short? try fewer processes" if code == -signal.SIGKILL else ""
        return f"its process was killed by {signal.Signals(-code).name}{hint}"

    def stop(self):
        """Make it end, at once if it is at work."""
        self.connection.close()
        if self.index is not None or not self.is_ready:
            self.process.terminate()

    def join(self):
        """Wait for its end, but kill it if that takes too long."""
        self.process.join(_PATIENCE_S)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class _Pool:
    """Hands items to processes one by one, and replaces those that die."""

    def __init__(self, items, make_worker, num_workers, context):
        self.items, self.make_worker = items, make_worker
        self.num_workers = min(num_workers, len(items))
        self.context = context
        self.waiting, self.alive = deque(range(len(items))), []

    def outcomes(self):
        death = None
        try:
            for _ in range(self.num_workers):
                self.start()
            while self.alive:
                ready = set(wait([each.connection for each in self.alive]))
                for each in [each for each in self.alive if each.connection in ready]:
                    found, cause = self.listen(each)
                    death = cause or death
                    yield from found
        finally:
            for each in self.alive:
                each.stop()
            for each in self.alive:
                each.join()
        for index in self.waiting:  # all processes died before they could begin
            error = ProcessDeathError(f"not begun, no process could start: {death}")
            yield Outcome(index, None, error)

    def start(self):
        self.alive.append(_Process(self.context, self.make_worker, self.alive))

    def listen(self, each):
        """Take a process's answer and give it another item; the outcomes, and how it died if so."""
        found = []
        try:
            answer = each.connection.recv()
            if each.is_ready:
                result, error, text = answer
                if error is not None:
                    error.__cause__ = RemoteTracebackError(f"\n{text}")
                found.append(Outcome(each.index, result, error))
                each.index = None
            elif answer is not None:
                raise UserError(answer)
            each.is_ready = True
            if self.waiting:
                each.index = self.waiting.popleft()
                each.connection.send(self.items[each.index])
            else:
                self.dismiss(each)
        except (EOFError, ConnectionError):
            lost, death = self.replace(each)
            return found + lost, death
        return found, None

    def dismiss(self, each):
        self.alive.remove(each)
        each.stop()
        each.join()

    def replace(self, each):
        """What became of the item of a dead process, if any, and what it died of.

        Another process takes its place, unless it died before it could begin.
        """
        self.alive.remove(each)
        death, lost = each.cause_of_death(), []
        if each.index is not None:
            lost = [Outcome(each.index, None, ProcessDeathError(death))]
            if self.waiting:
                self.start()
        each.connection.close()
        return lost, death
