"""Manifests: the CSV files that SpeechBrain's `DynamicItemDataset.from_csv` reads.

One row is one utterance, sorted by ID. Audio paths start with `$data_root`, so that the
audio folder can move: `from_csv(path, replacements={"data_root": folder})`.
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

COLUMNS = ("ID", "duration", "num_samples", "wav", "spk_id", "wrd")
"""Columns of a manifest: utterance, seconds, samples, audio path, speaker, transcript."""


def manifest_bytes(rows: Iterable[dict]) -> bytes:
    """Format rows as a manifest, sorted by ID.

    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> manifest_bytes([row]).decode().splitlines()[1]
    '1-2-3,0.5,8000,a,1,HI'
    """
    rows = sorted(rows, key=lambda row: row["ID"])
    text = io.StringIO(newline="")
    columns = dict.fromkeys((*COLUMNS, *(rows[0] if rows else ())))
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8")


def read_manifest(path: str | Path) -> dict[str, dict]:
    """Read a manifest, with typed values.

    Arguments
    ---------
    path : str or pathlib.Path
        A CSV file with at least the columns of `COLUMNS`.

    Returns
    -------
    dict of str to dict
        Utterance ID to its other columns; `duration` is a float (seconds), `num_samples`
        an int, everything else a str (`wav` with its `$data_root` in place).

    Raises
    ------
    UserError
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
        raise UserError(f"manifest '{path}' does not exist: prepare the data first")
    manifest = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise UserError(
                f"manifest '{path}' lacks the column(s) {', '.join(missing)}: "
                f"its first line must name {','.join(COLUMNS)}"
            )
        for row in reader:
            utterance = row.pop("ID")
            if utterance in manifest:
                raise UserError(f"manifest '{path}' has the ID '{utterance}' twice: keep one row")
            try:
                row["duration"] = float(row["duration"])
                row["num_samples"] = int(row["num_samples"])
            except (TypeError, ValueError):
                raise UserError(
                    f"manifest '{path}', ID '{utterance}': duration '{row['duration']}' must be "
                    f"seconds and num_samples '{row['num_samples']}' an integer: prepare it again"
                ) from None
            manifest[utterance] = row
    return manifest


def merge_manifests(paths: Iterable[str | Path], out: str | Path) -> Path:
    """Merge manifests into one, sorted by ID; the file is left alone if it is that already.

    >>> folder = getfixture("tmp_path")
    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> _ = (folder / "a.csv").write_bytes(manifest_bytes([row]))
    >>> _ = (folder / "b.csv").write_bytes(manifest_bytes([dict(row, ID="0-2-3")]))
    >>> list(read_manifest(merge_manifests([folder / "a.csv", folder / "b.csv"], folder / "c.csv")))
    ['0-2-3', '1-2-3']
    """
    paths, out = [Path(path) for path in paths], Path(out)
    if not paths:
        raise UserError(f"no manifest to merge into '{out}': pass at least one path")
    source, rows = {}, []
    for path in paths:
        for utterance, row in read_manifest(path).items():
            if utterance in source:
                raise UserError(
                    f"ID '{utterance}' is both in '{source[utterance]}' and in '{path}': "
                    "merge manifests of different utterances"
                )
            source[utterance] = path
            rows.append({"ID": utterance, **{name: row[name] for name in COLUMNS[1:]}})
    return write_manifest(out, rows)


def write_manifest(path: str | Path, rows: Iterable[dict]) -> Path:
    """Write a manifest; the file is left alone if it is that already.

    >>> row = dict(ID="1-2-3", duration=0.5, num_samples=8000, wav="a", spk_id="1", wrd="HI")
    >>> write_manifest(getfixture("tmp_path") / "a.csv", [row]).name
    'a.csv'
    """
    path, data = Path(path), manifest_bytes(rows)
    if not (path.is_file() and path.read_bytes() == data):
        write_atomically(path, data)
    return path
