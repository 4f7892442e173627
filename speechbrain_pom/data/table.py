"""Manifests as tables: one array per column, and rows that are made when they are asked for."""

from __future__ import annotations

import copy
import csv
import re
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from speechbrain_pom.data.run_texts import RunTexts
from speechbrain_pom.data.texts import Texts
from speechbrain_pom.utils.errors import UserError

Column: TypeAlias = "np.ndarray | Texts | RunTexts | Seconds"
"""Numbers, or strings."""

_ROWS = 2**16  # of a CSV file, read at a time
_NUMBERS = {"duration": float, "num_samples": int}
_PLACEHOLDER = re.compile(r"\$([\w.]+)")  # as SpeechBrain finds them


class Seconds:
    """Durations that are numbers of samples over their rate, computed when they are asked for.

    Arguments
    ---------
    num_samples : numpy.ndarray
        (num_rows,) integers.
    sample_rate : int
        In Hz.

    Example
    -------
    >>> Seconds(np.array([8000, 16000]), 16000)[1].item()
    1.0
    """

    def __init__(self, num_samples: np.ndarray, sample_rate: int) -> None:
        self._num_samples, self._sample_rate = num_samples, sample_rate

    def __getitem__(self, place: int | slice | np.ndarray) -> np.ndarray:
        return self._num_samples[place] / self._sample_rate

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The durations of some rows."""
        return self[positions]


class Table(Mapping[str, dict]):
    """The rows of a manifest by their IDs, as SpeechBrain's datasets take them.

    Arguments
    ---------
    ids : Texts
        Each once.
    columns : dict of str to (numpy.ndarray, Texts or RunTexts)
        By name, one value per ID.
    replacements : dict of str to str, optional
        What `$name` stands for in strings.
    positions : numpy.ndarray, optional
        The rows of `columns` that belong to the IDs; by default all.

    Example
    -------
    >>> columns = {"duration": np.array([0.5, 2.0]), "wav": Texts.of(["$data_root/a", "b"])}
    >>> table = Table(Texts.of(["u1", "u2"]), columns, {"data_root": "/data"})
    >>> table["u1"], list(table.select(table.column("duration") > 1))
    ({'duration': 0.5, 'wav': '/data/a'}, ['u2'])
    """

    def __init__(
        self,
        ids: Texts,
        columns: Mapping[str, Column],
        replacements: Mapping[str, str] | None = None,
        positions: np.ndarray | None = None,
    ) -> None:
        self.ids = ids
        self._columns = dict(columns)
        self._replacements = dict(replacements or {})
        self._positions = positions

    @property
    def names(self) -> list[str]:
        """Names of the columns, without that of the IDs."""
        return list(self._columns)

    def column(self, name: str) -> np.ndarray | Texts | RunTexts:
        """A column, with placeholders as they are."""
        column = self._columns[name]
        if self._positions is None:
            return column[:] if isinstance(column, Seconds) else column
        return column.take(self._positions)

    def row(self, index: int) -> dict[str, Any]:
        """The columns of a row, by its number."""
        if self._positions is not None:
            index = self._positions[index]
        return {name: self._value(column, index) for name, column in self._columns.items()}

    def select(self, chosen: np.ndarray) -> Table:
        """The rows for which a mask is true, without a copy of their columns."""
        if chosen.all():
            return self
        kept = np.flatnonzero(chosen)
        if len(chosen) < 2**31:
            kept = kept.astype(np.int32)
        chosen = copy.copy(self)
        chosen.ids = self.ids.take(kept)
        chosen._positions = kept if self._positions is None else self._positions[kept]
        return chosen

    def __len__(self) -> int:
        return len(self.ids)

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self.row(self.ids.find(key))

    def values(self) -> ValuesView:
        """The rows in their order."""
        return _Values(self)

    def items(self) -> ItemsView:
        """The IDs and rows in their order."""
        return _Items(self)

    def _value(self, column, index):
        value = column[index]
        if not isinstance(value, str):
            return value.item()
        if "$" not in value:
            return value
        return _PLACEHOLDER.sub(lambda found: self._replacements[found[1]], value)


class _Values(ValuesView):
    def __iter__(self):
        return map(self._mapping.row, range(len(self._mapping)))


class _Items(ItemsView):
    def __iter__(self):
        return zip(self._mapping.ids, self._mapping.values(), strict=True)


def read_csv(
    path: str | Path,
    replacements: Mapping[str, str] | None = None,
    id_column: str = "ID",
) -> Table:
    """Read a CSV manifest as SpeechBrain's `load_data_csv` does, into columns.

    `duration` and `num_samples` are numbers, everything else strings.

    Arguments
    ---------
    path : str or pathlib.Path
        Its first line names the columns, `ID` among them.
    replacements : dict of str to str, optional
        What `$name` stands for.
    id_column : str
        Name of the column with the IDs.

    Returns
    -------
    Table

    Raises
    ------
    UserError
        If the file is no manifest, or an ID occurs twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> _ = path.write_text("ID,duration,wav\\nu1,0.5,$data_root/a.flac\\n")
    >>> read_csv(path, {"data_root": "/data"})["u1"]
    {'duration': 0.5, 'wav': '/data/a.flac'}
    """
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.reader(file, skipinitialspace=True)
        names = next(reader, [])
        if id_column not in names or len(set(names)) < len(names):
            raise UserError(
                f"'{path}' is no manifest: its first line must name each column once, "
                f"{id_column} among them (it has {', '.join(names) or 'nothing'})"
            )
        parts = {name: [] for name in names}
        rows = filter(None, reader)  # without empty lines
        while block := list(islice(rows, _ROWS)):
            for name, values in zip(names, _columns(block, names, path), strict=True):
                parts[name].append(_parse(name, values, path))
                _check_placeholders(values, replacements or {}, path)
    columns = {name: _joined(name, found) for name, found in parts.items()}
    ids = columns.pop(id_column)
    repeated = ids.first_repeated()
    if repeated is not None:
        raise UserError(f"'{path}' has the ID '{repeated}' twice: keep one row")
    return Table(ids, columns, replacements)


def _columns(block, names, path):
    try:
        columns = list(zip(*block, strict=True))
    except ValueError:  # rows of different lengths
        columns = []
    if len(columns) != len(names):
        row = next(row for row in block if len(row) != len(names))
        raise UserError(
            f"'{path}' has a row of {len(row)} values for {len(names)} columns ({row[0]}): correct "
            "it"
        )
    return columns


def _parse(name, values, path):
    kind = _NUMBERS.get(name)
    if kind is None:
        return Texts.of(values)
    try:
        return np.array(list(map(kind, values)))
    except ValueError as error:
        raise UserError(f"'{path}', column {name}: {error}: prepare it again") from None


def _joined(name, parts):
    if name in _NUMBERS:
        return np.concatenate(parts) if parts else np.zeros(0, _NUMBERS[name])
    return Texts([chunk for part in parts for chunk in part.chunks])


def _check_placeholders(values, replacements, path):
    """Refuse placeholders that stand for nothing, before the first row is used."""
    if "$" not in "".join(values):
        return
    for value in values:
        unknown = set(_PLACEHOLDER.findall(value)) - set(replacements)
        if unknown:
            raise UserError(
                f"'{path}' holds '{value}', where ${min(unknown)} stands for nothing: write it out"
            )
