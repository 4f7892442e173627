"""Parquet indexes: manifests of millions of utterances, by column, checked when they are written.

An index has the columns of a manifest (`ID`, `duration` in seconds, `num_samples` at 16 kHz, `wav`,
`spk_id`, `wrd`), or `shard`, `offset` and `bytes` in place of `wav` where the audio is packed
(`speechbrain_pom.data.shards`). Its rows are sorted by ID, and each ID is there once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from speechbrain_pom.data.audio.files import SAMPLE_RATE
from speechbrain_pom.data.run_texts import RunTexts
from speechbrain_pom.data.shards import PackedTable
from speechbrain_pom.data.table import Column, Seconds, Table, read_csv
from speechbrain_pom.data.texts import Texts, compact
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import publish_file, temporary_beside

if TYPE_CHECKING:
    import pyarrow

INDEX_FILE = "index.parquet"
NOT_LOADED = ("sha256",)
"""Columns of an index that training has no use for."""

IN_RUNS = {"wav": "/", "spk_id": None}
"""Columns whose neighbours begin alike, and up to which character."""

_VERSION = 1
_KEY = b"speechbrain_pom"
_ROWS_PER_GROUP = 2**19


def import_pyarrow() -> Any:
    """The modules `pyarrow` and `pyarrow.parquet`, or a `UserError` that says how to get them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "Parquet indexes need pyarrow: pip install 'speechbrain-pom[scale]'"
        ) from None
    return pyarrow


def is_index(path: str | Path) -> bool:
    """Whether a manifest is a Parquet index by its name, or a folder with one.

    >>> is_index("train.parquet"), is_index("train.csv")
    (True, False)
    """
    return str(path).endswith(".parquet") or (Path(path) / INDEX_FILE).is_file()


def read_table(path: str | Path, data_folder: str | Path | None = None) -> Table:
    """Read a manifest, CSV or Parquet; `data_folder` is what `$data_root` stands for."""
    if is_index(path):
        return read_index(path, data_folder)
    return read_csv(path, {"data_root": str(data_folder)})


def write_index(
    path: str | Path, columns: pyarrow.Table | Mapping[str, Any], facts: Mapping | None = None
) -> Path:
    """Write an index in one step, sorted by ID.

    Arguments
    ---------
    path : str or pathlib.Path
        Ends in `.parquet`.
    columns : pyarrow.Table or dict of str to list
        With `ID`, `duration` and `num_samples`.
    facts : dict, optional
        What else is recorded in the file, as JSON takes it.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UserError
        If a column is missing, an ID is empty or occurs twice, or a length is not above 0.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.parquet"
    >>> rows = {"ID": ["u2", "u1"], "duration": [2.0, 1.0], "num_samples": [32000, 16000]}
    >>> list(read_index(write_index(path, rows | {"wav": ["b.flac", "a.flac"]})))
    ['u1', 'u2']
    """
    pa, path = import_pyarrow(), Path(path)
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    for name in ("ID", "duration", "num_samples"):
        if name not in table.column_names:
            raise UserError(f"an index needs the column {name}: it has {table.column_names}")
    wide = {pa.string(): pa.large_string()}  # sorting joins the chunks of a column
    table = table.cast(
        pa.schema([(field.name, wide.get(field.type, field.type)) for field in table.schema])
    )
    if not _texts(table["ID"]).is_increasing:
        table = table.sort_by("ID")
    _check(table)
    facts = {"version": _VERSION, "ids": "sorted, each once", **(facts or {})}
    if (table["duration"].to_numpy() == table["num_samples"].to_numpy() / SAMPLE_RATE).all():
        facts["sample_rate"] = SAMPLE_RATE  # durations need not be read
    record = json.dumps(facts)
    table = table.replace_schema_metadata({_KEY: record.encode()})
    temporary = temporary_beside(path, "part")
    pa.parquet.write_table(
        table, temporary, compression="zstd", row_group_size=_ROWS_PER_GROUP, use_dictionary=False
    )
    publish_file(temporary, path)
    return path


def rewrite_index(
    source: Path, target: Path, facts: Mapping[str, Any], chosen: np.ndarray | None = None
) -> Path:
    """Write some rows of an index as another one, with more facts."""
    kept = read_facts(source) | dict(facts)
    with _opened(source) as file:
        table = file.read()
    if chosen is not None:
        table = table.filter(import_pyarrow().array(chosen))
    return write_index(target, table, kept)


