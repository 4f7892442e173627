"""The decoder of one stream of an audio file: its samples in order, up to its own end."""

from __future__ import annotations

import io
import os

import numpy as np
import soundfile

from speechbrain_pom.data.audio.mp3_frames import find_mp3_frame
from speechbrain_pom.data.audio.parts import Part

_MAX_SAMPLES = 2**36  # of a FLAC header; libsndfile gives 2**63 - 1 for "unknown"
_BUFFER = 2**16  # bytes; decoders of MP3 ask for a few hundred at a time
_SHORTEST_FRAME = 384  # samples; of MPEG audio


class PartReader:
    """Decodes one stream of a file, from its first sample on.

    Arguments
    ---------
    stream : file object
        Without a buffer.
    part : Part or None
        None stands for the whole file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.flac"
    >>> soundfile.write(path, np.zeros(500), 8000)
    >>> with open(path, "rb", buffering=0) as stream:
    ...     reader = PartReader(stream, None)
    ...     reader.num_claimed, reader.read(300).shape, reader.read(300).shape, reader.num_missing
    (500, (300, 1), (200, 1), 0)
    """

    def __init__(self, stream: io.RawIOBase, part: Part | None) -> None:
        self._stream, self._part = stream, part
        self._is_endless = part is not None and part.head != b""  # an MP3 stream
        self._open()
        self.num_claimed = part.num_samples if self._is_endless else self.file.frames
        is_estimate = self.file.format == "MP3" and not self._is_endless
        if is_estimate or (self.num_claimed or 0) > _MAX_SAMPLES:
            self.num_claimed = None
        self._delay, self._padding = (part.delay, part.padding) if part else (0, 0)
        self._num_read = self._num_decoded = 0
        self._ahead = self._failure = None

    def _open(self):
        if self._part is None:
            self._stream.seek(0)
            self.file = _InOrder(self._stream.fileno(), closefd=False)
        else:
            self._slice = io.BufferedReader(_Slice(self._stream, self._part), _BUFFER)
            self.file = _InOrder(self._slice)

    @property
    def num_missing(self) -> int:
        """Samples that the header claims, and that were not there; after the end was read."""
        return max(0, (self.num_claimed or 0) - self._num_read)

    def read(self, num_samples: int) -> np.ndarray:
        """The next samples.

        Arguments
        ---------
        num_samples : int

        Returns
        -------
        numpy.ndarray
            (samples, channels) float32; fewer samples at the end.
        """
        blocks, missing = [], num_samples
        while not blocks or (missing > 0 and len(blocks[-1]) and self._failure is None):
            blocks.append(self._next(missing))
            self._num_read += len(blocks[-1])
            missing -= len(blocks[-1])
        return blocks[0] if missing == 0 and len(blocks) == 1 else np.concatenate(blocks)

    def _next(self, num_samples):
        if self._delay:
            self._decode(self._delay)
            self._delay = 0
        if self._ahead is None:
            if not self._is_endless or self.num_claimed is None:
                return self._decode(num_samples)
            if (stated := self.num_claimed - self._num_read) > 0:
                return self._decode(min(num_samples, stated))
            # Padding follows, or more sound than the table of the stream knows of.
            ahead = self._decode(self._padding + 1)
            self._ahead = ahead if len(ahead) > self._padding else ahead[:0]
        if len(self._ahead):
            block, self._ahead = self._ahead[:num_samples], self._ahead[num_samples:]
            return block
        return self._decode(num_samples if self._num_read > self.num_claimed else 0)

    def _decode(self, num_samples):
        if self._failure is not None:
            raise self._failure
        try:
            block = self.file.read(num_samples, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            if not self._is_endless:
                raise
            block = self._decode_up_to(error, num_samples)
        self._num_decoded += len(block)
        return block

    def _decode_up_to(self, error, num_samples):
        """What can be decoded of a block that cannot; then that is the end, or frames follow."""
        self.file.close()
        self._open()
        self.file.read(self._num_decoded, dtype="float32")
        blocks, missing = [self.file.read(0, dtype="float32", always_2d=True)], num_samples
        try:
            while missing > 0 and (len(blocks[-1]) or len(blocks) == 1):
                size = min(missing, _SHORTEST_FRAME)
                blocks.append(self.file.read(size, dtype="float32", always_2d=True))
                missing -= len(blocks[-1])
        except soundfile.LibsndfileError:
            if self.count_unread():
                self._failure = error
        return np.concatenate(blocks)

    def count_unread(self) -> int:
        """Bytes in which there are frames of MP3 that the decoder did not reach."""
        if not self._is_endless:
            return 0
        start = self._part.start + max(0, self._slice.tell() - len(self._part.head))
        stop = self._part.stop
        return 0 if find_mp3_frame(self._stream, start, stop) is None else stop - start


class _InOrder(soundfile.SoundFile):
    """A file whose reading never seeks, as soundfile's does after each block."""

    def seekable(self):
        return False

    def has_seeks(self):
        """Whether the format has them."""
        return super().seekable()


class _Slice(io.RawIOBase):
    """A part of a file, with its head, as a file."""

    def __init__(self, stream, part):
        super().__init__()
        self._stream, self._part, self._place = stream, part, 0
        self._size = len(part.head) + part.stop - part.start

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=os.SEEK_SET):
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, base + offset)
        return self._place

    def tell(self):
        return self._place

    def readinto(self, buffer):
        head, wanted = self._part.head, min(len(buffer), max(0, self._size - self._place))
        data = head[self._place : self._place + wanted]
        if len(data) < wanted:
            self._stream.seek(self._part.start + self._place + len(data) - len(head))
            data += self._stream.read(wanted - len(data))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)
