"""How the Triton kernels are launched: tiles of frames, grids and the constants of each kernel.

Triton is imported (and kernels are compiled) at the first launch, not before.
"""

import importlib
import math
import os
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from speechbrain_pom.ops.polynomial.backends import triton_obstacle
from speechbrain_pom.utils.errors import UserError

# Tiles by reason and by the compiler's report of registers, for Ampere and Hopper. Pointwise: 64
# columns are 128 bytes of bf16, one line of memory per row; 8 warps with at most 32 elements a
# thread keep two or more programs on a multiprocessor, without spills.
POINTWISE = {"COLS": 64, "num_warps": 8}
# Products, by the kind of dot. Tiles of 128 x 128, all branches together: narrower ones would wait
# for L2. Their accumulators take 64 of 128 registers, so that two programs share a multiprocessor
# and the epilogue of one hides behind the product of the other. Plain fp32 arithmetic holds its
# operands in registers too, hence the smaller tiles.
PRODUCTS = {
    "half": {"ROWS": 128, "COLS": 128, "BLOCK_K": 32, "num_stages": 4},
    "tf32": {"ROWS": 128, "COLS": 128, "BLOCK_K": 32, "num_stages": 2},
    "ieee": {"ROWS": 64, "COLS": 64, "BLOCK_K": 16, "num_stages": 2},
}


def kernels_for(tensor: Tensor, module: str) -> ModuleType:
    """The kernels in "kernels_sums" or "kernels_select", which will read this tensor.

    Raises
    ------
    UserError
        Where Triton is not installed, or for a dtype that the kernels do not know.
    """
    obstacle = triton_obstacle(tensor.dtype)
    if obstacle is not None:
        raise UserError(f"the Triton kernels cannot run: {obstacle}")
    return importlib.import_module(f"speechbrain_pom.ops.polynomial.{module}")


class Tiles:
    """How (B, T, .) is cut into tiles of a number of rows: whole chunks, or segments of one.

    Arguments
    ---------
    num_frames : int
        T.
    chunk_size : int or None
        Frames per chunk; None: one chunk.
    rows : int
        Rows of a tile, a power of two.

    Example
    -------
    >>> tiles = Tiles(1000, None, 128)  # 8 segments of 128 frames
    >>> tiles.segments, tiles.num_units, tiles.constants
    (8, 8, {'UNITS': 1, 'FRAMES': 128})
    >>> tiles = Tiles(1000, 12, 128)  # 8 chunks in a tile, each on 16 rows
    >>> tiles.segments, tiles.num_units, tiles.constants, tiles.used_rows
    (1, 84, {'UNITS': 8, 'FRAMES': 16}, 0.75)
    """

    def __init__(self, num_frames: int, chunk_size: int | None, rows: int) -> None:
        longest = max(num_frames, 1)
        self.num_frames = num_frames
        self.chunk_size = longest if chunk_size is None else min(chunk_size, longest)
        self.num_chunks = 1 if chunk_size is None else -(-num_frames // self.chunk_size)
        frames = min(1 << (self.chunk_size - 1).bit_length(), rows)
        self.segments = -(-self.chunk_size // frames)
        self.num_units = self.num_chunks * self.segments
        self.constants = {"UNITS": rows // frames, "FRAMES": frames}
        self.used_rows = self.chunk_size / (self.segments * frames)

    def launch(
        self, kernel: Any, batch: int, width: int, *arguments: Any, **constants: Any
    ) -> None:
        """Run a kernel on all tiles of a batch, in blocks of columns; nothing if it is empty.

        The kernel has the constants UNITS, FRAMES, WIDTH and COLS; its first argument is a tensor.
        """
        # Blocks of columns first: neighbours in time read neighbours in memory.
        tiles = -(-self.num_units // self.constants["UNITS"])
        grid = (-(-width // constants["COLS"]), tiles, batch)
        if self.num_frames and all(grid):
            # Triton launches on the current device, which need not be that of the tensors.
            with torch.cuda.device_of(arguments[0]):
                kernel[grid](*arguments, WIDTH=width, **self.constants, **constants)

    def new_sums(self, like: Tensor, width: int) -> Tensor:
        """Room (B, C, segments, width) in fp32 for the sums of all units."""
        shape = (like.shape[0], self.num_chunks, self.segments, width)
        make = torch.empty if self.num_frames else torch.zeros
        return make(shape, dtype=torch.float32, device=like.device)

    def add_segments(self, sums: Tensor) -> Tensor:
        """(B, C, segments, width) to (B, C, width)."""
        return sums.squeeze(2) if self.segments == 1 else sums.sum(2)


def product_constants(frames: Tensor, branches: int = 1) -> tuple[int, dict[str, Any]]:
    """Rows of a tile, and the constants of `project`, for a linear layer of frames (B, T, g).

    One program computes the given number of branches.
    """
    kind = "half"
    if frames.dtype == torch.float32:
        # As F.linear does; allow_tf32 sets this too, but raises where the newer switch was used.
        tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
        kind = "tf32" if tf32 else "ieee"
    constants = dict(PRODUCTS[kind])
    rows = constants.pop("ROWS")
    precision = "tf32" if kind == "tf32" else "ieee"
    # tl.dot takes 16 columns or more
    constants["COLS"] = max(16, constants["COLS"] >> (branches - 1).bit_length())
    constants |= {"PRECISION": precision, "DEPTH": frames.shape[2]}
    return rows, {**constants, "num_warps": 8, "maxnreg": 128}


def unit_stride(tensor: Tensor) -> Tensor:
    """The tensor with neighbouring elements in its last dimension; other strides stay."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def product_operand(tensor: Tensor) -> Tensor:
    """As `unit_stride`, and copied where it does not start at a multiple of 16 bytes.

    Groups of features may start anywhere; asynchronous copies to shared memory may not, and a
    copy of the frames is small beside their product.
    """
    if tensor.dtype == torch.bfloat16 and os.environ.get("TRITON_INTERPRET") == "1":
        # The interpreter's tl.dot takes the bits of bf16 for integers. Products of bf16 numbers
        # are exact in fp32, so the results are those of a GPU.
        return tensor.float().contiguous()
    tensor = unit_stride(tensor)
    if tensor.data_ptr() % 16:
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return tensor


def padding_arguments(padding: Tensor | None) -> tuple[Tensor | None, int, int]:
    """A mask (B, T) as bytes, and its strides; None, 0, 0 for none."""
    return (None, 0, 0) if padding is None else (padding.view(torch.uint8), *padding.stride())


def aligned_strides(*strides: int) -> tuple[list[int], int]:
    """Strides in units of a power of two that divides all of them, and that unit.

    >>> aligned_strides(488000, 488)
    ([61000, 61], 8)
    """
    unit = math.gcd(16, *strides)  # 16 elements: 32 bytes of bf16, more than one load takes
    return [stride // unit for stride in strides], unit


def row_strides(tensor: Tensor, batch: int) -> tuple[int, int]:
    """Strides of utterance and row of a tensor (B or 1, C, E); 0 where all utterances share one."""
    return tensor.expand(batch, -1, -1).stride()[:2]
