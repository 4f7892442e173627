"""Which implementation of an operator runs: the one asked for, or the fastest available."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from speechbrain_pom.utils.errors import UserError


@dataclass(frozen=True)
class Backends:
    """The implementations of an operator: a reference, one for any device, one with kernels.

    Arguments
    ---------
    portable : str
        Name of the implementation that runs on any device.
    kernels : str
        Name of the one that needs kernels.
    obstacle : callable
        Of a device type and a dtype: why the kernels cannot run there; None if they can.
    aliases : tuple of str
        Other names for the kernels.

    Example
    -------
    >>> backends = Backends("plain", "fast", lambda device_type, dtype: "no GPU was found")
    >>> backends.choose("auto", "cpu", torch.float32)
    'plain'
    >>> backends.choose("fast", "cuda", torch.float32)
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: backend is 'fast', which is not available here: no GPU \
was found; choose one of auto, reference, plain
    """

    portable: str
    kernels: str
    obstacle: Callable[[str, torch.dtype], str | None]
    aliases: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What a user may ask for."""
        return ("auto", "reference", self.portable, self.kernels, *self.aliases)

    def choose(self, backend: str, device: torch.device | str, dtype: torch.dtype) -> str:
        """The implementation that runs: "reference", the portable one or the kernels.

        Arguments
        ---------
        backend : str
            One of the names; "auto": the kernels where they can run, else the portable one.
        device : torch.device or str
            Where the frames are.
        dtype : torch.dtype
            Of the frames and weights.

        Returns
        -------
        str

        Raises
        ------
        UserError
            For an unknown backend, or one that is not available on this device.
        """
        if backend not in self.names:
            raise UserError(f"backend is {backend!r}: choose one of {', '.join(self.names)}")
        if backend in ("reference", self.portable):
            return backend
        obstacle = self.obstacle(torch.device(device).type, dtype)
        if obstacle is None:
            return self.kernels
        if backend == "auto":
            return self.portable
        raise UserError(
            f"backend is {backend!r}, which is not available here: {obstacle}; choose one of "
            f"auto, reference, {self.portable}"
        )
