"""Which implementation of PoM runs: asked for, or the fastest that the device has."""

import importlib
import importlib.util
import os

import torch

from speechbrain_pom.utils.errors import UserError

BACKENDS = ("auto", "reference", "fused", "blocks", "triton")
_MODULES = {"blocks": "tiled", "triton": "gpu"}
_TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def choose_backend(backend="auto", device="cpu", dtype=torch.float32):
    """The implementation that runs on a device.

    Arguments
    ---------
    backend : str
        "reference": slow, the definition. "blocks": PyTorch's operations, block by block on a
        CPU; any device. "triton": fused kernels; GPUs. "fused": triton on a GPU, blocks on a CPU.
        "auto": as "fused", but blocks where a GPU cannot have triton.
    device : torch.device or str
        Where the frames are.
    dtype : torch.dtype
        Of the frames and weights, after autocast.

    Returns
    -------
    str
        "reference", "blocks" or "triton". It does not depend on the length of the audio.

    Raises
    ------
    UserError
        For an unknown backend, or one that is not available here.

    Example
    -------
    >>> choose_backend("auto", "cpu"), choose_backend("fused", "cpu")
    ('blocks', 'blocks')
    """
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}: choose one of {', '.join(BACKENDS)}")
    device_type = torch.device(device).type
    if backend in ("reference", "blocks"):
        return backend
    if backend != "triton" and device_type == "cpu":
        return "blocks"
    obstacle = _triton_obstacle(device_type, dtype)
    if obstacle is None:
        return "triton"
    if backend == "auto":
        return "blocks"
    raise UserError(
        f"backend is {backend!r}, which is not available here: {obstacle}; choose one of "
        "auto, reference, blocks"
    )


def available_backends(device="cpu", dtype=torch.float32):
    """The implementations that run on a device, the one of "auto" first.

    Arguments
    ---------
    device : torch.device or str
        For example "cuda".
    dtype : torch.dtype
        Of the frames and weights.

    Returns
    -------
    list of str

    Example
    -------
    >>> available_backends("cpu")[:2]
    ['blocks', 'reference']
    """
    device_type = torch.device(device).type
    names = ["blocks", "reference"]
    if _triton_obstacle(device_type, dtype) is None:
        names.insert(0 if device_type == "cuda" else 2, "triton")
    return names


def implementation(name):
    """The module with the functions of an implementation, imported when it is first needed.

    Arguments
    ---------
    name : str
        "blocks" or "triton".

    Returns
    -------
    module
    """
    return importlib.import_module(f"speechbrain_pom.ops.polynomial.{_MODULES[name]}")


def _triton_obstacle(device_type, dtype):
    """Why Triton's kernels cannot run; None if they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    # Its interpreter runs kernels on a CPU, slowly: for tests.
    if device_type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"Triton's kernels run on GPUs, not on a device of type {device_type!r}"
    if dtype not in _TRITON_DTYPES:
        return f"Triton's kernels know float32, bfloat16 and float16, not {dtype}"
    return None
