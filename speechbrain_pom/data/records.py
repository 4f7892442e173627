"""Records beside manifests: what each was made from, and which utterances were left out of it."""

import hashlib
import json
import logging
import math
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from speechbrain_pom.data.audio.files import check_choice
from speechbrain_pom.data.manifest import manifest_bytes
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.processes import num_processes

_INSPECTION_S = {"headers": 6e-4, "decode": 3e-3}  # of a file
_LONGEST_IN_GROUP_S = 300  # processes give up after 10 minutes (nccl)
_MAX_LISTED = 10  # bad utterances in an error message; the file beside the manifest lists all

logger = logging.getLogger(__name__)


class BadUtterance(NamedTuple):
    """An utterance that must not go into a manifest, and every reason why."""

    utterance: str
    file: str  # relative to the data folder
    duration_s: float  # 0 where unknown
    problems: dict  # kind, such as "sample rate", to a sentence that says what to do


def check_max_bad_share(max_bad_share: float) -> None:
    """Refuse a share of bad utterances that is not in 0 <= x < 1.

    >>> check_max_bad_share(0.01)
    """
    if not isinstance(max_bad_share, (int, float)) or not 0 <= max_bad_share < 1:
        raise UserError(f"max_bad_share is {max_bad_share!r}: it must be a share, 0 <= x < 1")


