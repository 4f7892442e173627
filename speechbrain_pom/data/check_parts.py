"""A check in parts, on one machine or many: what each part has found, line by line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_pom.data.records import BadUtterance
from speechbrain_pom.utils.disks import explain_full_disk
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.locks import LockTakenError, NoFileLocksError, acquire, is_held, release
from speechbrain_pom.utils.parts import Part

_SLICE = 256  # of the work, between two lines of the records
_FINISHED = {"finished": True}


class Group(NamedTuple):
    """A list of work for a check: files, chapters or rows.

    Arguments
    ---------
    title : str
        Of its progress bar.
    units : sequence
    check : callable
        `check(units, title)`: what some of them hold, good and bad, each as a `BadUtterance`;
        without a title there is no progress bar.
    unique_ids : bool
        Whether utterances of two units may not have the same ID.
    """

    title: str
    units: Sequence[Any]
    check: Callable[[Sequence[Any], str | None], list[BadUtterance]]
    unique_ids: bool = False


def check_part(
    groups: list[Group], folder: Path, part: Part, settings: dict, show_progress: bool = True
) -> list[BadUtterance] | None:
    """Do one part of a check, and go on where a call that was killed has stopped.

    Arguments
    ---------
    groups : list of Group
    folder : pathlib.Path
        Where the records of all parts are; made if needed.
    part : Part
    settings : dict
        What the results depend on besides the lists of work.
    show_progress : bool
        Whether progress bars are shown.

    Returns
    -------
    list of BadUtterance or None
        What all parts have found, by file; None where others are not finished.

    Raises
    ------
    UserError
        If the records are of another check, or the data have changed since.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder / f".{part.name}.lock"
    try:
        acquire(lock)
    except LockTakenError:
        raise UserError(f"another process works on part {part} in '{folder}': wait") from None
    except NoFileLocksError:
        pass  # two processes would write the same lines
    try:
        header = {"check": _digest(groups, settings)}
        _work(groups, folder / f"{part.name}.jsonl", part, header, show_progress)
    finally:
        if is_held(lock):
            release(lock)
    paths = [folder / f"{Part(number, part.count).name}.jsonl" for number in _numbers(part)]
    records = [_read(path, header) for path in paths]
    if not all(lines and lines[-1] == _FINISHED for lines in records):
        return None
    return _joined(groups, [line for lines in records for line in lines])


def _numbers(part):
    return range(1, part.count + 1)


def _digest(groups, settings):
    """Of the whole call: parts that disagree would miss files, or have them twice."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for group in groups:
        digest.update(group.title.encode("utf-8", "surrogateescape"))
        for unit in group.units:
            digest.update(repr(unit).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _work(groups, path, part, header, show_progress):
    """Add lines until the part is finished."""
    lines = _read(path, header)
    if lines and lines[-1] == _FINISHED:
        return
    with explain_full_disk(path.parent, "give another --out"), open(path, "w") as stream:
        for line in [header, *lines]:  # without one that was being written
            stream.write(json.dumps(line) + "\n")
        stream.flush()
        for number, group in enumerate(groups):
            mine = part.of(group.units)
            done = sum(line["units"] for line in lines if line["group"] == number)
            for start in range(done, len(mine), _SLICE):
                units = mine[start : start + _SLICE]
                bar = f"{group.title} {start}/{len(mine)}" if show_progress else None
                found = group.check(units, bar)
                line = {"group": number, "units": len(units), "found": found}
                stream.write(json.dumps(line) + "\n")
                stream.flush()
        stream.write(json.dumps(_FINISHED) + "\n")


def _read(path, header):
    """The complete lines of a part's records after the header."""
    if not path.is_file():
        return []
    lines = list(_parsed(path))
    if lines and lines[0] != header:
        raise UserError(
            f"'{path.parent}' has the records of another check, or the data have changed since: "
            "remove it, or give another --out"
        )
    return lines[1:]


def _parsed(path) -> Iterator[dict]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except ValueError:  # its writer was killed
            return


def _joined(groups, lines):
    found = []
    for number, group in enumerate(groups):
        own = [
            BadUtterance(*item)
            for line in lines
            if line != _FINISHED and line["group"] == number
            for item in line["found"]
        ]
        own.sort(key=lambda item: item.file)
        found += _with_unique_ids(own) if group.unique_ids else own
    return found


def _with_unique_ids(items):
    """The items, of which those with the ID of a former good one are bad."""
    first: dict[str, str] = {}
    for item in items:
        other = first.setdefault(item.utterance, item.file) if not item.problems else item.file
        if other != item.file:
            item.problems["same ID"] = f"has the same ID as {other}: rename one"
    return items
