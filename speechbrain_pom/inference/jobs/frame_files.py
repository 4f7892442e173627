"""Files of frames on the disk: complete or absent, and never as a whole in memory."""

import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from speechbrain_pom.utils.disks import explain_full_disk, reserve
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import publish_file, temporary_beside

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
FRAME_FORMATS = ("npy", "safetensors")
_SAFETENSORS_NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_BLOCK = 2**22  # values converted at a time
_ELSEWHERE = "give another --out"


@contextmanager
def new_frames(
    path: Path, format_: str, dtype: str, shape: tuple[int, ...], metadata: dict[str, str]
) -> Iterator[torch.Tensor]:
    """Context manager: an fp32 tensor on the disk to be filled; it becomes the file at the end.

    `format_` is one of `FRAME_FORMATS`, `dtype` one of `DTYPES` (NumPy has no bfloat16).
    `metadata` is stored in a safetensors file beside the tensor "frames". A `UserError` says that
    the disk is full, or that a value is beyond the range of the type.

    >>> path = getfixture("tmp_path") / "a.npy"
    >>> with new_frames(path, "npy", "float16", (3, 2), {}) as frames:
    ...     _ = frames.fill_(0.5)
    >>> np.load(path).dtype, np.load(path).sum()
    (dtype('float16'), np.float16(3.0))
    """
    temporary, scratch = (temporary_beside(path, kind) for kind in ("part", "scratch"))
    try:
        with explain_full_disk(path.parent, _ELSEWHERE):
            target = _create(temporary, format_, dtype, shape, metadata)
            wide = target
            if dtype != "float32":
                wide = _create(scratch, "npy", "float32", shape, {})
        yield wide
        if wide is not target:
            _narrow(wide, target)
        with explain_full_disk(path.parent, _ELSEWHERE):
            publish_file(temporary, path)
    finally:
        for file in (temporary, scratch):
            file.unlink(missing_ok=True)


def _create(path, format_, dtype, shape, metadata):
    """A tensor in a new file."""
    # NumPy has the width of bfloat16, but not its type
    kind = np.dtype("int16" if dtype == "bfloat16" else dtype)
    num_bytes = int(np.prod(shape)) * kind.itemsize
    with open(path, "wb") as stream:
        if format_ == "npy":
            header = {"descr": kind.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(stream, header)
        else:
            stream.write(_safetensors_header(dtype, shape, num_bytes, metadata))
        start = stream.tell()
        reserve(stream, start + num_bytes)
    file = np.memmap(path, kind, "r+", offset=start, shape=shape)
    return torch.from_numpy(file).view(DTYPES[dtype])


def _safetensors_header(dtype, shape, num_bytes, metadata):
    """As specified: length of the JSON, then the JSON, padded to eight bytes."""
    tensor = {
        "dtype": _SAFETENSORS_NAMES[dtype],
        "shape": list(shape),
        "data_offsets": [0, num_bytes],
    }
    text = json.dumps({"__metadata__": metadata, "frames": tensor}).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _narrow(wide, target):
    """Copy to a narrower type, block by block."""
    for start in range(0, wide.numel(), _BLOCK):
        part = wide.view(-1)[start : start + _BLOCK]
        narrow = part.to(target.dtype)
        if not torch.equal(narrow.isfinite(), part.isfinite()):
            raise UserError(
                f"values up to {part.abs().max():g} do not fit {target.dtype}: give --dtype float32"
            )
        target.view(-1)[start : start + _BLOCK] = narrow
