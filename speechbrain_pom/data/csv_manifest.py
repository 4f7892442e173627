"""Manifests from CSV files of any origin: which rows and columns, checked like any other data.

A source is a path with an optional filter: `an4.csv`, or `an4.csv?split=train` for the rows whose
column `split` is `train` (`&` adds further columns).
"""

import csv
import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from speechbrain_pom.data.audio.files import (
    SAMPLE_RATE,
    has_placeholder,
    inspect_audio,
    path_problems,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.data.records import (
    BadUtterance,
    check_options,
    inspection_s,
    sort_out,
    update_manifest,
)
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.processes import map_in_processes

# Column of our manifests to the names that it may have in a CSV: SpeechBrain's, and those of most
# published lists.
COLUMN_NAMES = {
    "ID": ("ID", "id"),
    "wav": ("wav", "path"),
    "duration": ("duration", "duration_s"),
    "spk_id": ("spk_id", "speaker"),
    "wrd": ("wrd", "text"),
    "label": ("label",),
}
_REQUIRED = ("ID", "wav")
# By how much a stated duration may differ from the decoded one: rounding, and a codec's padding.
_MAX_DIFFERENCE_S = 0.1
_RECORD_VERSION = 1  # raise it when the same files would give another manifest


class CsvSource(NamedTuple):
    """A CSV file and the rows of it that are meant.

    Arguments
    ---------
    path : str
        The path as it was given.
    wanted : tuple of (str, str)
        Column and value, all of which a row must have.
    title : str, optional
        A name of its own.
    """

    path: str
    wanted: tuple
    title: str | None = None

    @property
    def name(self) -> str:
        """Name of the data: its own, or that of the file and the values of the filter."""
        return self.title or "-".join((Path(self.path).stem, *(value for _, value in self.wanted)))


def parse_source(text: str) -> CsvSource:
    """Take a source apart.

    >>> parse_source("an4.csv?split=test").name
    'an4-test'
    """
    path, question_mark, conditions = str(text).partition("?")
    wanted = tuple(tuple(part.partition("=")[::2]) for part in conditions.split("&") if part)
    if not path or (question_mark and not wanted) or not all(map(all, wanted)):
        raise UserError(
            f"'{text}' is not a source of data: give FILE.csv or FILE.csv?COLUMN=VALUE, such as "
            "an4.csv?split=train"
        )
    return CsvSource(path, wanted)


def parse_sources(value: str | list[str] | Mapping[str, str]) -> list[CsvSource]:
    """One source or several, as a recipe's key has them, perhaps with names of their own.

    >>> [source.name for source in parse_sources(["a.csv?split=train", "b.csv"])]
    ['a-train', 'b']
    >>> parse_sources({"clean": "a.csv"})[0].name
    'clean'
    """
    if isinstance(value, Mapping):
        titles, texts = [str(title) for title in value], list(value.values())
    else:
        texts = [value] if isinstance(value, str) else list(value)
        titles = [None] * len(texts)
    if not texts:
        raise UserError("the list of CSV files is empty: give at least one")
    sources = [
        parse_source(text)._replace(title=title) for text, title in zip(texts, titles, strict=True)
    ]
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two of the sources {texts} are called '{name}': rename one file")
    return sources


def prepare_csv(
    name: str,
    sources: list[CsvSource],
    manifest_folder: str | Path,
    *,
    data_folder: str | Path | None = None,
    need_transcripts: bool = False,
    label_columns: Sequence[str] | None = None,
    max_bad_share: float = 0.0,
    check_data: str = "headers",
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Write the manifest `NAME.csv` of all the sources together, unless it is up to date.

    Columns may be called as in SpeechBrain's manifests (ID, wav, duration, spk_id, wrd) or as in
    most published lists (id, path, duration_s, speaker, text); only the first two are needed.
    Relative paths, of CSV files and in them, start in `data_folder`; without it, a CSV file's own
    folder is where its audio is looked for. Each audio file is looked at: other sample rates and
    several channels are converted when it is read, and a stated duration is compared.

    Arguments
    ---------
    name : str
        Name of the manifest.
    sources : list of CsvSource
        From `parse_sources`.
    manifest_folder : str or pathlib.Path
        Where the manifest goes; made if needed.
    data_folder : str or pathlib.Path, optional
        Stands for `$data_root` too.
    need_transcripts : bool
        Whether each row must have a transcript.
    label_columns : sequence of str, optional
        What the column of the labels may be called, if there must be one.
    max_bad_share, check_data, num_workers, show_progress
        As `speechbrain_pom.data.librispeech.prepare_librispeech` takes them.

    Returns
    -------
    pathlib.Path
        The manifest.

    Raises
    ------
    UserError
        If a file is missing or no CSV, lacks a column, no row passes its filter, an ID occurs
        twice, or more utterances are bad than `max_bad_share` allows.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.flac", np.ones(8000) / 2, 16000)
    >>> _ = (folder / "own.csv").write_text("id,path,text\\nu1,a.flac,GO ON\\n")
    >>> sources = parse_sources(str(folder / "own.csv"))
    >>> path = prepare_csv("train", sources, folder / "manifests", show_progress=False)
    >>> path.read_text().splitlines()[1].split(",")[:3]
    ['u1', '0.5', '8000']
    """
    num_workers = check_options(max_bad_share, check_data, num_workers)
    rows = [row for source in sources for row in _read_rows(source, data_folder, label_columns)]
    _check_ids(rows)
    manifest = Path(manifest_folder) / f"{name}.csv"
    source = {
        "version": _RECORD_VERSION,
        "need_transcripts": bool(need_transcripts),
        "check_data": check_data,
        "fingerprint": _fingerprint(rows),
    }
    read_row = partial(_read_row, need_transcripts, check_data)
    title = name if show_progress else None

    def read():
        return sort_out(
            map_in_processes(read_row, rows, num_workers, bar_title=title, chunksize=16)
        )

    expected_s = inspection_s(len(rows), check_data, num_workers)
    update_manifest(manifest, source, read, max_bad_share, expected_s)
    return manifest


def _read_rows(source, data_folder, label_columns):
    """The rows of a source, with our names of columns and absolute paths of audio."""
    path = Path(data_folder or "", source.path)
    if not path.is_file():
        raise UserError(f"no such CSV file: '{path}': {_advice(source.path, data_folder)}")
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, skipinitialspace=True)
        present = reader.fieldnames or []
        columns = _columns(path, present, label_columns)
        for column, _ in source.wanted:
            if column not in present:
                raise UserError(
                    f"'{path}' has no column '{column}', by which its rows are chosen: it has "
                    f"{', '.join(present)}"
                )
        chosen = [
            {ours: (row[theirs] or "").strip() for ours, theirs in columns.items()}
            for row in reader
            if all(row[column] == value for column, value in source.wanted)
        ]
    if not chosen:
        conditions = " and ".join(f"{column} = {value}" for column, value in source.wanted)
        raise UserError(
            f"'{path}' has no row{f' with {conditions}' if conditions else ''}: check the file "
            "and the filter"
        )
    root = os.path.abspath(data_folder or path.parent)
    for row in chosen:
        row["file"] = row["wav"].replace("$data_root/", "").replace("${data_root}/", "")
        row["wav"] = os.path.join(root, row["file"])
    return chosen


def _advice(path, data_folder):
    if data_folder is not None and Path(path).is_file():
        return "with data_folder, relative paths start there; leave it out or give the whole path"
    return "check the path"


def _columns(path, present, label_columns):
    """Our names of the columns that a CSV has, and its own."""
    names = COLUMN_NAMES | ({"label": label_columns} if label_columns else {})
    found = {
        ours: next(name for name in theirs if name in present)
        for ours, theirs in names.items()
        if any(name in present for name in theirs)
    }
    for column in (*_REQUIRED, "label") if label_columns else _REQUIRED:
        if column not in found:
            raise UserError(
                f"'{path}' has no column {' or '.join(names[column])}: its first line must "
                f"name it (it has {', '.join(present) or 'nothing'})"
            )
    return found


def _check_ids(rows):
    seen = set()
    for row in rows:
        if not row["ID"] or row["ID"] in seen:
            state = f"the ID '{row['ID']}' twice" if row["ID"] else "a row without an ID"
            raise UserError(f"the CSV files have {state} ('{row['file']}'): IDs must be unique")
        seen.add(row["ID"])


def _fingerprint(rows):
    """Another one whenever a row or an audio file changed."""
    digest = hashlib.sha256()
    for row in rows:
        try:
            stat = os.stat(row["wav"])
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # reading it names the problem
            stamp = "-1 -1"
        digest.update(os.fsencode(f"{row}\0{stamp}\n"))
    return digest.hexdigest()


def _read_row(need_transcripts, check_data, row):
    """The manifest's row, or None, and a bad utterance, or None."""
    facts = inspect_audio(row["wav"], check_data)
    problems = facts.problems | path_problems(row["wav"])
    if facts.sample_rate:
        problems |= resampling_problems(facts) | _duration_problems(row, facts)
    if need_transcripts and not row.get("wrd"):
        problems["transcript"] = "has no transcript: add it or remove the row"
    for column in ("ID", "spk_id", "wrd", "label"):
        if has_placeholder(row.get(column, "")):
            sentence = f"its {column} '{row[column]}' holds '$', a placeholder: write it out"
            problems["placeholder"] = sentence
    if problems:
        return None, BadUtterance(row["ID"], row["file"], facts.duration_s, problems)
    num_samples = resampled_length(facts.num_samples, facts.sample_rate)
    return {
        "ID": row["ID"],
        "duration": num_samples / SAMPLE_RATE,
        "num_samples": num_samples,
        "wav": row["wav"],
        "spk_id": row.get("spk_id", ""),
        "wrd": " ".join(row.get("wrd", "").split()),
        "label": row.get("label", ""),
    }, None


def _duration_problems(row, facts):
    stated = row.get("duration")
    try:
        difference_s = abs(float(stated) - facts.duration_s) if stated else 0.0
    except ValueError:
        return {"duration": f"its stated duration '{stated}' is not a number of seconds: fix it"}
    if difference_s <= _MAX_DIFFERENCE_S:
        return {}
    sentence = f"lasts {facts.duration_s:.3f} s, but the CSV says {stated} s: fix one of them"
    return {"duration": sentence}
