"""Files that are either the old version or the new one, never half of one."""

import hashlib
import os
import shutil
from pathlib import Path

from speechbrain_pom.utils.disks import remember_path
from speechbrain_pom.utils.errors import UserError

_LONGEST_NAME = 64  # characters of a name that go into that of a temporary file


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
        When the disk is full or not writable, with the path; the old version is then still there.

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


def temporary_beside(path, ending):
    """A hidden name beside a file or folder, for what becomes it when it is complete.

    Arguments
    ---------
    path : Path
    ending : str
        Tells several of them apart.

    Returns
    -------
    Path
        Of a name that is short enough wherever that of `path` is.

    Example
    -------
    >>> temporary_beside(Path("frames/a.npy"), "part").name
    '.a.npy.part'
    """
    digest = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    stem = path.name if len(os.fsencode(path.name)) <= _LONGEST_NAME else digest
    return path.with_name(f".{stem}.{ending}")


def replace_section(path, begin, end, content, check=False):
    """Replace the generated section of a document, or see whether it is what it should be.

    Arguments
    ---------
    path : str or Path
        The document.
    begin, end : str
        The lines around the section.
    content : str
        What is to stand between them, without empty lines around it.
    check : bool
        Only compare.

    Returns
    -------
    bool
        Whether the document had this section already.

    Raises
    ------
    UserError
        If it does not have the two lines.

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
    """Rename a folder, and wait until the new name is on the disk.

    `target` is on the same file system, and does not exist or is an empty folder.
    """
    os.rename(source, target)
    flush_to_disk(Path(target).parent)


def publish_file(finished, target):
    """Give a finished file its name in one step, in place of an older one, once it is on the disk.

    A killed process or a power cut leaves the old version or the new one.
    """
    flush_to_disk(finished)
    os.replace(finished, target)


def publish_folder(finished, target, former=None):
    """Give a finished folder its name in one step, once all that it holds is on the disk.

    Arguments
    ---------
    finished : Path
        On the file system of `target`.
    target : Path
        May exist: its old version goes when the new one is there, and stays if that fails.
    former : Path, optional
        What the old version is called in between; by default a hidden name.

    Raises
    ------
    OSError

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
