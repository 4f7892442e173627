"""Files that are either the old version or the new one, never half of one."""

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
