"""The finished outputs of a folder: one JSON line each, written as soon as the output is complete.

A repeated call skips what is finished, and makes again what is not there, or was made of a file
that has changed or with other settings.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.inference.jobs.outputs import check_outputs
from speechbrain_pom.inference.jobs.pool import Worker, report_failures, run_jobs
from speechbrain_pom.utils.disks import why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.parts import WHOLE, Part

# Where the model was found is recorded, but the same model may be found elsewhere.
_NOT_COMPARED = {"model"}


class Ledger:
    """What a command has finished in a folder.

    Arguments
    ---------
    folder : pathlib.Path
        Exists.
    name : str
        Name of the file with the lines.
    command : str
        The command that writes to the folder, for messages.
    settings : dict
        What the outputs depend on besides the audio; part of each line.
    part : Part
        Each part of a call has lines of its own; a call that is not divided takes over all.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> outputs = {folder / "a.wav": ["a.npy"]}
    >>> ledger = Ledger(folder, "done.jsonl", "encode", {"layers": "last"})
    >>> ledger.plan(outputs) == [folder / "a.wav"]
    True
    >>> (folder / "a.npy").touch()
    >>> ledger.add(folder / "a.wav", {"num_frames": 25})
    >>> Ledger(folder, "done.jsonl", "encode", {"layers": "last"}).plan(outputs)
    []
    """

    def __init__(
        self, folder: Path, name: str, command: str, settings: dict, part: Part = WHOLE
    ) -> None:
        self.folder = folder
        self.path = folder / (name if part == WHOLE else f"{part.name}.{name}")
        self.command, self.settings = command, settings
        of_parts = sorted(folder.glob(f"part-*-of-*.{name}"))
        self._taken_over = of_parts if part == WHOLE else []
        self.is_new = not (of_parts or (folder / name).is_file())
        files = [*self._taken_over, folder / name] if part == WHOLE else [folder / name, self.path]
        lines = [
            line
            for path in files
            if path.is_file()
            for line in path.read_text(encoding="utf-8").splitlines()
        ]
        self.entries = {entry["output"]: entry for entry in _parse(lines)}
        self._outputs, self._stamps = {}, {}
        self._names: dict[str, str] | None = None  # of outputs, by file
        self._is_part = part != WHOLE

    def output_of(self, file: Path) -> str | None:
        """The name of an output that is recorded for a file."""
        if self._names is None:
            self._names = {}
            for name, entry in self.entries.items():
                self._names.setdefault(entry["file"], name)
        return self._names.get(os.path.abspath(file))

    def plan(self, outputs: dict[Path, list[str]]) -> list[Path]:
        """The files whose outputs have to be made.

        What is recorded of these outputs is forgotten first, since they may be half replaced when
        the work is interrupted.
        """
        check_outputs(self.folder, outputs)
        for file, names in outputs.items():
            for name in names:
                self._check_owner(name, file)
        self._outputs, self._stamps = outputs, {file: file_stamp(file) for file in outputs}
        todo = [file for file, names in outputs.items() if not all(map(self._has(file), names))]
        for file in todo:
            for name in outputs[file]:
                self._check_not_packed(file, self.entries.pop(name, None))
        self.write()
        return todo

    def outputs_of(self, file: Path) -> list[str]:
        """The outputs that were planned for a file."""
        return self._outputs[file]

    def _check_not_packed(self, file, entry):
        """What is in a tar stays there: a second version would be read beside it."""
        if entry is not None and "tar" in entry and self._is_there(entry):
            raise UserError(
                f"'{file}' has changed since '{self.folder / entry['tar']}' got its frames: give "
                "another --out"
            )

    def _is_there(self, entry):
        if "tar" not in entry:
            return (self.folder / entry["output"]).is_file()
        path, end = self.folder / entry["tar"], entry["offset"] + entry["bytes"]
        return path.is_file() and path.stat().st_size >= end

    def _has(self, file):
        expected = {"file": os.path.abspath(file), "stamp": self._stamps[file], **self.settings}

        def has(name):
            entry = self.entries.get(name, {})
            same = all(entry.get(k) == v for k, v in expected.items() if k not in _NOT_COMPARED)
            return same and self._is_there(entry)

        return has

    def _check_owner(self, name, file):
        """Never overwrite what was not made of the same file."""
        owner = self.entries.get(name, {}).get("file", os.path.abspath(file))
        if owner != os.path.abspath(file):
            raise UserError(
                f"--out '{self.folder}' has {name} of '{owner}', which '{file}' would overwrite: "
                "give another folder"
            )
        if self.is_new and (self.folder / name).exists():
            raise UserError(
                f"--out '{self.folder}' has a file {name} that {self.command} did not write: give "
                "another folder"
            )

    def add(self, file: Path, result: dict | None = None) -> None:
        """Record the outputs of a file at once: the process may be killed at any time."""
        added = [
            {
                "file": os.path.abspath(file),
                "output": name,
                **(result or {}),
                "stamp": self._stamps[file],
                **self.settings,
            }
            for name in self._outputs[file]
        ]
        self.entries |= {entry["output"]: entry for entry in added}
        with self._errors(), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(_lines(added))

    def write(self) -> None:
        """Write all lines sorted by output, in place of those that killed processes left."""
        with self._errors():
            names = self.entries.keys()
            if self._is_part:
                names &= {name for outputs in self._outputs.values() for name in outputs}
            write_atomically(self.path, _lines(self.entries[name] for name in sorted(names)))
            while self._taken_over:
                self._taken_over.pop().unlink()

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            why = why_not_written(error, self.path.parent)
            raise UserError(
                f"cannot write '{self.path}' ({why}): make room, or give another --out"
            ) from error


def _parse(lines: list[str]) -> Iterator[dict]:
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:  # its writer was killed
            continue
        if isinstance(entry, dict) and {"file", "output"} <= entry.keys():
            yield entry


def _lines(entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def run_into_folder(
    files: list[Path],
    ledger: Ledger,
    outputs: dict[Path, list[str]],
    make_worker: Callable[[], Worker],
    num_jobs: int,
    done: str,
    group_size: int | None = None,
    on_result: Callable[[Path, Any], None] | None = None,
) -> int:
    """Make the outputs that are not finished yet; return the exit code.

    The folder is that of `own_folder`; `done` says what was done to the files, as in "3 of 4 files
    encoded"; `group_size` as for `run_jobs`; `on_result` is called in place of `ledger.add`.
    """
    todo = ledger.plan(outputs)
    how = {"on_result": on_result or ledger.add, "group_size": group_size}
    failures = run_jobs(todo, make_worker, num_jobs, ledger.command, **how)
    ledger.write()
    skipped = f", {len(files) - len(todo)} were finished before" if len(todo) < len(files) else ""
    print(f"{ledger.folder}: {len(todo) - len(failures)} of {len(files)} files {done}{skipped}")
    return report_failures(failures)
