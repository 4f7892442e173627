"""Where the sound of a file lies: joined files are read one after the other, tags are no sound.

A decoder reads one stream, and trusts its header. MP3 and Ogg streams may be joined end to end, and
the header of an MP3 stream may be absent, or of what was there before somebody cut or joined it.
"""

import os
import re
import struct
from typing import BinaryIO, NamedTuple

from speechbrain_pom.data.audio.mp3_frames import (
    endless_table,
    find_mp3_frame,
    find_table,
    read_at,
    read_mp3_frame,
    read_table,
)

_BLOCK = 2**20  # bytes searched at a time
_LONGEST_HEAD = 256  # bytes that a pattern below can need around its match
_NEVER_IN_PARTS = (b"fLaC", b".snd", b"caff", b"riff", b"RF64", b"RIFX", b"NIST", b"Crea")
_OGG_PAGE = re.compile(rb"OggS\0", re.DOTALL)
_MP3_TABLE = re.compile(rb"Xing|Info", re.DOTALL)


class Part(NamedTuple):
    """Bytes that a decoder is given as if they were a file."""

    start: int
    stop: int
    head: bytes = b""  # before these bytes
    num_samples: int | None = None  # that an MP3 table states, without its delay and padding
    delay: int = 0  # samples that an MP3 encoder has put before the sound
    padding: int = 0  # and after it


def find_parts(stream: BinaryIO) -> list[Part]:
    """The parts of a file, where it has to be read by parts.

    >>> path = getfixture("tmp_path") / "a.ogg"
    >>> import soundfile
    >>> soundfile.write(path, [0.0] * 800, 8000)
    >>> joined = path.with_name("joined.ogg")
    >>> _ = joined.write_bytes(2 * path.read_bytes())
    >>> size = path.stat().st_size
    >>> with open(path, "rb") as one, open(joined, "rb") as two:
    ...     find_parts(one), [part.start // size for part in find_parts(two)]
    ([], [0, 1])
    """
    opening = read_at(stream, 0, 10)
    if opening.startswith(_NEVER_IN_PARTS):
        return []
    size = os.fstat(stream.fileno()).st_size
    start = 0
    while opening.startswith(b"ID3") and len(opening) == 10:
        start += 10 + _synchsafe(opening[6:]) + 10 * (opening[5] >> 4 & 1)
        opening = read_at(stream, start, 10)
    if opening.startswith(_NEVER_IN_PARTS):
        return []
    if opening.startswith(b"OggS"):
        return _ogg_parts(stream, start, size)
    if opening[:4] in (b"RIFF", b"FORM"):
        end = end_of_container(stream)
        joined = read_at(stream, end, 4) == opening[:4] if end else False
        return [Part(0, end)] if joined else []
    return _mp3_parts(stream, start, size)


def end_of_container(stream: BinaryIO) -> int:
    """Where a WAV or AIFF file ends by its own header."""
    opening = read_at(stream, 0, 8)
    order = {b"RIFF": "<", b"FORM": ">"}.get(opening[:4])
    if order is None or len(opening) < 8:
        return 0
    num_bytes = struct.unpack(f"{order}I", opening[4:])[0]
    end, place = 8 + num_bytes + num_bytes % 2, 12
    if not 8 < end <= os.fstat(stream.fileno()).st_size:
        return 0
    while place < end:
        chunk = read_at(stream, place, 8)
        if len(chunk) < 8 or not all(32 <= letter < 127 for letter in chunk[:4]):
            return place
        size = struct.unpack(f"{order}I", chunk[4:])[0]
        place += 8 + size + size % 2
    return end


def largest_flac(stream: BinaryIO) -> int | None:
    """The greatest size of a FLAC file by its header."""
    opening = read_at(stream, 0, 42)
    if opening[:5] not in (b"fLaC\0", b"fLaC\x80") or len(opening) < 42:
        return None
    shortest_block = int.from_bytes(opening[8:10], "big")
    largest_frame = int.from_bytes(opening[15:18], "big")
    num_samples = int.from_bytes(opening[21:26], "big") & 2**36 - 1
    if 0 in (shortest_block, largest_frame, num_samples):
        return None
    place, kind = 4, opening[4]
    while not kind & 0x80:  # blocks of metadata, the last of which is marked
        place += 4 + int.from_bytes(read_at(stream, place + 1, 3), "big")
        kind = (read_at(stream, place, 1) or b"\x80")[0]
    place += 4 + int.from_bytes(read_at(stream, place + 1, 3), "big")
    return place + -(-num_samples // shortest_block) * largest_frame


def end_of_sound(stream: BinaryIO) -> int:
    """Where the tags at the end of a file begin: ID3, APE, Lyrics3."""
    end, before = os.fstat(stream.fileno()).st_size, None
    while end != before:
        before, tail = end, read_at(stream, max(0, end - 128), min(end, 128))
        if tail[-128:-125] == b"TAG" and len(tail) == 128:
            end -= 128
        elif tail[-32:-24] == b"APETAGEX":
            num_bytes, flags = struct.unpack("<I4xI", tail[-20:-8])
            end -= num_bytes + 32 * (flags >> 31)
        elif tail[-10:-7] == b"3DI":
            end -= 20 + _synchsafe(tail[-4:])
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            end -= 15 + int(tail[-15:-9])
        if end < 0:
            return before
    return end


def _synchsafe(data):
    """The number in four bytes of seven bits."""
    number = 0
    for byte in data:
        number = number << 7 | byte & 0x7F
    return number


def _find_all(stream, pattern, start, stop):
    """Yield (place, bytes around it, its offset in them) for all matches in a range."""
    place = start
    while place < stop:
        first = max(start, place - _LONGEST_HEAD)
        block = read_at(stream, first, _BLOCK + place - first)
        ended = first + len(block) >= stop or not block
        for match in pattern.finditer(block[: stop - first]):
            # What is near the end of a block is found again at the start of the next one.
            if first + match.start() >= place - _LONGEST_HEAD // 2 and (
                ended or match.start() < len(block) - _LONGEST_HEAD // 2
            ):
                yield first + match.start(), block, match.start()
        if ended:
            return
        place = first + len(block)


def _ogg_parts(stream, start, size):
    """Streams one after the other; not those that begin together, as of a film."""
    starts, in_heads = [], False
    for place, block, offset in _find_all(stream, _OGG_PAGE, start, size):
        begins = bool(block[offset + 5 : offset + 6] and block[offset + 5] & 2)
        if begins and not in_heads:
            starts.append(place)
        in_heads = begins
    if len(starts) < 2 and start == 0:
        return []
    return [Part(a, b) for a, b in zip(starts, [*starts[1:], size], strict=True)]


def _mp3_parts(stream, start, size):
    """A part for each table, and one for the frames before the first one."""
    stop = end_of_sound(stream)
    first = find_mp3_frame(stream, start, stop)
    if first is None:
        return []
    tables = {}
    for place, block, offset in _find_all(stream, _MP3_TABLE, first, stop):
        found = find_table(block, offset)
        if found is not None:
            tables[place - found] = offset - found, block
    starts = sorted({first, *tables})
    parts = []
    for place, end in zip(starts, [*starts[1:], stop], strict=True):
        header = read_at(stream, place, 4)
        frame = read_mp3_frame(header)
        facts = ()
        if place in tables:
            facts = read_table(read_at(stream, place, frame.num_bytes), frame)
            place += frame.num_bytes
        parts.append(Part(place, end, endless_table(header), *facts))
    return parts
