"""The report of a full check of speech data, as text and as a file."""

import errno
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_pom.data.records import BadUtterance, count_utterances, json_text
from speechbrain_pom.utils.disks import check_name, why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

_NUM_EXAMPLES = 3


@dataclass(frozen=True)
class CheckReport:
    """What `speechbrain_pom.data.check.check_data` found.

    Arguments
    ---------
    title : str
        What was checked.
    durations_s : list of float
        Durations of the good utterances.
    bad : list of BadUtterance
        The others, each with all its problems by kind.
    max_bad_share : float
        The share of bad utterances that is allowed.
    notes : list of str
        What else the reader should know.
    """

    title: str
    durations_s: list
    bad: list
    max_bad_share: float = 0.0
    notes: list = field(default_factory=list)

    @property
    def totals(self) -> dict:
        """kept_utterances, kept_h, dropped_utterances, dropped_h, bad_share."""
        return count_utterances(self.durations_s, self.bad)

    @property
    def is_acceptable(self) -> bool:
        """Whether no more utterances are bad than allowed."""
        return self.totals["bad_share"] <= self.max_bad_share

    def kinds(self) -> dict[str, list[BadUtterance]]:
        """Bad utterances by kind of problem, the most frequent first."""
        found = {}
        for item in self.bad:
            for kind in item.problems:
                found.setdefault(kind, []).append(item)
        return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))

    def table(self) -> str:
        """The report as text: a row per kind of problem, then kept and dropped hours.

        >>> from speechbrain_pom.data.records import BadUtterance
        >>> bad = BadUtterance("a", "a.wav", 3600.0, {"silence": "all its samples are zero"})
        >>> print(CheckReport("mine", [3600.0], [bad], 0.5).table())
        mine: 2 utterances
        problem               utterances      hours  first files
        silence                        1      1.000  a.wav
        kept 1 utterances (1.000 h), dropped 1 (1.000 h): 50 % is within max_bad_share=0.5
        """
        totals, kinds = self.totals, self.kinds()
        lines = [f"{self.title}: {len(self.durations_s) + len(self.bad)} utterances", *self.notes]
        if kinds:
            lines.append(f"{'problem':20}  {'utterances':>10}  {'hours':>9}  first files")
        for kind, items in kinds.items():
            hours = sum(item.duration_s for item in items) / 3600
            files = ", ".join(_printable(item.file) for item in items[:_NUM_EXAMPLES])
            more = ", ..." if len(items) > _NUM_EXAMPLES else ""
            lines.append(f"{kind:20}  {len(items):10d}  {hours:9.3f}  {files}{more}")
        verdict = "within" if self.is_acceptable else "more than"
        lines.append(
            "kept {kept_utterances} utterances ({kept_h:.3f} h), dropped {dropped_utterances} "
            "({dropped_h:.3f} h): ".format(**totals)
            + f"{100 * totals['bad_share']:.3g} % is {verdict} max_bad_share={self.max_bad_share:g}"
        )
        return "\n".join(lines)

    def write(self, path: str | Path) -> None:
        """Write all problems of all bad utterances as JSON.

        >>> CheckReport("mine", [1.0], []).write(getfixture("tmp_path") / "check.json")
        """
        content = {"checked": self.title, "max_bad_share": self.max_bad_share, **self.totals}
        kinds = {kind: len(items) for kind, items in self.kinds().items()}
        content |= {
            "notes": self.notes,
            "kinds": kinds,
            "bad": [item._asdict() for item in self.bad],
        }
        with _writing(path):
            write_atomically(path, json_text(content))


def check_writable(path: str | Path) -> None:
    """Refuse a place for a report that cannot be written, before the work.

    >>> check_writable(getfixture("tmp_path") / "check.json")
    """
    check_name(path)
    with _writing(path):
        if Path(path).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        tempfile.TemporaryFile(dir=Path(path).parent).close()


@contextmanager
def _writing(path):
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the report '{path}' cannot be written ({why_not_written(error, '.')}): choose "
            "another file"
        ) from None


def _printable(text):
    return text if text.isprintable() else ascii(text)