def check_writable(folder: Path) -> None:
    """Make a folder for manifests, and refuse one that cannot be written.

    >>> check_writable(getfixture("tmp_path") / "manifests")
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"manifest folder '{folder}' cannot be written ({error.strerror}): "
            "choose another one or change its permissions"
        ) from None


def is_up_to_date(path: str | Path, source: dict, max_bad_share: float = 0.0) -> bool:
    """Whether a manifest is still what `save_manifest` wrote for this source.

    If so, the log says which one is kept, as a warning where utterances were left out of it.

    >>> is_up_to_date(getfixture("tmp_path") / "a.csv", {"fingerprint": "0"})
    False
    """
    path = Path(path)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        same_file = record["csv_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        share, summary = record["bad_share"], record["summary"]
        same_source = record["source"] in (source, source | {"check_data": "decode"})
        if not (same_source and same_file and share <= max_bad_share):
            return False
    except (OSError, ValueError, TypeError, KeyError):  # no record, or not one of ours
        return False
    logger.log(logging.WARNING if share else logging.INFO, "%s; '%s' is kept", summary, path)
    return True


def check_options(max_bad_share: float, check_data: str, num_workers: int | None) -> int:
    """Refuse options of a preparation that cannot work; the number of worker processes."""
    check_max_bad_share(max_bad_share)
    check_choice(check_data)
    return num_processes(num_workers)


def update_manifest(
    path: Path,
    source: dict,
    read: Callable[[], tuple[list[dict], list[BadUtterance]]],
    max_bad_share: float = 0.0,
    expected_s: float = 0.0,
) -> None:
    """Write a manifest of what `read()` finds, unless it is up to date.

    `read` returns the rows of the good utterances, and the bad ones, as `save_manifest` takes them.
    It takes `expected_s` seconds, which is refused where other processes would wait for it.
    """
    if not is_up_to_date(path, source, max_bad_share):
        if expected_s > _LONGEST_IN_GROUP_S and torch.distributed.is_initialized():
            raise UserError(
                f"'{path.name}' takes about {expected_s / 60:.0f} minutes to prepare, and all "
                "processes of the run would wait for it until they time out: prepare first, with "
                "python -m speechbrain_pom pack, and give its index as train_csv and valid_csv"
            )
        check_writable(path.parent)
        save_manifest(path, *read(), source, max_bad_share)


def inspection_s(num_files: int, check_data: str, num_workers: int) -> float:
    """About how many seconds it takes to look at audio files, on a disk that keeps up.

    >>> inspection_s(1_000_000, "headers", 10)
    60.0
    """
    return num_files * _INSPECTION_S[check_data] / num_workers


def sort_out(
    found: Iterable[tuple[dict | None, BadUtterance | None]],
) -> tuple[list[dict], list[BadUtterance]]:
    """The rows of good utterances, and the bad ones, of pairs of which one is None."""
    rows, bad = [], []
    for row, problem in found:
        if problem is None:
            rows.append(row)
        else:
            bad.append(problem)
    return rows, bad


def save_manifest(
    path: str | Path,
    rows: list[dict],
    bad: list[BadUtterance],
    source: dict,
    max_bad_share: float = 0.0,
) -> None:
    """Write a manifest and its record, or raise if too many utterances are bad.

    The record (`.json`) is written last, so that an interrupted call is repeated. All bad
    utterances are listed in `.problems.json`.

    >>> path = getfixture("tmp_path") / "a.csv"
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> save_manifest(path, [row], [], {"fingerprint": "0"})
    >>> is_up_to_date(path, {"fingerprint": "0"}), is_up_to_date(path, {"fingerprint": "1"})
    (True, False)
    """
    path = Path(path)
    totals = count_utterances([row["duration"] for row in rows], bad)
    totals["speakers"] = len({row["spk_id"] for row in rows} - {""})
    share = totals["bad_share"]
    summary = _summary(path.stem, totals)
    report = path.with_suffix(".problems.json")
    if bad:
        write_atomically(report, json_text(totals | {"bad": [item._asdict() for item in bad]}))
    if share > max_bad_share:
        raise UserError(_too_many(summary, report, bad, share, max_bad_share))
    data = manifest_bytes(rows)
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(path, data)
    summary += f" and left out, see '{report.name}'" if bad else ""
    record = totals | {"summary": summary, "csv_sha256": digest, "source": source}
    write_atomically(path.with_suffix(".json"), json_text(record))
    if not bad:
        report.unlink(missing_ok=True)
    logger.log(logging.WARNING if bad else logging.INFO, "%s; written to '%s'", summary, path)


def count_utterances(durations_s: list[float], bad: list[BadUtterance]) -> dict:
    """Counts and hours of good and bad utterances.

    >>> count_utterances([1800.0], [])["kept_h"]
    0.5
    """
    return {
        "kept_utterances": len(durations_s),
        "kept_h": sum(durations_s) / 3600,
        "dropped_utterances": len(bad),
        "dropped_h": sum(item.duration_s for item in bad) / 3600,
        "bad_share": len(bad) / max(1, len(durations_s) + len(bad)),
    }


def json_text(value: Any) -> str:
    """A value as the text of a JSON file.

    >>> json_text({"bad": []})
    '{\\n "bad": []\\n}\\n'
    """
    return json.dumps(value, indent=1) + "\n"


def _summary(name, totals):
    """The totals in one line."""
    speakers = f", {totals['speakers']} speakers" if totals["speakers"] else ""
    kept = f"{totals['kept_utterances']} utterances ({totals['kept_h']:.3f} h{speakers})"
    if not totals["dropped_utterances"]:
        return f"{name}: {kept}"
    dropped = "{dropped_utterances} ({dropped_h:.3f} h)".format(**totals)
    return f"{name}: {kept} are good, {dropped} are bad"


def _too_many(summary, report, bad, share, max_bad_share):
    enough = math.ceil(share * 1e4) / 1e4  # rounded up, so that the advice works
    advice = f" or set max_bad_share to {enough:g} to leave them out" if enough < 1 else ""
    parts = [
        f"{summary}: more than max_bad_share={max_bad_share:g} allows; fix them{advice}; "
        f"all are listed in '{report}'"
    ]
    for item in bad[:_MAX_LISTED]:
        line = f"{item.utterance} ({item.file}): {'; '.join(item.problems.values())}"
        parts.append(line if line.isprintable() else ascii(line))
    if len(bad) > _MAX_LISTED:
        parts.append(f"and {len(bad) - _MAX_LISTED} more")
    return " | ".join(parts)
