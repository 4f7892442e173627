"""Decoding: the samples of an audio file at its own sample rate, in order or from any place."""

import os
from typing import BinaryIO

import numpy as np
import soundfile

from speechbrain_pom.data.audio.mp3_frames import read_at
from speechbrain_pom.data.audio.part_reader import PartReader
from speechbrain_pom.data.audio.parts import (
    end_of_container,
    end_of_sound,
    find_parts,
    largest_flac,
)
from speechbrain_pom.utils.errors import UserError

_ONLY_IN_ORDER = ("MP3", "OGG")  # libsndfile's seeking is not exact to the sample in these
_BLOCK = 2**18  # samples decoded at a time where nothing but decoding leads to a sample
_STRAY_BYTES = 2**16  # after the sound: what no program reads, but some programs write
_STRAY_SHARE = 0.1  # of a small file
_FLAC_AHEAD = 2**16  # bytes, at least
_FLAC_START = b"fLaC\0\0\0\x22"
_MAGIC = (b"fLaC", b".snd", b"RIFF", b"FORM")  # of files that may be joined by mistake


class AudioStream:
    """The samples of an audio file, all channels.

    Arguments
    ---------
    path : str, bytes, pathlib.Path or binary stream
        A file of any format that soundfile reads; joined MP3 or Ogg files are read to their end.

    Raises
    ------
    OSError
        If the file cannot be opened.
    soundfile.LibsndfileError
        If it is not audio that soundfile reads.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.mp3"
    >>> soundfile.write(path, np.zeros(16001), 16000)
    >>> _ = path.write_bytes(2 * path.read_bytes())
    >>> with AudioStream(path) as stream:
    ...     len(stream.read(40000)), stream.sample_rate, soundfile.info(path).frames
    (32002, 16000, 16001)
    """

    def __init__(self, path: str | os.PathLike | BinaryIO) -> None:
        # Without a buffer: libsndfile shares the position of the file.
        is_open = hasattr(path, "read")
        self._stream = path if is_open else open(path, "rb", buffering=0)  # noqa: SIM115
        self._reader = None
        try:
            self._parts = find_parts(self._stream)
            self.rewind()
        except BaseException:
            self.close()
            raise
        file = self._reader.file
        self.format, self.log = file.format, file.extra_info
        self.sample_rate, self.channels = file.samplerate, file.channels
        self.has_parts = bool(self._parts)
        self.has_exact_seeks = (
            not self.has_parts
            and self.format not in _ONLY_IN_ORDER
            and not file.subtype.startswith("MPEG")
            and file.has_seeks()
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.file.close()
        self._stream.close()

    @property
    def num_claimed(self) -> int:
        """Samples per channel by the header of the file; None where that says nothing reliable."""
        return None if self.has_parts else self._reader.num_claimed

    def rewind(self) -> None:
        """Go back to the first sample."""
        self.position = 0  # samples before what `read` gives next
        self._missing = self._unread = 0  # in the parts that were read to their end
        self._open_part(0)

    def read(self, num_samples: int) -> np.ndarray:
        """Decode the next samples.

        Arguments
        ---------
        num_samples : int

        Returns
        -------
        numpy.ndarray
            (samples, channels) float32, fewer samples at the end of the file.

        Raises
        ------
        soundfile.LibsndfileError
            If the decoder fails.
        UserError
            If a part of a joined file has another sample rate or number of channels.
        """
        if self.num_claimed is not None:  # libsndfile would decode what follows, and fail
            num_samples = max(0, min(num_samples, self.num_claimed - self.position))
        blocks = [self._reader.read(num_samples)]
        while (missing := num_samples - sum(map(len, blocks))) > 0 and self._next_part():
            blocks.append(self._reader.read(missing))
        block = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
        self.position += len(block)
        return block

    def go_to(self, start: int) -> None:
        """Make a sample the next one, by decoding all that is before it if need be."""
        if self.has_exact_seeks:
            try:
                self._reader.file.seek(start)
                self.position = start
                return
            except soundfile.LibsndfileError:
                self.stop_seeking()
        if start < self.position:
            self.rewind()
        while (gap := start - self.position) > 0 and len(self.read(min(gap, _BLOCK))):
            pass

    def stop_seeking(self) -> None:
        """Decode in order from now on: seeking has failed."""
        self.has_exact_seeks = False
        self.rewind()

    def try_at(self, place: int) -> bool:
        """Whether a sample can be sought and decoded."""
        try:
            self._reader.file.seek(place)
            return len(self._reader.file.read(1, dtype="float32")) == 1
        except soundfile.LibsndfileError:
            return False

    @property
    def num_missing(self) -> int:
        """Samples that headers claim and that were not there, once all was read in order."""
        return self._missing + self._reader.num_missing

    def count_unread(self) -> int:
        """Bytes that may be sound, and that follow what was decoded, up to now, in each part."""
        unread = self._unread + self._reader.count_unread()
        if self.format == "OGG" or (self.format == "MP3" and self.has_parts):
            return unread
        start, size = self._stream.tell(), os.fstat(self._stream.fileno()).st_size
        if self.format == "FLAC":  # its decoder reads ahead
            first = max(0, start - _FLAC_AHEAD)
            place = read_at(self._stream, first, 2 * _FLAC_AHEAD).find(_FLAC_START, first == 0)
            start = first + place if place >= 0 else start
        elif start < size:
            start = max(start, end_of_container(self._stream))
        num_bytes = end_of_sound(self._stream) - start if start < size else 0
        rest = read_at(self._stream, start, min(num_bytes, _STRAY_BYTES)) if num_bytes > 0 else b""
        is_much = num_bytes > min(_STRAY_BYTES, _STRAY_SHARE * size) and any(rest)
        return num_bytes if is_much or rest[:4] in _MAGIC else 0

    def fits_its_header(self) -> bool:
        """Whether the file is not larger than its header allows, where that can be told."""
        limit = largest_flac(self._stream) if self.format == "FLAC" else None
        return limit is None or end_of_sound(self._stream) <= limit

    def _open_part(self, number):
        if self._reader is not None:
            self._reader.file.close()
        self._number = number
        part = self._parts[number] if self._parts else None
        self._reader = PartReader(self._stream, part)

    def _next_part(self):
        """Go on with the next part, if there is one."""
        if self._number + 1 >= len(self._parts):
            return False
        self._missing += self._reader.num_missing
        self._unread += self._reader.count_unread()
        self._open_part(self._number + 1)
        found = self._reader.file.samplerate, self._reader.file.channels
        if found != (self.sample_rate, self.channels):
            raise UserError(
                f"joins a stream of {self.sample_rate} Hz, {self.channels} channel(s) and one of "
                f"{found[0]} Hz, {found[1]} channel(s): encode it again"
            )
        return True
