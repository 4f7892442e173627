"""Audio packed in tar files: each utterance is read where it lies, locally or from an object store.

The tars are uncompressed WebDataset shards, and an index says where each utterance is in them, so
that any order of the data can be read: `os.pread` of a local file, or a request for ranges of
bytes through fsspec (s3://, gs://, hf://, http://, ...), all those of a batch at once.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from speechbrain_pom.data.table import Table
from speechbrain_pom.utils.errors import UserError

ATTEMPTS = 6
"""How often a range of bytes is asked for before a run ends."""

_FIRST_WAIT_S = 0.25  # doubled each time
_MAX_OPEN = 64  # files
_COLUMNS = ("shard", "offset", "bytes")

logger = logging.getLogger(__name__)


def shard_name(number: int) -> str:
    """The file of a shard.

    >>> shard_name(12)
    'shard-000012.tar'
    """
    return f"shard-{number:06d}.tar"


class PackedAudio:
    """An audio file inside of a shard.

    Arguments
    ---------
    reader : ShardReader
    shard : int
        Number of the shard.
    offset, num_bytes : int
        Where it is in the shard.
    """

    def __init__(self, reader: ShardReader, shard: int, offset: int, num_bytes: int) -> None:
        self.reader = reader
        self.shard, self.offset, self.num_bytes = shard, offset, num_bytes
        self.content: bytes | None = None  # once it is read

    def __str__(self) -> str:
        return f"{self.reader.path(self.shard)}, {self.num_bytes} bytes from {self.offset}"

    def open(self) -> BinaryIO:
        """The file, in memory, as decoders take it; it is read unless `read_ahead` did."""
        if self.content is None:
            read_ahead([self])
        if hasattr(os, "memfd_create"):
            stream = open(os.memfd_create("audio"), "r+b", buffering=0)  # noqa: SIM115
        else:
            stream = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        rest = memoryview(self.content)
        while rest:
            rest = rest[stream.write(rest) :]
        stream.seek(0)
        return stream


def read_ahead(parts: Sequence[PackedAudio]) -> None:
    """Read the audio of a batch, all parts at once."""
    for reader in {part.reader for part in parts}:
        wanted = [part for part in parts if part.reader is reader and part.content is None]
        found = reader.read([(part.shard, part.offset, part.num_bytes) for part in wanted])
        for part, content in zip(wanted, found, strict=True):
            part.content = content


class ShardReader:
    """Reads ranges of bytes of shards; every process opens its own files.

    Arguments
    ---------
    root : str or pathlib.Path
        The folder of the shards, or its URL.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / shard_name(0)).write_bytes(b"0123456789")
    >>> ShardReader(folder).read([(0, 2, 3), (0, 9, 1)])
    [b'234', b'9']
    """

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self.is_remote = "://" in self.root
        self._pid: int | None = None
        self._open: dict[int, int] = {}  # shard to descriptor
        self._remote: Any = None

    def __getstate__(self):
        return {"root": self.root}

    def __setstate__(self, state):
        self.__init__(**state)

    def path(self, shard: int) -> str:
        """Path or URL of a shard."""
        return f"{self.root.rstrip('/')}/{shard_name(shard)}"

    def read(self, ranges: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Read ranges, each as (shard, offset, number of bytes).

        Raises
        ------
        OSError
            If one cannot be read, or the shard ends before it does.
        """
        if self._pid != os.getpid():  # descriptors and threads are not shared
            self._pid, self._open, self._remote = os.getpid(), {}, None
        return self._from_store(ranges) if self.is_remote else self._from_files(ranges)

    def _from_files(self, ranges):
        if hasattr(os, "posix_fadvise") and len(ranges) > 1:
            for shard, offset, size in ranges:  # the disk may fetch all of them at once
                os.posix_fadvise(self._file(shard), offset, size, os.POSIX_FADV_WILLNEED)
        found = [os.pread(self._file(shard), size, offset) for shard, offset, size in ranges]
        for (shard, offset, size), content in zip(ranges, found, strict=True):
            if len(content) < size:
                raise OSError(f"'{self.path(shard)}' ends before byte {offset + size}")
        return found

    def _file(self, shard):
        if shard not in self._open:
            while len(self._open) >= _MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC)
        return self._open[shard]

    def _from_store(self, ranges):
        """All ranges in one concurrent request; those that fail or are cut are asked for again."""
        found, missing, wait_s = {}, list(range(len(ranges))), _FIRST_WAIT_S
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(wait_s)
                wait_s *= 2
            answers = self._ask([ranges[place] for place in missing])
            for place, answer in zip(missing, answers, strict=True):
                if isinstance(answer, bytes) and len(answer) == ranges[place][2]:
                    found[place] = answer
            failed = [answer for answer in answers if not isinstance(answer, bytes)]
            missing = [place for place in missing if place not in found]
            if not missing:
                return [found[place] for place in range(len(ranges))]
            cause = repr(failed[0]) if failed else "an answer was cut"
            logger.info("%s: %d ranges are asked for again: %s", self.root, len(missing), cause)
        shard, offset, size = ranges[missing[0]]
        raise OSError(
            f"'{self.path(shard)}': {size} bytes from {offset} could not be read in {ATTEMPTS} "
            f"attempts ({cause})"
        )

    def _ask(self, ranges):
        if self._remote is None:
            self._remote = open_store(self.root)
        paths = [self.path(shard) for shard, _, _ in ranges]
        starts = [offset for _, offset, _ in ranges]
        ends = [offset + size for _, offset, size in ranges]
        try:
            return self._remote.cat_ranges(paths, starts, ends, on_error="return")
        except Exception as error:  # of any store, and of its network
            return [error] * len(ranges)


def open_store(url: str) -> Any:
    """The file system of fsspec for a URL.

    Raises
    ------
    UserError
        If fsspec, or what it needs for that kind of URL, is not installed.
    """
    try:
        import fsspec

        return fsspec.core.url_to_fs(url, skip_instance_cache=True)[0]
    except (ImportError, ValueError) as error:
        raise UserError(
            f"'{url}' cannot be read ({error}): pip install 'speechbrain-pom[scale]' and what "
            "fsspec needs for it (s3fs, gcsfs, huggingface_hub, aiohttp)"
        ) from None


class PackedTable(Table):
    """A table whose rows have audio in shards: `wav` is a `PackedAudio`.

    Arguments
    ---------
    table : Table
        With the columns `shard`, `offset` and `bytes`.
    root : str or pathlib.Path
        Where the shards are.
    """

    def __init__(self, table: Table, root: str | Path) -> None:
        vars(self).update(vars(table))
        self.reader = ShardReader(root)

    @property
    def names(self) -> list[str]:
        """Names of the columns, `wav` among them."""
        return [*super().names, "wav"]

    def row(self, index: int) -> dict[str, Any]:
        """The columns of a row, by its number; its audio is not read yet."""
        row = super().row(index)
        place = [row[name] for name in _COLUMNS]
        return {**row, "wav": PackedAudio(self.reader, *place)}
