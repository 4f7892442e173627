"""The folder of a mini corpus: its manifest and checksums, and one writer at a time."""

import concurrent.futures
import contextlib
import json
import pathlib
from collections.abc import Iterator
from pathlib import Path

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of
from speechbrain_pom.utils.locks import NoFileLocksError, locked

MANIFEST_NAME = "manifest.json"
MANIFEST_KIND = "speechbrain-pom mini corpus"


def read_manifest(out: str | Path) -> dict:
    """Read the manifest of a corpus.

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


def verify_mini_corpus(out: str | Path) -> None:
    """Check every file of a corpus against the checksums of its manifest.

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


def list_entries(folder: Path) -> set[str]:
    """Everything in a folder: files, links and empty folders.

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


@contextlib.contextmanager
def only_writer(out: Path) -> Iterator[None]:
    """Context manager: no other process makes this corpus meanwhile; they wait."""
    try:
        with locked(out.with_name(f".{out.name}.lock"), wait=True):
            yield
    except NoFileLocksError as error:
        raise UserError(
            f"'{out.parent}' is on a file system without file locks ({error}): choose "
            "a folder on a local disk (for the demo: set SPEECHBRAIN_POM_CACHE)"
        ) from error
