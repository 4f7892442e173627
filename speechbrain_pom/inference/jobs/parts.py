"""Parts of a list of files that is made once, for jobs on many machines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.locks import NoFileLocksError, locked
from speechbrain_pom.utils.parts import WHOLE, Part

LIST_FILE = "files-of-{count:05d}.json"


def frozen_files(out: Path, part: Part, paths: list[str], find: Callable[[], list[Path]]) -> list:
    """All files of a call that is divided: as the first part has found them.

    Arguments
    ---------
    out : pathlib.Path
        The folder of the outputs; made if needed.
    part : Part
        Of how many parts the list is.
    paths : list of str
        What the command line names; another part must name the same.
    find : callable
        Finds the files.

    Returns
    -------
    list of pathlib.Path

    Raises
    ------
    UserError
        If the list was made of other paths.
    """
    if part == WHOLE:
        return find()
    out.mkdir(parents=True, exist_ok=True)
    path = out / LIST_FILE.format(count=part.count)
    paths = [os.path.abspath(path) for path in paths]
    if not path.is_file():
        try:
            with locked(out / ".list.lock", wait=True):
                _freeze(path, paths, find)
        except NoFileLocksError:  # the list of whoever is last, and they are the same
            _freeze(path, paths, find)
    known = json.loads(path.read_text(encoding="utf-8"))
    if known["paths"] != paths:
        raise UserError(
            f"'{path}' is the list of {', '.join(known['paths'][:3])}, this call names "
            f"{', '.join(paths[:3])}: give another --out"
        )
    return [Path(os.fsdecode(os.fsencode(file))) for file in known["files"]]


def _freeze(path, paths, find):
    if not path.is_file():
        files = [os.path.abspath(file) for file in find()]
        write_atomically(path, json.dumps({"paths": paths, "files": files}) + "\n")
