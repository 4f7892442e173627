"""Room on disks: said in one line where there is none, and reserved where a map would die of it."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from speechbrain_pom.utils.errors import UserError, is_disk_full, one_line

_NO_RESERVING = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}
_BLOCK = 2**20  # bytes


def why_not_written(error: BaseException, folder: str | Path) -> str:
    """Why nothing was written to a folder: a full disk, also where a writer hides it, or the error.

    Example
    -------
    >>> why_not_written(OSError(errno.ENOSPC, "No space left on device"), ".")
    'disk full'
    """
    if is_disk_full(error):
        return "disk full"
    if not isinstance(error, OSError) and shutil.disk_usage(Path(folder)).free < 2**20:
        return "disk full"  # PyTorch's writer does not say why
    return getattr(error, "strerror", None) or one_line(error)


@contextmanager
def remember_path(path: str | Path) -> Iterator[None]:
    """Context manager: an error of the system inside says which file it is about.

    Example
    -------
    >>> with remember_path("a.csv"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'a.csv'
    """
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


@contextmanager
def explain_full_disk(folder: str | Path, advice: str) -> Iterator[None]:
    """Context manager: a full disk is a `UserError` with the folder and what else could be done.

    Example
    -------
    >>> with explain_full_disk("frames", "give another --out"):
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: disk full: no room in 'frames': make room, or give...
    """
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise UserError(f"disk full: no room in '{folder}': make room, or {advice}") from error


def reserve(stream: BinaryIO, num_bytes: int) -> None:
    """Extend a file to a length, and make sure that its disk has room for all of it.

    A full disk would kill, without a word, whoever writes to a map of a file that is only said to
    be that long.

    Example
    -------
    >>> with open(getfixture("tmp_path") / "a", "wb") as stream:
    ...     reserve(stream, 5000)
    ...     os.fstat(stream.fileno()).st_size
    5000
    """
    stream.flush()
    start = os.fstat(stream.fileno()).st_size
    if num_bytes <= start:
        return
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream.fileno(), 0, num_bytes)
            return
        except OSError as error:
            if error.errno not in _NO_RESERVING:
                raise
    stream.seek(start)
    for first in range(start, num_bytes, _BLOCK):
        stream.write(bytes(min(_BLOCK, num_bytes - first)))
    stream.flush()


def check_name(path: str | Path) -> None:
    """Refuse a path that the file system cannot hold, before the work whose result goes there.

    Neither the file nor the folders above it need exist.

    Example
    -------
    >>> check_name(getfixture("tmp_path") / "a.npy")
    """
    path = Path(os.path.abspath(path))
    there = next(folder for folder in path.parents if os.access(folder, os.F_OK))
    limits = {"name": 255, "path": 4096}
    for kind in limits:
        with suppress(OSError, ValueError, AttributeError):  # not known of every file system
            limits[kind] = os.pathconf(there, f"PC_{kind.upper()}_MAX")
    sizes = {part: len(os.fsencode(part)) for part in path.relative_to(there).parts}
    longest = max(sizes, key=sizes.get, default="")
    if longest and sizes[longest] > limits["name"]:
        raise UserError(
            f"the name '{longest}' has {sizes[longest]} bytes, and names in '{there}' have at most "
            f"{limits['name']}: give a shorter one"
        )
    if (size := len(os.fsencode(path))) >= limits["path"]:
        raise UserError(
            f"a path of {size} bytes, '...{path.name}', and they have at most "
            f"{limits['path'] - 1} here: give a shorter one"
        )
