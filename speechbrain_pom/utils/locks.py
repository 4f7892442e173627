"""Locks between processes: a file that one process at a time holds, at most until it ends."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_held = {}  # real path to descriptor, of this process
_changed = threading.Condition()
# A lock stays with the process that took it.
os.register_at_fork(after_in_child=lambda: _held.clear())


class LockTakenError(Exception):
    """The lock is held, by another process or by this one."""


class NoFileLocksError(Exception):
    """The file system has no file locks, as some network file systems."""


def is_held(path: str | Path) -> bool:
    """Whether this process holds the lock."""
    return os.path.realpath(path) in _held


def acquire(path: str | Path, wait: bool = False) -> None:
    """Lock a file, which is made if needed, until `release` or the end of the process.

    Forked children do not share the lock, so they cannot keep it after a process that was killed.
    Where another process holds it, `LockTakenError` is raised, or with `wait` the log says that
    it is waited for.

    Example
    -------
    >>> path = getfixture("tmp_path") / ".lock"
    >>> acquire(path)
    >>> is_held(path)
    True
    >>> release(path)
    >>> path.exists()
    False
    """
    key = os.path.realpath(path)
    with _changed:
        if key in _held and not wait:
            raise LockTakenError(path)
        while key in _held:
            _changed.wait()
        _held[key] = None  # claimed; other threads wait outside of the system call below
    try:
        _held[key] = _lock(key, wait)
    except BaseException:
        _forget(key)
        raise


def release(path: str | Path) -> None:
    """Give up a lock and remove its file."""
    key = os.path.realpath(path)
    descriptor = _held[key]
    with suppress(FileNotFoundError):
        os.unlink(key)
    os.close(descriptor)
    _forget(key)


@contextmanager
def locked(path: str | Path, wait: bool = False) -> Iterator[None]:
    """Context manager: `acquire`, and `release` at its end."""
    acquire(path, wait)
    try:
        yield
    finally:
        release(path)


def _forget(key):
    with _changed:
        _held.pop(key, None)
        _changed.notify_all()


def _lock(path, wait):
    """The descriptor of the locked file."""
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _lock_open_file(descriptor, path, wait)
            # The former holder may have removed the file, and a lock on that excludes nobody.
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock_open_file(descriptor, path, wait):
    import fcntl  # not on Windows, where the rest of the package can be imported

    # lockf, not flock: a forked worker would share flock's lock, and outlive a killed run.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        if not wait:
            raise LockTakenError(path) from None
        logger.warning("waiting for another process that holds '%s'", path)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        raise NoFileLocksError(str(error)) from error
