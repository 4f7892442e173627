"""Which implementation of PoM runs: asked for, or the fastest that the device has."""

import importlib
import importlib.util
import os
from types import ModuleType

import torch

from speechbrain_pom.ops.common.backends import Backends

TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MODULES = {"tiled": "tiled", "triton": "gpu"}


def triton_obstacle(dtype: torch.dtype) -> str | None:
    """Why Triton's kernels cannot run on any device; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    if dtype not in TRITON_DTYPES:
        return f"Triton's kernels know float32, bfloat16 and float16, not {dtype}"
    return None


def _obstacle(device_type, dtype):
    # Its interpreter runs kernels on a CPU, slowly: for tests.
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton's kernels run on GPUs, not on a device of type {device_type!r}"
    return triton_obstacle(dtype)


_BACKENDS = Backends("tiled", "triton", _obstacle, aliases=("fused",))
BACKENDS = _BACKENDS.names
FORMER_NAMES = {"blocks": "tiled"}  # of version 0.1; accepted for one version more


def choose_backend(
    backend: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> str:
    """The implementation of PoM that runs on a device.

    Arguments
    ---------
    backend : str
        "reference": slow, the definition. "tiled": PyTorch's operations, on a CPU in tiles that
        stay in its cache; any device. "triton": fused kernels; GPUs. "fused": triton on a GPU,
        tiled on a CPU. "auto": as "fused", but tiled where a GPU cannot have triton.
    device : torch.device or str
        Where the frames are.
    dtype : torch.dtype
        Of the frames and weights, after autocast.

    Returns
    -------
    str
        "reference", "tiled" or "triton". It does not depend on the length of the audio.

    Raises
    ------
    UserError
        For an unknown backend, or one that is not available here.

    Example
    -------
    >>> choose_backend("auto", "cpu"), choose_backend("fused", "cpu")
    ('tiled', 'tiled')
    """
    backend = FORMER_NAMES.get(backend, backend)
    if backend in ("auto", "fused") and torch.device(device).type == "cpu":
        return "tiled"
    return _BACKENDS.choose(backend, device, dtype)


def available_backends(
    device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> list[str]:
    """The implementations of PoM that run on a device, the one of "auto" first.

    Arguments
    ---------
    device : torch.device or str
        For example "cuda".
    dtype : torch.dtype
        Dtype of the frames and weights.

    Returns
    -------
    list of str

    Example
    -------
    >>> available_backends("cpu")[:2]
    ['tiled', 'reference']
    """
    device_type = torch.device(device).type
    names = ["tiled", "reference"]
    if _obstacle(device_type, dtype) is None:
        names.insert(0 if device_type == "cuda" else 2, "triton")
    return names


def implementation(backend: str) -> ModuleType:
    """The module of "tiled" or "triton", imported when it is first needed."""
    return importlib.import_module(f"speechbrain_pom.ops.polynomial.{_MODULES[backend]}")
