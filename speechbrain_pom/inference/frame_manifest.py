"""What is finished in a folder of frames: a line for each file, written as soon as it is so."""

import json
import os
from contextlib import contextmanager

from speechbrain_pom.cli.outputs import check_outputs, output_names
from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.utils.disks import why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

MANIFEST_FILE = "manifest.jsonl"


class FrameManifest:
    """What is finished in a folder: JSON lines, added to one by one.

    Arguments
    ---------
    out : pathlib.Path
        Exists.
    settings : dict
        Model and options, the same in all lines.

    Raises
    ------
    UserError
        If the folder has frames of another model, or with other options.
    """

    def __init__(self, out, settings):
        self.out, self.path, self.settings = out, out / MANIFEST_FILE, settings
        self.is_new = not self.path.is_file()
        self.entries = {}
        lines = [] if self.is_new else self.path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:  # its writer was killed
                continue
            self._check(entry if isinstance(entry, dict) else {})
            self.entries[entry["file"]] = entry

    def _check(self, entry):
        """Refuse frames of another model, or with other options, in the same folder."""
        for key in sorted(self.settings.keys() - {"model"}):
            there, here = entry.get(key), self.settings[key]
            if there != here:
                raise UserError(
                    f"--out '{self.out}' holds frames with {key} {there!r}, this call has "
                    f"{here!r}: give another folder"
                )

    def plan(self, files, format_):
        """Choose the output of each file, and forget finished ones that have to be made again.

        Arguments
        ---------
        files : list of pathlib.Path
        format_ : str

        Returns
        -------
        dict of pathlib.Path to str
            Names in the folder; files that the manifest knows keep theirs.

        Raises
        ------
        UserError
            If an output would replace that of another file, or what is not of `encode`, or cannot
            be written.
        """
        names = output_names(files)
        known = {file: self.entries.get(os.path.abspath(file)) for file in files}
        outputs = {
            file: known[file]["output"] if known[file] else f"{names[file]}.{format_}"
            for file in files
        }
        check_outputs(self.out, {file: [output] for file, output in outputs.items()})
        taken = {entry["output"]: path for path, entry in self.entries.items()}
        for file, output in outputs.items():
            if known[file] is None:
                self._check_owner(output, file, taken)
            elif not self.has(file):
                del self.entries[os.path.abspath(file)]
        self.write()
        return outputs

    def _check_owner(self, output, file, taken):
        """Never write over what was not made of the same file."""
        if output in taken:
            raise UserError(
                f"--out '{self.out}' has {output} of '{taken[output]}', which '{file}' would "
                "overwrite: give another folder"
            )
        if self.is_new and (self.out / output).exists():
            raise UserError(
                f"--out '{self.out}' has a file {output} that is not of encode: give another folder"
            )

    def has(self, file):
        """Whether the output of a file is there, and the file is as it was.

        Arguments
        ---------
        file : pathlib.Path

        Returns
        -------
        bool
        """
        entry = self.entries.get(os.path.abspath(file))
        return (
            entry is not None
            and entry["stamp"] == file_stamp(file)
            and (self.out / entry["output"]).is_file()
        )

    def add(self, file, facts):
        """Note a finished file, at once: the process may be killed at any time.

        Arguments
        ---------
        file : pathlib.Path
        facts : dict
            With output and stamp.
        """
        path = os.path.abspath(file)
        self.entries[path] = {"file": path, **facts, **self.settings}
        with self._errors(), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(self.entries[path]) + "\n")

    def write(self):
        """Write all lines, sorted by output, in place of what killed processes left."""
        entries = sorted(self.entries.values(), key=lambda entry: entry["output"])
        with self._errors():
            write_atomically(self.path, "".join(json.dumps(entry) + "\n" for entry in entries))

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            why = why_not_written(error, self.path.parent)
            raise UserError(
                f"cannot write '{self.path}' ({why}): make room, or give another --out"
            ) from error
