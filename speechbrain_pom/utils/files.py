"""Files that are either the old version or the new one, never half of one."""

import hashlib
import os
import shutil
from pathlib import Path

from speechbrain_pom.utils.disks import remember_path
from speechbrain_pom.utils.errors import UserError

_LONGEST_NAME = 64  # characters of a name that go into that of a temporary file


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Replace a file in one step, so that a reader or a killed run never sees half of it.

    Its folder exists; text is written as UTF-8. Where it cannot be written, an `OSError` has the
    path, and the old version is still there.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_atomically(folder / "state.json", "{}")
    >>> [file.name for file in folder.iterdir()]
    ['state.json']
    """
    path = Path(path)
    # The process id keeps two runs apart that write the same file by mistake.
    temporary = temporary_beside(path, f"{os.getpid()}.tmp")
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with remember_path(path):
            temporary.write_bytes(data)
            publish_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_beside(path: Path, ending: str) -> Path:
    """A hidden name beside a file or folder, for what becomes it when it is complete.

    It is short enough wherever that of `path` is; the ending tells several of them apart.

    Example
    -------
    >>> temporary_beside(Path("frames/a.npy"), "part").name
    '.a.npy.part'
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    stem = path.name if len(os.fsencode(path.name)) <= _LONGEST_NAME else digest
    return path.with_name(f".{stem}.{ending}")


def replace_section(
    path: str | Path, begin: str, end: str, content: str, check: bool = False
) -> bool:
    """Replace the generated section of a document between two lines; whether it was that already.

    With `check` it is only compared. The content has no empty lines around it.

    Example
    -------
    >>> document = getfixture("tmp_path") / "a.md"
    >>> _ = document.write_text("# Title\\n<!-- A -->\\nold\\n<!-- /A -->\\n")
    >>> replace_section(document, "<!-- A -->", "<!-- /A -->", "new")
    False
    >>> replace_section(document, "<!-- A -->", "<!-- /A -->", "new", check=True)
    True
    """
    text = Path(path).read_text(encoding="utf-8")
    before, first, rest = text.partition(begin)
    _, last, after = rest.partition(end)
    if not (first and last):
        raise UserError(f"'{path}' has no lines '{begin}' and '{end}' to write between")
    written = f"{before}{begin}\n\n{content}\n\n{end}{after}"
    if not check and written != text:
        write_atomically(path, written)
    return written == text


def flush_to_disk(path: str | Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a folder, and wait until the new name is on the disk.

    `target` is on the same file system, and does not exist or is an empty folder.
    """
    os.rename(source, target)
    flush_to_disk(Path(target).parent)


def publish_file(finished: Path, target: Path) -> None:
    """Give a finished file its name in one step, in place of an older one, once it is on the disk.

    A killed process or a power cut leaves the old version or the new one.
    """
    flush_to_disk(finished)
    os.replace(finished, target)


def publish_folder(finished: Path, target: Path, former: Path | None = None) -> None:
    """Give a finished folder its name in one step, once all that it holds is on the disk.

    Both are on one file system. An old version of the target goes when the new one is there, and
    stays if that fails; in between it is called `former`, by default a hidden name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name, file in (("new", "b"), ("final", "a")):
    ...     (folder / name).mkdir()
    ...     (folder / name / file).touch()
    >>> publish_folder(folder / "new", folder / "final")
    >>> [path.name for path in folder.rglob("*")]
    ['final', 'b']
    """
    former = former or temporary_beside(target, "old")
    for folder, _, names in os.walk(finished):
        for name in sorted(names):
            flush_to_disk(os.path.join(folder, name))
        flush_to_disk(folder)
    if target.exists():
        shutil.rmtree(former, ignore_errors=True)
        rename_durably(target, former)
    try:
        rename_durably(finished, target)
    except OSError:
        if former.exists() and not target.exists():
            os.rename(former, target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal.

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
