"""Manifests: the CSV files that SpeechBrain's ``DynamicItemDataset.from_csv`` reads.

One row is one utterance, sorted by ID. Audio paths start with ``$data_root``, so that the
audio folder can move: ``from_csv(path, replacements={"data_root": folder})``.
"""

import csv
import hashlib
import io
import json
import logging
import math
from pathlib import Path
from typing import NamedTuple

from speechbrain_pom.files import write_atomically

COLUMNS = ("ID", "duration", "num_samples", "wav", "spk_id", "wrd")
"""Columns of a manifest: utterance, seconds, samples, audio path, speaker, transcript."""

_MAX_LISTED = 10  # bad utterances in an error message; the file beside the manifest lists all

logger = logging.getLogger(__name__)


class BadUtterance(NamedTuple):
    """An utterance that must not go into a manifest, and every reason why."""

    utterance: str
    file: str  # relative to the data folder
    duration_s: float  # 0 where unknown
    problems: list


def manifest_bytes(rows):
    """Formats rows as a manifest, sorted by ID.

    Arguments
    ---------
    rows : iterable of dict
        One dict per utterance, with the keys of ``COLUMNS``.

    Returns
    -------
    bytes
        The CSV file's content (UTF-8, header line first).

    Example
    -------
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> manifest_bytes([row]).decode().splitlines()[1]
    '1-2-3,0.5,8000,a,1,HI'
    """
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(sorted(rows, key=lambda row: row["ID"]))
    return text.getvalue().encode("utf-8")


