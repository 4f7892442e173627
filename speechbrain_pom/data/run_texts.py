"""A column of strings that begin alike in runs: paths by folder, speakers one after the other.

Millions of paths repeat the folder of their neighbours: it is held once for a run of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from speechbrain_pom.data.texts import Chunk, Texts, compact


class RunTexts:
    """Strings as beginnings, one for each run of rows that share it, and ends, one for each row.

    Arguments
    ---------
    parts : iterable of Texts
        The strings; runs end where a part ends.
    separator : str, optional
        One ASCII character, after whose last occurrence a string's own end begins. By default
        whole strings are repeated, and ends are empty.

    Example
    -------
    >>> paths = ["$data_root/a/1.flac", "$data_root/a/2.flac", "$data_root/b/1.flac"]
    >>> texts = RunTexts([Texts.of(paths)], "/")
    >>> texts.num_runs, texts[1], list(texts) == paths
    (2, '$data_root/a/2.flac', True)
    >>> texts.take(np.array([2, 0]))
    ['$data_root/b/1.flac', '$data_root/a/1.flac']
    """

    def __init__(self, parts: Iterable[Texts], separator: str | None = None) -> None:
        beginnings, ends, starts, num_rows = [], [], [], 0
        for chunk in (chunk for part in parts for chunk in part.chunks):
            beginning, end = _split(chunk, separator)
            first = Texts([beginning]).run_starts
            beginnings.append(_rows(beginning, first))
            ends.append(end)
            starts.append(num_rows + first)
            num_rows += len(chunk.offsets) - 1
        self._beginnings, self._ends = Texts(beginnings), Texts(ends)
        starts = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        self._starts = starts.astype(np.int32) if num_rows < 2**31 else starts

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"string {index} of {size}")
        index = index % size
        run = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._beginnings[run] + self._ends[index]

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    @property
    def num_runs(self) -> int:
        """How many beginnings are held."""
        return len(self._starts)

    @property
    def num_bytes(self) -> int:
        """Memory of the characters, and of where they begin."""
        return self._beginnings.num_bytes + self._ends.num_bytes + self._starts.nbytes

    @property
    def lengths(self) -> np.ndarray:
        """(num_strings,) bytes of each string."""
        runs = np.diff(self._starts, append=len(self))
        return np.repeat(self._beginnings.lengths, runs) + self._ends.lengths

    def take(self, positions: np.ndarray) -> Texts:
        """Some of the strings."""
        return Texts.of(map(self.__getitem__, positions.tolist()))


def _split(chunk: Chunk, separator: str | None) -> tuple[Chunk, Chunk]:
    """The strings up to their last separator, or as a whole, and what is left of them."""
    data, offsets = chunk
    starts, stops = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    if separator is None:
        cuts = stops
    else:
        found = np.append(-1, np.flatnonzero(data == ord(separator)))
        cuts = np.maximum(found[np.searchsorted(found, stops) - 1] + 1, starts)
    sizes = cuts - starts, stops - cuts
    in_beginning = np.repeat(np.tile([True, False], len(starts)), np.stack(sizes, 1).ravel())
    return _chunk(data[in_beginning], sizes[0]), _chunk(data[~in_beginning], sizes[1])


def _rows(chunk: Chunk, rows: np.ndarray) -> Chunk:
    """Some of the strings, in their order."""
    sizes, chosen = np.diff(chunk.offsets), np.zeros(len(chunk.offsets) - 1, dtype=bool)
    chosen[rows] = True
    return _chunk(chunk.data[np.repeat(chosen, sizes)], sizes[rows])


def _chunk(data, sizes):
    return compact(data, np.append(0, np.cumsum(sizes, dtype=np.int64)))
