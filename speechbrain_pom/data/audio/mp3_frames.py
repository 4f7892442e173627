"""Frames of MP3 streams, and the tables in the first ones (Xing, Info) that say how many follow.

Of an encoder's delay and padding, which are no sound, the table says how long they are (LAME's
extension of it).
"""

import struct
from typing import BinaryIO, NamedTuple

_FIRST_FRAME_WITHIN = 2**17  # bytes after the tags
_ENDLESS = 2**31 - 1  # MP3 frames: the decoder stops at the end of the file
_MP3_DECODER_DELAY = 529  # samples, which the decoder leaves out at the start
_MP3_RATES = (44100, 48000, 32000)  # Hz, of MPEG-1; half of it in MPEG-2, a quarter in MPEG-2.5
_MP3_KBIT_1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MP3_KBIT_2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)


class Mp3Frame(NamedTuple):
    """The header of an MPEG layer III frame."""

    kind: bytes  # equal for all frames of a stream
    num_bytes: int
    num_samples: int
    side_bytes: int  # between the header and the data, where a table begins


def read_at(stream: BinaryIO, start: int, num_bytes: int) -> bytes:
    """Read bytes from a place."""
    stream.seek(start)
    return stream.read(num_bytes)


def read_mp3_frame(header: bytes) -> Mp3Frame | None:
    """Read the header of an MPEG layer III frame.

    >>> read_mp3_frame(b"\\xff\\xfb\\x90\\x00")[1:]
    (417, 1152, 32)
    """
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, rate_index = header[1] >> 3 & 3, header[2] >> 2 & 3
    kbit_index = header[2] >> 4
    if version == 1 or rate_index == 3 or kbit_index in (0, 15):
        return None
    first, mono = version == 3, header[3] >> 6 == 3
    rate = _MP3_RATES[rate_index] >> {3: 0, 2: 1, 0: 2}[version]
    bit_rate = 1000 * (_MP3_KBIT_1 if first else _MP3_KBIT_2)[kbit_index]
    num_samples = 1152 if first else 576
    num_bytes = num_samples // 8 * bit_rate // rate + (header[2] >> 1 & 1)
    side_bytes = (17 if mono else 32) if first else (9 if mono else 17)
    kind = bytes((header[1] & 0xFE, header[2] & 0x0C))
    return Mp3Frame(kind, num_bytes, num_samples, side_bytes)


def find_mp3_frame(stream: BinaryIO, start: int, stop: int) -> int | None:
    """Find the first of two MP3 frames that follow each other."""
    data = read_at(stream, start, min(stop - start, _FIRST_FRAME_WITHIN))
    place = data.find(b"\xff")
    while place >= 0:
        frame = read_mp3_frame(data[place : place + 4])
        if frame is not None:
            following = start + place + frame.num_bytes
            second = read_mp3_frame(read_at(stream, following, 4))
            if following == stop or (second is not None and second.kind == frame.kind):
                return start + place
        place = data.find(b"\xff", place + 1)
    return None


def find_table(block: bytes, offset: int) -> int | None:
    """How far a table is from the start of its frame."""
    for side_bytes in (32, 17, 9):
        begin = offset - side_bytes - 4
        frame = read_mp3_frame(block[begin : begin + 4]) if begin >= 0 else None
        # Encoders leave the side information empty, so that old players play silence.
        fits = frame is not None and frame.side_bytes == side_bytes
        if fits and not any(block[begin + 6 : offset]):
            return side_bytes + 4
    return None


def read_table(data: bytes, frame: Mp3Frame) -> tuple[int, ...]:
    """What the table of an MP3 stream states."""
    place = 4 + frame.side_bytes + 4
    flags, num_frames = struct.unpack(">II", data[place : place + 8].ljust(8, b"\0"))
    if not flags & 1:
        return ()
    place += 4 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    delay = padding = 0
    if data[place : place + 1].strip(b"\0") and len(data) >= place + 24:
        packed = int.from_bytes(data[place + 21 : place + 24], "big")
        delay, padding = packed >> 12, max(0, (packed & 0xFFF) - _MP3_DECODER_DELAY)
    decoded = num_frames * frame.num_samples - _MP3_DECODER_DELAY
    return max(0, decoded - delay - padding), delay, padding


def endless_table(header: bytes) -> bytes:
    """A frame with a table that states more frames than any file has, and nothing else.

    A decoder that is given this in front of a stream reads up to the stream's end.
    """
    # No checksum; a bit rate at which the table fits into the frame.
    header = bytes((header[0], header[1] | 1, 0x90 | header[2] & 0x0C, header[3]))
    frame = read_mp3_frame(header)
    table = header + bytes(frame.side_bytes) + b"Info" + struct.pack(">II", 1, _ENDLESS)
    return table.ljust(frame.num_bytes, b"\0")
