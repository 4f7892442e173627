"""Parquet indexes as the data of a recipe: taken as they are, and recognised by their hash.

Nothing is listed or looked at again, at the first start or later: the index was checked when it was
written. A run that is resumed must find the index that it was begun with.
"""

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from speechbrain_pom.data.audio_folder import check_share, choose_valid
from speechbrain_pom.data.csv_manifest import CsvSource
from speechbrain_pom.data.index import (
    INDEX_FILE,
    is_index,
    read_facts,
    read_index,
    rewrite_index,
)
from speechbrain_pom.data.shards import open_store
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of, write_atomically

logger = logging.getLogger(__name__)


def index_of(sources: Sequence[CsvSource], data_folder: str | Path | None) -> Path | None:
    """The index that the sources of a part name, or None if they are CSV files.

    >>> index_of([CsvSource("a.csv", ())], None) is None
    True
    """
    paths = [Path(data_folder or "", source.path) for source in sources]
    if not any(map(is_index, paths)):
        return None
    if len(sources) > 1 or sources[0].wanted:
        raise UserError(
            f"{', '.join(str(source.path) for source in sources)}: an index stands alone, without "
            "a filter: pack what belongs together into one"
        )
    path = paths[0] / INDEX_FILE if paths[0].is_dir() else paths[0]
    if not path.is_file():
        raise UserError(f"no such index: '{path}': check the path, or pack the data first")
    return Path(os.path.abspath(path))


def prepare_index(
    name: str,
    index: Path,
    manifest_folder: str | Path,
    *,
    need_transcripts: bool = False,
    need_labels: bool = False,
    resumes: bool = False,
) -> Path:
    """Check that a part of the data can be an index, and record which one it is.

    Arguments
    ---------
    name : str
        Of the part, such as `train`.
    index : pathlib.Path
    manifest_folder : str or pathlib.Path
        Where `NAME.json` records its hash; made if needed.
    need_transcripts, need_labels : bool
        Whether each row must have a transcript, and whether there must be a column `label`.
    resumes : bool
        Whether the index must be the one that was recorded before.

    Returns
    -------
    pathlib.Path
        The index.

    Raises
    ------
    UserError
        If it lacks what is needed, or is another one than before.
    """
    record = Path(manifest_folder) / f"{name}.json"
    digest = sha256_of(index)
    known = _recorded(record)
    if known == {"sha256": digest, "transcripts": need_transcripts, "labels": need_labels}:
        logger.info("%s: '%s' is unchanged", name, index)
        return index
    if resumes and known.get("sha256") not in (None, digest):
        raise UserError(_changed(index))
    table = read_index(index)
    _check_rows(name, index, table, need_transcripts, need_labels)
    record.parent.mkdir(parents=True, exist_ok=True)
    found = {"sha256": digest, "transcripts": need_transcripts, "labels": need_labels}
    hours = float(table.column("duration").sum()) / 3600
    totals = {"index": str(index), "kept_utterances": len(table), "kept_h": hours}
    write_atomically(record, json.dumps(found | totals, indent=1) + "\n")
    logger.info("%s: %d utterances (%.3f h) in '%s'", name, len(table), hours, index)
    return index


def has_index(folder: str | Path) -> bool:
    """Whether a folder, or a URL, has an index.

    >>> has_index(getfixture("tmp_path"))
    False
    """
    if "://" in str(folder):
        return open_store(str(folder)).exists(f"{folder}/{INDEX_FILE}")
    return (Path(folder) / INDEX_FILE).is_file()


def fetch_index(folder: str | Path, copy: Path) -> Path:
    """The index of packed audio; one behind a URL is copied, and remembers where its shards are.

    Raises
    ------
    UserError
        If there is none.
    """
    if not has_index(folder):
        raise UserError(
            f"'{folder}' has no {INDEX_FILE}: pack the data with python -m speechbrain_pom pack"
        )
    if "://" not in str(folder):
        return Path(os.path.abspath(folder)) / INDEX_FILE
    content = open_store(str(folder)).cat_file(f"{folder}/{INDEX_FILE}")
    copy.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(copy, content)
    return rewrite_index(copy, copy, {"root": str(folder)})


def divide_index(
    folder: str | Path, manifest_folder: Path, valid_share: float, *, resumes: bool = False
) -> dict[str, Path]:
    """Indexes of training and validation, `train.parquet` and `valid.parquet`, from one of both.

    Which utterances are for validation depends on their IDs alone, as in `prepare_audio_folder`.
    Nothing is done while the index is unchanged.
    """
    check_share(valid_share)
    manifest_folder.mkdir(parents=True, exist_ok=True)
    index = fetch_index(folder, manifest_folder / "all.parquet")
    paths = {name: manifest_folder / f"{name}.parquet" for name in ("train", "valid")}
    record, digest = manifest_folder / "all.json", sha256_of(index)
    source = {"sha256": digest, "valid_share": valid_share, "root": str(folder)}
    known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if known == source and all(path.is_file() for path in paths.values()):
        logger.info("'%s' is unchanged", index)
        return paths
    if resumes and known.get("sha256") not in (None, digest):
        raise UserError(_changed(index))
    ids = read_index(index).ids
    root = read_facts(index).get("root", os.path.abspath(folder))
    valid = choose_valid(ids, valid_share)
    for name, chosen in (("train", ~valid), ("valid", valid)):
        rewrite_index(index, paths[name], {"root": root}, chosen)
    write_atomically(record, json.dumps(source, indent=1) + "\n")
    return paths


def _changed(index):
    return (
        f"'{index}' is not the index that this run was begun with: put that one back, choose "
        "another --output_folder, or continue with the new data by --resume_anyway True"
    )


def _recorded(record):
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
        return {key: known[key] for key in ("sha256", "transcripts", "labels")}
    except (OSError, ValueError, KeyError, TypeError):  # the first start, or of another preparation
        return {}


def _check_rows(name, index, table, need_transcripts, need_labels):
    for needed, column in ((need_transcripts, "wrd"), (need_labels, "label")):
        if not needed:
            continue
        lengths = table.column(column).lengths if column in table.names else np.zeros(len(table))
        empty = np.flatnonzero(lengths == 0)
        if len(empty):
            raise UserError(
                f"{name}: {len(empty)} of {len(table)} utterances in '{index}' have no {column}, "
                f"{table.ids[empty[0]]} among them: pack the data again with it"
            )