def read_manifest(path):
    """Reads a manifest, with typed values.

    Arguments
    ---------
    path : str or pathlib.Path
        A CSV file with at least the columns of ``COLUMNS``.

    Returns
    -------
    dict of str to dict
        Utterance ID to its other columns; ``duration`` is a float (seconds), ``num_samples``
        an int, everything else a str (``wav`` with its ``$data_root`` in place).

    Raises
    ------
    ValueError
        If the file is missing or is no manifest, or an ID occurs twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> _ = path.write_bytes(manifest_bytes([row]))
    >>> read_manifest(path)["1-2-3"]["num_samples"]
    8000
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"manifest '{path}' does not exist: prepare the data first")
    manifest = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(
                f"manifest '{path}' lacks the column(s) {', '.join(missing)}: "
                f"its first line must name {','.join(COLUMNS)}"
            )
        for row in reader:
            utterance = row.pop("ID")
            if utterance in manifest:
                raise ValueError(f"manifest '{path}' has the ID '{utterance}' twice: keep one row")
            try:
                row["duration"] = float(row["duration"])
                row["num_samples"] = int(row["num_samples"])
            except (TypeError, ValueError):
                raise ValueError(
                    f"manifest '{path}', ID '{utterance}': duration '{row['duration']}' must be "
                    f"seconds and num_samples '{row['num_samples']}' an integer: prepare it again"
                ) from None
            manifest[utterance] = row
    return manifest


def merge_manifests(paths, out):
    """Merges manifests into one, sorted by ID; the file is left alone if it is that already.

    Arguments
    ---------
    paths : iterable of str or pathlib.Path
        Manifests with the columns of ``COLUMNS``, for example of train-clean-100, train-clean-360
        and train-other-500.
    out : str or pathlib.Path
        The file to write.

    Returns
    -------
    pathlib.Path
        ``out``.

    Raises
    ------
    ValueError
        If there is no manifest to merge, one is not readable, or two hold the same ID.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> _ = (folder / "a.csv").write_bytes(manifest_bytes([row]))
    >>> _ = (folder / "b.csv").write_bytes(manifest_bytes([dict(row, ID="0-2-3")]))
    >>> list(read_manifest(merge_manifests([folder / "a.csv", folder / "b.csv"], folder / "c.csv")))
    ['0-2-3', '1-2-3']
    """
    paths, out = [Path(path) for path in paths], Path(out)
    if not paths:
        raise ValueError(f"no manifest to merge into '{out}': pass at least one path")
    source, rows = {}, []
    for path in paths:
        for utterance, row in read_manifest(path).items():
            if utterance in source:
                raise ValueError(
                    f"ID '{utterance}' is both in '{source[utterance]}' and in '{path}': "
                    "merge manifests of different utterances"
                )
            source[utterance] = path
            rows.append({"ID": utterance, **{name: row[name] for name in COLUMNS[1:]}})
    data = manifest_bytes(rows)
    if not (out.is_file() and out.read_bytes() == data):
        write_atomically(out, data)
    return out


def is_up_to_date(path, source, max_bad_share=0.0):
    """Whether a manifest is still what ``save_manifest`` wrote for this source.

    If so, the log says which one is kept, as a warning where utterances were left out of it.

    Arguments
    ---------
    path : str or pathlib.Path
        The manifest; its record lies beside it as ``.json``.
    source : dict
        What the manifest depends on, as given to ``save_manifest``.
    max_bad_share : float
        The share of utterances that may have been left out.

    Returns
    -------
    bool
        False too if there is no manifest or no valid record.

    Example
    -------
    >>> is_up_to_date(getfixture("tmp_path") / "a.csv", {"fingerprint": "0"})
    False
    """
    path = Path(path)
    try:
        record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        same_file = record["csv_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        share, summary = record["bad_share"], record["summary"]
        if not (record["source"] == source and same_file and share <= max_bad_share):
            return False
    except (OSError, ValueError, TypeError, KeyError):  # no record, or not one of ours
        return False
    logger.log(logging.WARNING if share else logging.INFO, "%s; '%s' is kept", summary, path)
    return True


def save_manifest(path, rows, bad, source, max_bad_share=0.0):
    """Writes a manifest and its record, or raises if too many utterances are bad.

    The record (``.json``) is written last, so that an interrupted call is repeated. All bad
    utterances are listed in ``.problems.json``.

    Arguments
    ---------
    path : str or pathlib.Path
        The manifest, ``NAME.csv``.
    rows : list of dict
        The good utterances, with the keys of ``COLUMNS``.
    bad : list of BadUtterance
        The others.
    source : dict
        What the manifest depends on (JSON values); compared by ``is_up_to_date``.
    max_bad_share : float
        The share of utterances that may be left out, 0 <= x < 1.

    Raises
    ------
    ValueError
        If more than ``max_bad_share`` of the utterances are bad; the manifest is not touched.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> save_manifest(path, [row], [], {"fingerprint": "0"})
    >>> is_up_to_date(path, {"fingerprint": "0"}), is_up_to_date(path, {"fingerprint": "1"})
    (True, False)
    """
    path = Path(path)
    share = len(bad) / max(1, len(rows) + len(bad))
    totals = {
        "kept_utterances": len(rows),
        "kept_h": sum(row["duration"] for row in rows) / 3600,
        "speakers": len({row["spk_id"] for row in rows}),
        "dropped_utterances": len(bad),
        "dropped_h": sum(item.duration_s for item in bad) / 3600,
        "bad_share": share,
    }
    summary = _summary(path.stem, totals)
    report = path.with_suffix(".problems.json")
    if bad:
        write_atomically(report, _json(totals | {"bad": [item._asdict() for item in bad]}))
    if share > max_bad_share:
        raise ValueError(_too_many(summary, report, bad, share, max_bad_share))
    data = manifest_bytes(rows)
    digest = hashlib.sha256(data).hexdigest()
    write_atomically(path, data)
    summary += f" and left out, see '{report.name}'" if bad else ""
    record = totals | {"summary": summary, "csv_sha256": digest, "source": source}
    write_atomically(path.with_suffix(".json"), _json(record))
    if not bad:
        report.unlink(missing_ok=True)
    logger.log(logging.WARNING if bad else logging.INFO, "%s; written to '%s'", summary, path)


def _json(value):
    return (json.dumps(value, indent=1) + "\n").encode("utf-8")


def _summary(name, totals):
    """The totals in one line."""
    kept = "{kept_utterances} utterances ({kept_h:.3f} h, {speakers} speakers)".format(**totals)
    if not totals["dropped_utterances"]:
        return f"{name}: {kept}"
    dropped = "{dropped_utterances} ({dropped_h:.3f} h)".format(**totals)
    return f"{name}: {kept} are good, {dropped} are bad"


def _too_many(summary, report, bad, share, max_bad_share):
    enough = math.ceil(share * 1e4) / 1e4  # rounded up, so that the advice works
    advice = f" or set max_bad_share to {enough:g} to leave them out" if enough < 1 else ""
    parts = [
        f"{summary}: more than max_bad_share={max_bad_share:g} allows; mend them{advice}; "
        f"all are listed in '{report}'"
    ]
    for item in bad[:_MAX_LISTED]:
        line = f"{item.utterance} ({item.file}): {'; '.join(item.problems)}"
        parts.append(line if line.isprintable() else ascii(line))
    if len(bad) > _MAX_LISTED:
        parts.append(f"and {len(bad) - _MAX_LISTED} more")
    return " | ".join(parts)
