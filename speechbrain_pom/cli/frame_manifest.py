"""What is finished in a folder of frames: a line for each file, written as soon as it is so."""

import json
import os
from contextlib import contextmanager

from speechbrain_pom.cli.audio_jobs import output_names
from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.errors import UserError, one_line
from speechbrain_pom.files import write_atomically

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
            If an output would replace that of another file, or what is not of `encode`.
        """
        taken = {entry["output"]: path for path, entry in self.entries.items()}
        outputs = {}
        for file, name in output_names(files).items():
            path = os.path.abspath(file)
            if path in self.entries:
                outputs[file] = self.entries[path]["output"]
                if not self.has(file):
                    del self.entries[path]
                continue
            outputs[file] = f"{name}.{format_}"
            owner = taken.setdefault(outputs[file], path)
            if owner != path:
                raise UserError(
                    f"--out '{self.out}' has {outputs[file]} of '{owner}', which '{file}' would "
                    "overwrite: give another folder"
                )
            if self.is_new and (self.out / outputs[file]).exists():
                raise UserError(
                    f"--out '{self.out}' has a file {outputs[file]} that is not of encode: give "
                    "another folder"
                )
        self.write()
        return outputs

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
            raise UserError(f"cannot write '{self.path}': {one_line(error)}: make room") from error
