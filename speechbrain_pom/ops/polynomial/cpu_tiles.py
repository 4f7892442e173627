"""Tiles of frames that fit the processor's cache, their memory, and gradients summed over them."""

import math
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype

# 1024 x 1952 floats = 8 MB at the paper's size. Shorter tiles pay for the start of their matrix
# products, longer ones leave the cache. Other devices have no use for tiles: there, starting
# kernels costs more than memory traffic.
CPU_TILE_FRAMES = 1024
_of_thread = threading.local()  # memory of tiles, by dtype and number


def tile_ranges(
    batch: int, num_frames: int, device: torch.device, multiple_of: int = 1
) -> list[tuple[slice, slice]]:
    """Cut (B, T) into ranges of utterances and frames: whole utterances, or parts of one.

    Parts are a multiple of the chunk size of the mask, so that a tile holds whole chunks.

    >>> cpu = torch.device("cpu")
    >>> [(items.start, items.stop) for items, _ in tile_ranges(5, 400, cpu)]
    [(0, 2), (2, 4), (4, 5)]
    >>> [(frames.start, frames.stop) for _, frames in tile_ranges(1, 2200, cpu, multiple_of=500)]
    [(0, 1000), (1000, 2000), (2000, 2200)]
    """
    if device.type != "cpu" or batch * num_frames <= CPU_TILE_FRAMES:
        return [(slice(0, batch), slice(0, num_frames))]
    num_items = max(1, CPU_TILE_FRAMES // max(num_frames, 1))
    size = max(1, CPU_TILE_FRAMES // multiple_of) * multiple_of
    return [
        (slice(item, min(item + num_items, batch)), slice(start, min(start + size, num_frames)))
        for item in range(0, batch, num_items)
        for start in range(0, num_frames, size)
    ]


def linear(frames: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """F.linear of (B, t, g) into (B, t, E); both must be flat in their first two dimensions."""
    x, target = frames.flatten(0, 1), out.view(-1, out.shape[-1])
    if bias is None:
        torch.mm(x, weight.T, out=target)
    else:
        torch.addmm(bias, x, weight.T, out=target)


def _kept_scratch(size, dtype, number):
    """Memory of this thread that is kept between calls: its pages are not allocated again."""
    buffers = _of_thread.__dict__
    if (dtype, number) not in buffers or buffers[dtype, number].numel() < size:
        with torch.inference_mode(False):  # else it could not be written to outside of that mode
            buffers[dtype, number] = torch.empty(size, dtype=dtype)
    return buffers[dtype, number][:size]


class CpuTiles:
    """The tiles of a pass over the frames, and the memory that they share.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, g).
    num_expanded : int
        E, columns of the tensors that a tile computes.
    chunk_size : int or None
        Frames per chunk of the mask.
    """

    def __init__(self, frames: Tensor, num_expanded: int, chunk_size: int | None) -> None:
        batch, num_frames, _ = frames.shape
        self.dtype = compute_dtype(frames.dtype)
        self._ranges = tile_ranges(batch, num_frames, frames.device, chunk_size or 1)
        self._num_expanded, self._device = num_expanded, frames.device

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        return iter(self._ranges)

    def scratch(self, items: slice, span: slice, dtype: torch.dtype, number: int = 0) -> Tensor:
        """Memory for the expanded tensor of a tile; the same number is the same memory."""
        shape = items.stop - items.start, span.stop - span.start, self._num_expanded
        if self._device.type == "cpu" and shape[0] * shape[1] <= CPU_TILE_FRAMES:
            return _kept_scratch(math.prod(shape), dtype, number).view(shape)
        return torch.empty(shape, dtype=dtype, device=self._device)

    def projection(
        self,
        kept: Tensor,
        frames: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        items: slice,
        span: slice,
    ) -> Tensor:
        """The projection of a tile, kept or computed again, in fp32 or better."""
        if kept.numel():
            projected = kept[items, span]
        else:
            projected = self.scratch(items, span, frames.dtype)
            linear(frames, weight, bias, out=projected)
        return projected.to(self.dtype)


class WeightGrad:
    """Gradient of a weight matrix, summed over tiles in fp32 or better.

    Arguments
    ---------
    weight : torch.Tensor
        (E, g).
    needed : bool
        False: the result is empty.
    """

    def __init__(self, weight: Tensor, needed: bool) -> None:
        self._weight, self._needed = weight, needed
        self._total = None

    def add(self, grad: Tensor, frames: Tensor) -> None:
        """Add grad^T frames, for (t, E) and (t, g)."""
        if self._total is None:  # not zeros: they cost as much as a small tile
            self._total = (grad.T @ frames).to(compute_dtype(grad.dtype))
        elif self._total.dtype == grad.dtype:
            self._total.addmm_(grad.T, frames)
        else:
            self._total += grad.T @ frames

    def result(self) -> Tensor:
        """The sum, in the dtype of the weight; empty if not needed."""
        if not self._needed:
            return self._weight.new_empty(0)
        if self._total is None:
            return torch.zeros_like(self._weight)
        return self._total.to(self._weight.dtype)


class LinearGrads:
    """Gradients of a linear layer, collected over tiles of frames.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, g): its input.
    weight : torch.Tensor
        (E, g).
    needs : list of bool
        Which gradients are needed: of the frames, the weight, the bias.
    """

    def __init__(self, frames: Tensor, weight: Tensor, needs: list[bool]) -> None:
        self._frames, self._weight, self._needs = frames, weight, needs
        self._grad_frames = frames.new_empty(frames.shape if needs[0] else 0)
        self._grad_weight = WeightGrad(weight, needs[1])
        self._grad_bias = torch.zeros(
            weight.shape[0] if needs[2] else 0,
            dtype=compute_dtype(weight.dtype),
            device=weight.device,
        )

    def add(self, items: slice, span: slice, grad: Tensor) -> None:
        """Add the gradient (b, t, E) of the layer's output at a tile of frames."""
        if self._needs[0]:
            linear(grad, self._weight.T, None, out=self._grad_frames[items, span])
        flat = grad.flatten(0, 1)
        if self._needs[1]:
            self._grad_weight.add(flat, self._frames[items, span].flatten(0, 1))
        if self._needs[2]:
            self._grad_bias += flat.sum(0, dtype=self._grad_bias.dtype)

    def results(self) -> list[Tensor]:
        """Gradients of frames, weight and bias; empty where not needed."""
        grad_bias = self._grad_bias.to(self._weight.dtype)
        return [self._grad_frames, self._grad_weight.result(), grad_bias]
