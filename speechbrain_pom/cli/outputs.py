"""Names of what the commands write for audio files; bad ones are refused before the work."""

import os
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path, PurePath

from speechbrain_pom.utils.disks import check_name
from speechbrain_pom.utils.errors import UserError


def output_names(files):
    """A name for what is made of each file: its path below their common folder, no extension.

    Arguments
    ---------
    files : list of pathlib.Path
        From `find_audio`.

    Returns
    -------
    dict of pathlib.Path to str
        Unique, with `/`. Files that differ only in their extensions keep those.

    Example
    -------
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


def check_outputs(out, outputs):
    """Refuse outputs that cannot all be written, before the work.

    Arguments
    ---------
    out : pathlib.Path
        The folder that they go to; exists.
    outputs : dict of pathlib.Path to list of str
        Names in the folder, with `/`, of what is made of each audio file.

    Raises
    ------
    UserError
        If a name is too long for the file system, two files would be written to one place, or one
        in the place of an audio file or of a folder.

    Example
    -------
    >>> check_outputs(getfixture("tmp_path"), {Path("a.wav"): ["a.txt"], Path("b.wav"): ["b.txt"]})
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
    """What makes two names equal where they are one on the file system of a folder."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".aA", suffix="aA") as probe:
        path = Path(probe.name)
        if not path.with_name(path.name.swapcase()).exists():
            return str
    return lambda name: unicodedata.normalize("NFC", name).casefold()
