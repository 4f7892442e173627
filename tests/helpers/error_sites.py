"""Where the package raises `UserError`, and which of these places the tests reach.

When the whole suite runs, every process notes the file and line of each `UserError` that it makes,
in one file; at the end the places in the source that are not among them are named. Places that the
suite cannot reach are listed in `EXCUSED`, with the reason.
"""

import ast
import functools
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("speechbrain_pom", "recipes", "experiments")
RECORD = "POM_RAISED_ERRORS"  # the environment variable with the path of the notes
HINT = "add a test that raises each of these, or excuse it in tests/helpers/error_sites.py"
# By file: a part of the message, and why `make test` does not reach it.
_KENLM = "needs the extra [lm], without which its tests are skipped"
EXCUSED = {
    "speechbrain_pom/ctc/decoding.py": {"kenlm_model_path: {} is damaged": _KENLM},
    "speechbrain_pom/ctc/language_model.py": {
        "is a KenLM binary": _KENLM,
        "holds no words": _KENLM,
        "is not a file": _KENLM,
        "is damaged": _KENLM,
        "no word of the language model": _KENLM,
        "is a model of single words": _KENLM,
    },
}


@dataclass(frozen=True)
class Site:
    """A place that makes a `UserError`."""

    path: str  # from the repository's root
    first_line: int
    last_line: int
    text: str  # the constant parts of the message, with {} for the values

    def __str__(self):
        return f"{self.path}:{self.first_line}: {self.text}"

    def is_at(self, path, line):
        """Whether a line is part of it."""
        return path == self.path and self.first_line <= line <= self.last_line

    @property
    def is_excused(self):
        """Whether the suite is not expected to reach it."""
        return any(part in self.text for part in EXCUSED.get(self.path, ()))


def sites_of(path, source):
    """The places of a source file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "UserError":
            text = " ".join("".join(map(_text, node.args)).split())
            yield Site(path, node.lineno, node.end_lineno, text)


def _text(node):
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "{}"


@functools.cache
def all_sites():
    """Those of the package, the recipes and the experiments."""
    return [
        site
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        for site in sites_of(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    ]


def is_whole_suite(config):
    """Whether pytest was asked for all quick tests and doctests, as by `make test`."""
    option = config.option
    return (
        config.args_source is config.ArgsSource.TESTPATHS
        and option.markexpr in ("", "not slow")
        and option.doctestmodules
        and not (option.keyword or option.deselect or option.ignore or option.ignore_glob)
        and not (option.collectonly or option.lf)
    )


def new_record():
    """An empty file for the notes; processes that are started from now on write into it."""
    handle, path = tempfile.mkstemp(prefix="raised_errors_")
    os.close(handle)
    os.environ[RECORD] = path
    return path


def watch():
    """Note where each `UserError` of this process, and of those forked from it, is made."""
    record = os.environ.get(RECORD)
    if record is None:
        return
    from speechbrain_pom.utils.errors import UserError

    noted = set()
    # Opened once: a test may take away the permissions of its process.
    notes = os.open(record, os.O_WRONLY | os.O_APPEND)

    def note(self, *arguments):
        ValueError.__init__(self, *arguments)
        caller = sys._getframe(1)
        place = f"{os.path.abspath(caller.f_code.co_filename)}:{caller.f_lineno}\n"
        if place not in noted:
            noted.add(place)
            os.write(notes, place.encode())  # one write, so it stays whole

    UserError.__init__ = note


def read(record):
    """(path from the repository's root, line) of all that was noted."""
    raised = set()
    for place in Path(record).read_text(encoding="utf-8").splitlines():
        path, _, line = place.rpartition(":")
        if Path(path).is_relative_to(ROOT):
            raised.add((str(Path(path).relative_to(ROOT)), int(line)))
    return raised


def unreached(raised):
    """The places that are not among those that were raised, without the excused ones."""
    return [
        site
        for site in all_sites()
        if not site.is_excused and not any(site.is_at(path, line) for path, line in raised)
    ]
