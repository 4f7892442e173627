"""The folder of a mini corpus: manifest, checksums, durable writing, one writer at a time."""

import concurrent.futures
import contextlib
import hashlib
import json
import logging
import os
import pathlib

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of

logger = logging.getLogger(__name__)

MANIFEST_NAME = "manifest.json"
MANIFEST_KIND = "speechbrain-pom mini corpus"


def read_manifest(out):
    """Reads the manifest of a corpus.

    Arguments
    ---------
    out : str or pathlib.Path
        Folder of the corpus.

    Returns
    -------
    dict
        Keys `kind`, `version`, `options`, `sample_rate`, `libraries` (versions), `splits` (numbers
        of speakers, utterances and samples) and `files` (path to `sha256`, and to `num_samples`
        for audio).

    Raises
    ------
    UserError
        When there is none, or it is damaged.

    Example
    -------
    >>> read_manifest("/nowhere")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: '/nowhere' is not a mini corpus: it has no manifest.json
    """
    path = pathlib.Path(out) / MANIFEST_NAME
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"'{out}' is not a mini corpus: it has no {MANIFEST_NAME}") from None
    except ValueError as err:
        raise UserError(f"mini corpus '{out}': the file '{MANIFEST_NAME}' is damaged") from err
    if not isinstance(manifest, dict) or manifest.get("kind") != MANIFEST_KIND:
        raise UserError(f"'{out}' is not a mini corpus: its {MANIFEST_NAME} is of something else")
    if not {"version", "options", "splits", "files"} <= manifest.keys():
        raise UserError(f"mini corpus '{out}': the file '{MANIFEST_NAME}' is damaged")
    return manifest


def verify_mini_corpus(out):
    """Checks every file of a corpus against the checksums of its manifest.

    Arguments
    ---------
    out : str or pathlib.Path
        Folder of the corpus.

    Raises
    ------
    UserError
        Naming the first file, in order of paths, that is missing, damaged or not of the corpus.

    Example
    -------
    >>> verify_mini_corpus("/nowhere")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: '/nowhere' is not a mini corpus: it has no manifest.json
    """
    out = pathlib.Path(out)
    checksums = {name: entry["sha256"] for name, entry in read_manifest(out)["files"].items()}
    present = list_entries(out) - {MANIFEST_NAME}
    both = sorted(present & checksums.keys())
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = dict(zip(both, pool.map(lambda name: sha256_of(out / name), both), strict=True))
    for name in sorted(present | checksums.keys()):
        if name not in present:
            problem = "is missing"
        elif name not in checksums:
            problem = "is not part of it"
        elif found[name] != checksums[name]:
            problem = "is damaged (its checksum differs)"
        else:
            continue
        raise UserError(f"mini corpus '{out}': the file '{name}' {problem}")


def list_entries(folder):
    """Everything in a folder: files, links and empty folders.

    Arguments
    ---------
    folder : pathlib.Path

    Returns
    -------
    set of str
        Paths relative to `folder`, with forward slashes.

    Example
    -------
    >>> tmp_path = getfixture("tmp_path")
    >>> (tmp_path / "a" / "b").mkdir(parents=True)
    >>> list_entries(tmp_path)
    {'a/b'}
    """
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    }


def write_durably(path, content):
    """Writes a file and waits until it is on the disk.

    Arguments
    ---------
    path : pathlib.Path
    content : bytes

    Returns
    -------
    str
        SHA-256 of the content, hexadecimal.

    Example
    -------
    >>> write_durably(getfixture("tmp_path") / "empty", b"")[:8]
    'e3b0c442'
    """
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()


@contextlib.contextmanager
def exclusive(lock_path):
    """Context in which no other process holds the same lock; it ends with the process too.

    Arguments
    ---------
    lock_path : pathlib.Path
        A file that is made for the lock and removed after it.

    Raises
    ------
    UserError
        When the file system has no file locks.

    Example
    -------
    >>> lock_path = getfixture("tmp_path") / ".lock"
    >>> with exclusive(lock_path):
    ...     lock_path.exists()
    True
    >>> lock_path.exists()
    False
    """
    descriptor = _acquire(lock_path)
    try:
        yield
    finally:
        os.unlink(lock_path)
        os.close(descriptor)


def _acquire(lock_path):
    import fcntl  # not on Windows, where the rest of the package can be imported

    while True:
        with contextlib.ExitStack() as stack:
            descriptor = os.open(lock_path, os.O_CREAT | os.O_RDWR, 0o666)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("waiting for another process that writes beside '%s'", lock_path)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            except OSError as err:
                raise UserError(
                    f"'{lock_path.parent}' is on a file system without file locks ({err}): choose "
                    "a folder on a local disk (for the demo: set SPEECHBRAIN_POM_CACHE)"
                ) from err
            # The previous holder removes the file, and a lock on a removed file excludes nobody.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(lock_path), os.fstat(descriptor)):
                    stack.pop_all()
                    return descriptor
