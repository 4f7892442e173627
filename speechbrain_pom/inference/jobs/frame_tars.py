"""Frames of many files in few tars: WebDataset shards that grow, and never hold half a file."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path

from speechbrain_pom.inference.jobs.ledger import Ledger
from speechbrain_pom.utils.disks import explain_full_disk
from speechbrain_pom.utils.files import flush_to_disk
from speechbrain_pom.utils.parts import WHOLE, Part

SHARD_BYTES = 10**9
_BLOCK = 512  # of a tar
_END = bytes(2 * _BLOCK)
_ELSEWHERE = "give another --out"


class FrameTars:
    """The tars of a call, or of its part.

    A file is in a tar when the ledger has its line; what a call that was killed left behind is cut
    off before anything is added.

    Arguments
    ---------
    ledger : Ledger
        Of the folder that holds the tars.
    part : Part
    shard_bytes : int
        A tar that is larger gets no more files.
    """

    def __init__(self, ledger: Ledger, part: Part = WHOLE, shard_bytes: int = SHARD_BYTES) -> None:
        self.ledger, self.shard_bytes = ledger, shard_bytes
        self._prefix = "" if part == WHOLE else f"{part.name}."
        self._number = 0
        #: Where the frames of a file are written before they are added.
        self.scratch = ledger.folder / f".{self._prefix}frames"

    def __enter__(self) -> FrameTars:
        shutil.rmtree(self.scratch, ignore_errors=True)
        ends: dict[str, int] = {}
        for entry in self.ledger.entries.values():
            name, end = entry.get("tar"), entry.get("offset", 0) + entry.get("bytes", 0)
            ends[name] = max(ends.get(name, 0), end + -end % _BLOCK)
        for path in self.ledger.folder.glob(f"{self._prefix}frames-*.tar"):
            if path.name in ends:
                os.truncate(path, min(ends[path.name], path.stat().st_size))
                self._number = max(self._number, int(path.stem.rpartition("-")[2]))
            else:
                path.unlink()
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        for path in self.ledger.folder.glob(f"{self._prefix}frames-*.tar"):
            with open(path, "ab") as stream:
                stream.write(_END)

    def add(self, file: Path, result: dict) -> None:
        """Move the frames of a file into the newest tar, and note it in the ledger."""
        (name,) = self.ledger.outputs_of(file)
        source = self.scratch / name
        path = self._newest()
        info = tarfile.TarInfo(name)
        info.size = source.stat().st_size
        with explain_full_disk(self.ledger.folder, _ELSEWHERE), open(path, "ab") as stream:
            stream.write(info.tobuf(tarfile.PAX_FORMAT))
            offset = stream.tell()
            with open(source, "rb") as frames:
                shutil.copyfileobj(frames, stream)
            stream.write(bytes(-info.size % _BLOCK))
        flush_to_disk(path)
        place = {"tar": path.name, "offset": offset, "bytes": info.size}
        self.ledger.add(file, {**result, **place})
        source.unlink()

    def _newest(self):
        path = self._path()
        if path.is_file() and path.stat().st_size >= self.shard_bytes:
            self._number += 1
        return self._path()

    def _path(self):
        return self.ledger.folder / f"{self._prefix}frames-{self._number:06d}.tar"
