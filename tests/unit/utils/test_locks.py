"""Locks between processes."""

import errno
import fcntl
import multiprocessing
import os
import signal
import threading
import time

import pytest

from speechbrain_pom.utils.locks import (
    LockTakenError,
    NoFileLocksError,
    acquire,
    is_held,
    locked,
    release,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".lock"


@pytest.fixture
def hold(path):
    """Start a process that holds the lock, with a child that outlives it."""
    pids = []

    def child(ready):
        acquire(path)
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        ready.send(pid)
        time.sleep(60)

    def start():
        receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
        process = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
        process.start()
        pids.append(receiver.recv())
        return process

    yield start
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_it_ends_with_the_process_that_took_it_and_not_with_its_children(path, hold):
    process = hold()
    with pytest.raises(LockTakenError):
        acquire(path)
    process.kill()
    process.join()
    acquire(path)
    release(path)
    assert not path.exists()


def test_the_same_process_is_refused_too(path):
    with locked(path):
        assert is_held(path)
        with pytest.raises(LockTakenError), locked(path):
            pass
        assert is_held(path)
    assert not is_held(path)


def test_threads_wait_for_each_other(path):
    inside, most = [], []

    def work():
        with locked(path, wait=True):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == [1] * 8
    assert not path.exists()


def test_processes_wait_for_each_other(path, tmp_path):
    def work():
        for _ in range(20):
            with locked(path, wait=True):
                (tmp_path / "inside").mkdir()  # fails if another is in
                (tmp_path / "inside").rmdir()

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_file_system_without_locks(path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with pytest.raises(NoFileLocksError, match="No locks available"):
        acquire(path)
    assert not is_held(path)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        acquire(tmp_path / "nowhere" / ".lock")
