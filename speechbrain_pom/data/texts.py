"""A column of strings in the memory of their characters: bytes and offsets, no object per row.

The layout is Arrow's: chunks of UTF-8 bytes with the offsets of each string in them. Millions of
Python strings would take 50 bytes more each, and a forked process that only reads them would copy
their pages, since reading counts references in them.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

_CHUNK = 2**16  # strings
_BLOCK = 2**24  # bytes that are compared at a time


class Chunk(NamedTuple):
    """Some strings of a column.

    Arguments
    ---------
    data : numpy.ndarray
        (num_bytes,) uint8, UTF-8.
    offsets : numpy.ndarray
        (num_strings + 1,) integers: where each string begins, and where the last one ends.
    """

    data: np.ndarray
    offsets: np.ndarray


class Texts(Sequence[str]):
    """Strings that can be indexed, compared with lists, and put in order.

    UTF-8 sorts as Python sorts strings: by code points.

    Arguments
    ---------
    chunks : list of Chunk
    positions : numpy.ndarray, optional
        Which strings of the chunks these are, and in which order; by default all.

    Example
    -------
    >>> texts = Texts.of(["b", "", "äö"])
    >>> texts[2], len(texts), texts == ["b", "", "äö"], texts.is_increasing
    ('äö', 3, True, False)
    >>> texts.take(np.array([1, 0])) == ["", "b"]
    True
    """

    def __init__(self, chunks: list[Chunk], positions: np.ndarray | None = None) -> None:
        self._chunks = chunks
        sizes = [len(chunk.offsets) - 1 for chunk in chunks]
        self._starts = np.cumsum([0, *sizes]).tolist()
        self._positions = positions
        self._increasing: bool | None = None
        self._order: np.ndarray | None = None

    @classmethod
    def of(cls, strings: Iterable[str]) -> Texts:
        """Take over strings; a `Texts` is returned as it is."""
        if isinstance(strings, cls):
            return strings
        strings = iter(strings)
        return cls([_chunk(part) for part in iter(lambda: list(islice(strings, _CHUNK)), [])])

    def __len__(self) -> int:
        return self._starts[-1] if self._positions is None else len(self._positions)

    def __getitem__(self, index: int) -> str:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"string {index} of {size}")
        index = index % size
        if self._positions is not None:
            index = self._positions[index]
        number = bisect_right(self._starts, index) - 1
        data, offsets = self._chunks[number]
        place = index - self._starts[number]
        return _decode(data[offsets[place] : offsets[place + 1]].tobytes())

    def __iter__(self) -> Iterator[str]:
        if self._positions is not None:
            yield from map(self.__getitem__, range(len(self)))
            return
        for data, offsets in self._chunks:
            whole, places = data.tobytes(), offsets.tolist()
            for start, stop in pairwise(places):
                yield _decode(whole[start:stop])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None

    def __repr__(self) -> str:
        return repr(list(self)) if len(self) <= 20 else f"<{len(self)} strings>"

    @property
    def chunks(self) -> list[Chunk]:
        """The strings in chunks, as long as none has been left out."""
        return self._chunks if self._positions is None else Texts.of(iter(self)).chunks

    @property
    def num_bytes(self) -> int:
        """Memory of the characters and their offsets."""
        arrays = [array for chunk in self._chunks for array in chunk if array.strides != (0,)]
        return sum(array.nbytes for array in arrays)

    @property
    def lengths(self) -> np.ndarray:
        """(num_strings,) bytes of each string."""
        found = [np.diff(chunk.offsets) for chunk in self._chunks] or [np.zeros(0, np.int32)]
        lengths = np.concatenate(found)
        return lengths if self._positions is None else lengths[self._positions]

    def take(self, positions: np.ndarray) -> Texts:
        """Some of the strings, which share their memory with these."""
        inner = positions if self._positions is None else self._positions[positions]
        taken = Texts(self._chunks, inner)
        if self._increasing and bool((np.diff(positions) > 0).all()):
            taken.trust_order()
        return taken

    def trust_order(self) -> Texts:
        """Take it for granted that each string is greater than the one before."""
        self._increasing = True
        return self

    @property
    def is_increasing(self) -> bool:
        """Whether each string is greater than the one before: sorted, each once."""
        if self._increasing is None:
            last, self._increasing = None, True
            for block in self._blocks():
                first = block[:1] if last is None else np.concatenate([last, block[:1]])
                if not ((first[1:] > first[:-1]).all() and (block[1:] > block[:-1]).all()):
                    self._increasing = False
                    break
                last = block[-1:]
        return self._increasing

    @property
    def run_starts(self) -> np.ndarray:
        """(num_runs,) positions of strings that are not equal to the one before, the first too."""
        starts, size, last = [], 0, None
        for block in self._blocks():
            before = np.concatenate([block[:1] if last is None else last, block[:-1]])
            is_new = block != before
            is_new[0] |= last is None
            starts.append(size + np.flatnonzero(is_new))
            size, last = size + len(block), block[-1:]
        starts = np.concatenate(starts) if starts else np.zeros(0, np.int64)
        lengths = self.lengths  # blocks do not tell "a" from "a\0"
        longer = 1 + np.flatnonzero(lengths[1:] != lengths[:-1])
        return np.union1d(starts, longer)

    @property
    def order(self) -> np.ndarray:
        """(num_strings,) positions of the strings in sorted order, equal ones as they come."""
        if self.is_increasing:
            return np.arange(len(self))
        if self._order is None:
            self._order = np.argsort(self._bytes(), kind="stable")
        return self._order

    def first_repeated(self) -> str | None:
        """The smallest string that occurs twice, or None."""
        if self.is_increasing:
            return None
        in_order = self._bytes()[self.order]
        for place in np.flatnonzero(in_order[1:] == in_order[:-1]):
            first, second = (self[self.order[i]] for i in (place, place + 1))
            if first == second:
                return first
        return None

    def find(self, text: str) -> int:
        """The position of a string, of which there is one.

        Raises
        ------
        KeyError
            If it is not there.
        """
        if self.is_increasing:
            place = bisect_left(self, text)
        else:
            place = bisect_left(range(len(self)), text, key=lambda i: self[self.order[i]])
            place = int(self.order[place]) if place < len(self) else place
        if place == len(self) or self[place] != text:
            raise KeyError(text)
        return place

    def _bytes(self):
        return np.concatenate(list(self._blocks()))

    def _blocks(self):
        """Yield the strings as arrays of bytes, in order."""
        if self._positions is not None:
            yield from Texts.of(iter(self))._blocks()
            return
        for data, offsets in self._chunks:
            start, size = 0, len(offsets) - 1
            while start < size:
                longest = max(int(np.diff(offsets[start : start + _CHUNK]).max(initial=0)), 1)
                stop = min(size, start + min(_CHUNK - 1, max(1, _BLOCK // longest)))
                yield _padded(data, offsets[start : stop + 1])
                start = stop


def _chunk(strings):
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    return compact(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)


def compact(data: np.ndarray, offsets: np.ndarray) -> Chunk:
    """A chunk that takes no more memory than it must: nothing for strings that are all empty.

    >>> compact(np.zeros(0, np.uint8), np.zeros(9, np.int64)).offsets.strides
    (0,)
    """
    if offsets[-1] == offsets[0]:
        return Chunk(np.zeros(0, np.uint8), np.broadcast_to(np.int32(0), len(offsets)))
    small = offsets[-1] < 2**31
    return Chunk(data, offsets.astype(np.int32) if small else offsets)


def _decode(text):
    return text.decode("utf-8", "surrogatepass")


def _padded(data, offsets):
    """Strings as an array of bytes of one width, whose comparisons are those of the strings."""
    lengths = np.diff(offsets)
    width = max(int(lengths.max(initial=0)), 1)
    block = np.zeros((len(lengths), width), dtype=np.uint8)
    block[np.arange(width) < lengths[:, None]] = data[offsets[0] : offsets[-1]]
    return block.view(f"S{width}")[:, 0]
