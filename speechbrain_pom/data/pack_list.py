"""What is packed: the list of a source's audio, made once, in the order of the shards."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from speechbrain_pom.data.audio_folder import scan_folder, utterance_id
from speechbrain_pom.data.chapters import read_transcripts, scan_split
from speechbrain_pom.data.csv_manifest import COLUMN_NAMES, CsvSource, parse_source
from speechbrain_pom.data.layout import check_is_folder, check_splits, find_splits
from speechbrain_pom.data.shards import shard_name
from speechbrain_pom.data.table import Table, read_csv
from speechbrain_pom.data.texts import Texts
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.seeding import derive_seed

COLUMNS = ("ID", "path", "spk_id", "wrd", "label")
"""What is listed of an utterance."""

_BLOCK = 2**16
_MOST_IN_SHARD = 50_000  # utterances, however small


class Item(NamedTuple):
    """An utterance to be packed; its path is absolute."""

    ID: str
    path: str
    spk_id: str = ""
    wrd: str = ""
    label: str = ""


def list_source(source: str | Path, splits: Sequence[str] | None = None) -> Iterator[Item]:
    """The utterances of a source, in any order.

    Arguments
    ---------
    source : str or pathlib.Path
        A folder in LibriSpeech's layout or with audio at any depth, or a CSV manifest, which may
        have a filter (`own.csv?split=train`) and starts relative paths in its own folder.
    splits : sequence of str, optional
        Folders of LibriSpeech's layout; by default all.

    Raises
    ------
    UserError
        If there is nothing of the kind.
    """
    if str(source).partition("?")[0].endswith(".csv"):
        if splits:
            raise UserError(f"--splits are for folders, and '{source}' is a CSV file: leave it out")
        return _of_csv(parse_source(str(source)))
    folder = Path(os.path.abspath(source))
    check_is_folder(folder, "a folder of audio, or a CSV file")
    splits = check_splits(list(splits)) if splits else find_splits(folder)
    return _of_layout(folder, splits) if splits else _of_folder(folder)


def _of_csv(source: CsvSource) -> Iterator[Item]:
    path = Path(source.path)
    if not path.is_file():
        raise UserError(f"no such CSV file: '{path}': check the path")
    with open(path, encoding="utf-8") as stream:
        present = [name.strip() for name in stream.readline().strip().split(",")]
    id_column = next((name for name in COLUMN_NAMES["ID"] if name in present), "ID")
    root = os.path.abspath(path.parent)
    table = read_csv(path, {"data_root": root}, id_column)
    names = {
        ours: next((name for name in theirs if name in table.names), None)
        for ours, theirs in COLUMN_NAMES.items()
    }
    if names["wav"] is None:
        raise UserError(f"'{path}' has no column wav or path: its first line must name it")
    yield from _rows(source, table, names, root)


def _rows(source, table: Table, names, root):
    for column, _ in source.wanted:
        if column not in table.names:
            raise UserError(f"'{source.path}' has no column '{column}', by which rows are chosen")
    for number, row in enumerate(table.values()):
        if all(row[column] == value for column, value in source.wanted):
            texts = {ours: row[theirs] for ours, theirs in names.items() if theirs}
            path = os.path.join(root, texts["wav"])
            rest = [texts.get(name, "").strip() for name in COLUMNS[2:]]
            yield Item(table.ids[number], path, *rest)


def _of_folder(folder: Path) -> Iterator[Item]:
    for file in scan_folder(folder).files:
        yield Item(utterance_id(file), os.path.join(folder, file))


def _of_layout(folder: Path, splits) -> Iterator[Item]:
    for split in splits:
        for chapter in scan_split(folder, split).chapters:
            texts, _ = read_transcripts(str(folder), chapter)
            speaker = chapter.folder.split("/")[-2]
            for name in chapter.audio:
                utterance = name.removesuffix(".flac")
                words = texts.get(utterance, [""])
                path = os.path.join(folder, chapter.folder, name)
                yield Item(utterance, path, speaker, words[0] if len(words) == 1 else "")


def freeze_list(folder: Path, items: Iterator[Item], shard_bytes: int) -> int:
    """Write what goes into each shard, `shard-000012.list.json`; the number of shards.

    The order is a pseudo-random function of the IDs: each shard is a sample of all.

    Raises
    ------
    UserError
        If an ID occurs twice, or nothing is listed.
    """
    parts: dict[str, list[Texts]] = {name: [] for name in COLUMNS}
    while block := list(islice(items, _BLOCK)):
        for name, values in zip(COLUMNS, zip(*block, strict=True), strict=True):
            parts[name].append(Texts.of(values))
    columns = {
        name: Texts([chunk for texts in found for chunk in texts.chunks])
        for name, found in parts.items()
    }
    ids = columns["ID"]
    if not len(ids):
        raise UserError("there is nothing to pack: give a source with audio")
    repeated = ids.first_repeated()
    if repeated is not None:
        raise UserError(f"the ID '{repeated}' occurs twice in the source: IDs must be unique")
    order = np.argsort(np.fromiter(map(_position, ids), np.int64, len(ids)), kind="stable")
    sizes = np.fromiter(map(_size, columns["path"]), np.int64, len(ids))[order]
    sizes = np.maximum(sizes, shard_bytes // _MOST_IN_SHARD)
    shards = (np.cumsum(sizes) - sizes) // shard_bytes
    starts = np.flatnonzero(np.diff(shards, prepend=-1))
    for shard, rows in enumerate(np.split(order, starts[1:])):
        listed = [{name: columns[name][row] for name in COLUMNS} for row in rows]
        write_atomically(list_file(folder, shard), json.dumps(listed) + "\n")
    return len(starts)


def list_file(folder: Path, shard: int) -> Path:
    """Where it says what goes into a shard."""
    return folder / f"{Path(shard_name(shard)).stem}.list.json"


def _position(utterance):
    return derive_seed("shard", utterance)


def _size(path):
    try:
        return os.stat(path).st_size
    except OSError:  # reading it names the problem
        return 0