def _check(table):
    ids = _texts(table["ID"])
    if len(ids) and ids[0] == "":
        raise UserError("an index has a row without an ID: give each utterance one")
    repeated = ids.first_repeated()
    if repeated is not None:
        raise UserError(f"an index has the ID '{repeated}' twice: IDs must be unique")
    for name in ("duration", "num_samples"):
        values = table[name].to_numpy()
        wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(wrong):
            raise UserError(
                f"utterance '{ids[wrong[0]]}' has {name} {values[wrong[0]]}: leave it out of the "
                "index"
            )


def read_facts(path: str | Path) -> dict[str, Any]:
    """What an index records of itself.

    Raises
    ------
    UserError
        If it is no index of `write_index`.
    """
    with _opened(path) as file:
        record = (file.schema_arrow.metadata or {}).get(_KEY)
    facts = json.loads(record) if record else {}
    if facts.get("version") != _VERSION:
        raise UserError(
            f"'{path}' is no index: make one with python -m speechbrain_pom pack, or write_index"
        )
    return facts


def _opened(path):
    pa, path = import_pyarrow(), _file(path)
    try:
        return pa.parquet.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"index '{path}' cannot be read ({error}): pack the data again") from None


def _file(path):
    path = Path(path)
    return path / INDEX_FILE if path.is_dir() else path


def read_index(path: str | Path, data_folder: str | Path | None = None) -> Table:
    """Read an index into columns, without an object per row.

    Arguments
    ---------
    path : str or pathlib.Path
        An index, or a folder with one.
    data_folder : str or pathlib.Path, optional
        What `$data_root` stands for in paths of audio; by default the folder of the index.

    Returns
    -------
    Table
        A `PackedTable` if the audio is in shards; these are in the folder of the index, or where
        it says.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    facts = read_facts(path)
    with _opened(path) as file:
        names = [name for name in file.schema_arrow.names if name not in NOT_LOADED]
        sample_rate = facts.get("sample_rate")
        read = {n: _read_column(file, n) for n in names if n != "duration" or not sample_rate}
    if sample_rate:
        read["duration"] = Seconds(read["num_samples"], sample_rate)
    columns = {name: read[name] for name in names}
    del read
    import_pyarrow().default_memory_pool().release_unused()
    root = str(_file(path).parent if data_folder is None else data_folder)
    ids = columns.pop("ID").trust_order()  # checked when it was written
    table = Table(ids, columns, {"data_root": root})
    if "shard" in columns:
        table = PackedTable(table, facts.get("root", _file(path).parent))
    return table


def _read_column(file, name) -> Column:
    """A column, a row group at a time: what is decoded is not held twice."""
    parts = (
        file.read_row_group(group, columns=[name]).column(0) for group in range(file.num_row_groups)
    )
    if _is_text(file.schema_arrow.field(name).type):
        texts = map(_texts, parts)
        if name in IN_RUNS:
            return RunTexts(texts, IN_RUNS[name])
        return Texts([chunk for part in texts for chunk in part.chunks])
    parts = [part.to_numpy() for part in parts] or [np.zeros(0)]
    lowest = min(part.min(initial=0) for part in parts)
    highest = max(part.max(initial=0) for part in parts)
    small = parts[0].dtype.kind == "i" and lowest >= -(2**31) and highest < 2**31
    dtype = np.int32 if small else parts[0].dtype
    whole, start = np.empty(sum(map(len, parts)), dtype=dtype), 0
    for number, part in enumerate(parts):
        whole[start : start + len(part)] = part
        start += len(part)
        parts[number] = None
    return whole


def _is_text(kind):
    return str(kind) in ("string", "large_string")


def _texts(column) -> Texts:
    """A column of Arrow as `Texts`: its own bytes and offsets, without what is around them."""
    chunks = []
    for array in column.chunks:
        if array.null_count:
            array = array.fill_null("")
        wide = str(array.type) == "large_string"
        _, offsets, data = array.buffers()
        offsets = np.frombuffer(offsets, dtype=np.int64 if wide else np.int32)
        offsets = offsets[array.offset : array.offset + len(array) + 1]
        data = np.frombuffer(data or b"", dtype=np.uint8)[offsets[0] : offsets[-1]].copy()
        chunks.append(compact(data, offsets - offsets[0]))
    return Texts(chunks)
