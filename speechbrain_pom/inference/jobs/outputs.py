"""Names of the outputs of audio files, refused before the work if they cannot be written."""

import logging
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

from speechbrain_pom.utils.disks import check_name
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.locks import (
    LockTakenError,
    NoFileLocksError,
    acquire,
    is_held,
    release,
)
from speechbrain_pom.utils.parts import WHOLE, Part

LOCK_FILE = ".writing.lock"

logger = logging.getLogger(__name__)


def output_names(files: list[Path]) -> dict[Path, str]:
    """A unique name for the output of each file: its path below their common folder.

    Files that differ only in their extensions keep those; the others lose them.

    >>> output_names([Path("x/a.wav"), Path("x/a.flac"), Path("x/deep/b.wav")]).values()
    dict_values(['a.wav', 'a.flac', 'deep/b'])
    """
    absolute = {file: os.path.abspath(file) for file in files}
    if not absolute:
        return {}
    common = os.path.commonpath([os.path.dirname(path) for path in absolute.values()])
    full = {file: PurePath(os.path.relpath(path, common)) for file, path in absolute.items()}
    names = {file: path.with_suffix("").as_posix() for file, path in full.items()}
    # A name with its extension can be another's without: a.wav and a.wav.mp3.
    while taken := {name for name, count in Counter(names.values()).items() if count > 1}:
        names |= {file: full[file].as_posix() for file in files if names[file] in taken}
    return names


def check_outputs(out: Path, outputs: dict[Path, list[str]]) -> None:
    """Refuse outputs that cannot all be written, before the work.

    `outputs` has the names, with `/`, of what is made of each audio file in the folder `out`. A
    name may be too long for the file system, belong to two files, or be that of an audio file or
    of a folder.
    """
    owners, audio = {}, {os.path.realpath(file) for file in outputs}
    fold = _folding(out) if len(outputs) > 1 else str
    for file, names in outputs.items():
        for name in names:
            check_name(out / name)
            owner = owners.setdefault(fold(name), file)
            if owner is not file:
                raise UserError(
                    f"--out '{out}': '{owner}' and '{file}' would both be written to {name}: "
                    "rename one, or give them different folders"
                )
            if os.path.realpath(out / name) in audio or (out / name).is_dir():
                raise UserError(
                    f"--out '{out}': {name}, to be made of '{file}', is an audio file or a folder: "
                    "give another folder"
                )
    for file, names in outputs.items():
        for name in names:
            for folder in PurePath(name).parents:
                if fold(folder.as_posix()) in owners:
                    raise UserError(
                        f"--out '{out}': {folder} is to be made of "
                        f"'{owners[fold(folder.as_posix())]}', and a folder for '{file}': rename "
                        "one of them"
                    )


def _folding(folder):
    """How to compare names on the file system of a folder, which may ignore case."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".aA", suffix="aA") as probe:
        path = Path(probe.name)
        if not path.with_name(path.name.swapcase()).exists():
            return str
    return lambda name: unicodedata.normalize("NFC", name).casefold()


@contextmanager
def own_folder(out: Path, part: Part = WHOLE) -> Iterator[None]:
    """Context manager: make a folder, to which no other process of these commands may write.

    The parts of a call may write to it side by side, each once.
    """
    lock = out / (LOCK_FILE if part == WHOLE else f".{part.name}.lock")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for other in out.glob(".part-*.lock") if part == WHOLE else [out / LOCK_FILE]:
            acquire(other)  # nobody has it
            release(other)
        acquire(lock)
    except LockTakenError:
        raise UserError(
            f"--out '{out}': another process is writing to it: wait, or give another folder"
        ) from None
    except NoFileLocksError as error:
        logger.warning(
            "'%s' cannot be locked (%s): make sure that nothing else uses it", out, error
        )
    except OSError as error:
        raise UserError(
            f"--out '{out}' cannot be used ({error.strerror}): give another folder"
        ) from error
    try:
        yield
    finally:
        if is_held(lock):
            release(lock)
