"""Files that are either the old version or the new one, never half of one."""

import hashlib
import os
from pathlib import Path


def write_atomically(path, content):
    """Replace a file in one step, so that a reader or a killed run never sees half of it.

    Arguments
    ---------
    path : str or Path
        The file; its folder exists.
    content : bytes or str
        Text is written as UTF-8.

    Raises
    ------
    OSError
        When the disk is full or not writable; the old version is then still there.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_atomically(folder / "state.json", "{}")
    >>> [file.name for file in folder.iterdir()]
    ['state.json']
    """
    path = Path(path)
    # The process id keeps two runs apart that write the same file by mistake.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def flush_to_disk(path):
    """Wait until a file's content, or a folder's list of names, is on the disk.

    Arguments
    ---------
    path : str or Path
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(source, target):
    """Rename a folder and wait until the new name is on the disk.

    Arguments
    ---------
    source, target : Path
        On the same file system; `target` does not exist or is an empty folder.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "new").mkdir()
    >>> rename_durably(folder / "new", folder / "final")
    >>> [entry.name for entry in folder.iterdir()]
    ['final']
    """
    os.rename(source, target)
    flush_to_disk(Path(target).parent)


def sha256_of(path):
    """SHA-256 of a file of any size.

    Arguments
    ---------
    path : str or Path

    Returns
    -------
    str
        Hexadecimal.

    Example
    -------
    >>> path = getfixture("tmp_path") / "empty"
    >>> path.touch()
    >>> sha256_of(path)[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
