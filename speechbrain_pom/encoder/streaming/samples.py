"""Packets of samples, checked, and the samples that wait until a chunk is complete."""

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.utils.errors import UserError

_ARRAYS = ("int16", "float16", "float32", "float64")
_LOUDEST = 1e9  # audio is in [-1, 1]; squares of larger samples would overflow
_TENSORS = (*(f"torch.{name}" for name in _ARRAYS), "torch.bfloat16")


def checked_packet(packet: Tensor | np.ndarray) -> Tensor:
    """A packet as fp32 samples (n,) on the CPU, that belong to nobody else.

    Arguments
    ---------
    packet : torch.Tensor or numpy.ndarray
        (n,) floats, or 16-bit integers, which are divided by 32768; n may be 0.

    Returns
    -------
    torch.Tensor

    Raises
    ------
    UserError
        For anything else, and for samples that are NaN, or too large for any audio.

    Example
    -------
    >>> checked_packet(np.array([16384, -32768], dtype=np.int16))
    tensor([ 0.5000, -1.0000])
    """
    kinds = {Tensor: _TENSORS, np.ndarray: _ARRAYS}
    known = next((kinds[kind] for kind in kinds if isinstance(packet, kind)), None)
    if known is None or packet.ndim != 1 or str(packet.dtype) not in known:
        what = f"{packet.dtype} {tuple(packet.shape)}" if known else type(packet).__name__
        raise UserError(
            f"packet is {what}: give mono samples (n,), a tensor or an array of floats or of "
            "16-bit integers"
        )
    is_pcm = "int16" in str(packet.dtype)
    if isinstance(packet, np.ndarray):
        samples = torch.from_numpy(packet.astype(np.float32))
    else:
        samples = packet.detach().to("cpu", torch.float32, copy=True)
    if is_pcm:
        samples /= 32768
    bad = ~(samples.abs() <= _LOUDEST)  # NaN too
    if bad.any():
        raise UserError(
            f"packet has samples that are NaN or beyond {_LOUDEST:g} ({int(bad.sum())} of "
            f"{len(bad)}, the first is number {int(bad.nonzero()[0])}): nothing of it was taken"
        )
    return samples


class Waiting:
    """The samples of a stream from a place on, in the order in which they came.

    Arguments
    ---------
    samples : torch.Tensor
        (n,) fp32: those that are there at the start.

    Example
    -------
    >>> waiting = Waiting(torch.zeros(2))
    >>> waiting.append(torch.ones(3))
    >>> waiting.first(4), len(waiting)
    (tensor([0., 0., 1., 1.]), 5)
    >>> waiting.drop(4)
    >>> waiting.all()
    tensor([1.])
    """

    def __init__(self, samples: Tensor) -> None:
        self._parts = [samples]
        self._length = len(samples)

    def __len__(self) -> int:
        return self._length

    def append(self, samples: Tensor) -> None:
        """Add a packet."""
        self._parts.append(samples)
        self._length += len(samples)

    def all(self) -> Tensor:
        """All samples (n,); packets are joined here, once, however many they are."""
        if len(self._parts) > 1:
            self._parts = [torch.cat(self._parts)]
        return self._parts[0]

    def first(self, count: int) -> Tensor:
        """The first `count` samples."""
        return self.all()[:count]

    def drop(self, count: int) -> None:
        """Forget the first `count` samples."""
        rest = self.all()[count:]
        # A few samples at the end of hours of them would keep them all in memory.
        held = rest.untyped_storage().nbytes() // rest.element_size()
        self._parts = [rest.clone() if held > 2 * len(rest) + 65536 else rest]
        self._length = len(rest)
