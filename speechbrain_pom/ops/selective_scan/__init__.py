"""The selective scan of Mamba as a function: checks, padding, direction, choice of backend.

Equations and shapes: README.md in the folder above. Slow version: reference.py.
"""

import importlib

import torch
from torch import Tensor

from speechbrain_pom.ops.common.backends import Backends
from speechbrain_pom.ops.common.masks import check_padding_mask
from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import zero_padding
from speechbrain_pom.ops.selective_scan import chunked, reference
from speechbrain_pom.utils.errors import UserError

KERNEL_DEVICES = ("cuda",)  # where the kernels of the mamba_ssm package run
_KERNEL_MODULE = "mamba_ssm.ops.selective_scan_interface"


def _kernel_obstacle(device_type, dtype):
    """Why the kernels of mamba_ssm cannot run; None if they can."""
    if device_type not in KERNEL_DEVICES:
        return f"its kernels run on NVIDIA GPUs, not on a device of type {device_type!r}"
    if dtype == torch.float64:
        return f"its kernels compute in float32, not in {dtype}"
    try:
        importlib.import_module(_KERNEL_MODULE)
    except ImportError as error:  # not installed, or built for another PyTorch
        return f"{error} (pip install 'speechbrain-pom[mamba]')"
    return None


_BACKENDS = Backends("chunked", "mamba_ssm", _kernel_obstacle)
SCAN_BACKENDS = _BACKENDS.names


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    key_padding_mask: Tensor | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> Tensor:
    """A linear recurrence over time whose step, input and output depend on the frame.

    For each of d channels, with a state h of N numbers (Mamba, arXiv 2312.00752, section 3):

        h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t        y_t = C_t h_t + D x_t

    Padded frames leave the state as it is, whatever they hold; their outputs are zero. So with
    padding at the end the scan from the right begins at the last frame of the utterance.

    Arguments
    ---------
    x : torch.Tensor
        (B, T, d): the inputs.
    dt : torch.Tensor
        (B, T, d): the time steps, none negative.
    A : torch.Tensor
        (d, N): the rates, all negative (then the state cannot grow by itself).
    B, C : torch.Tensor
        (B, T, N): input and output weights of the states.
    D : torch.Tensor
        (d,): weight of the input itself.
    key_padding_mask : torch.Tensor, optional
        (B, T) boolean, True = padding.
    reverse : bool
        True: from the last frame to the first, h_t follows from h_(t+1).
    backend : str
        "auto" (the fastest there is) or a name that `choose_scan_backend` explains.

    Returns
    -------
    torch.Tensor
        (B, T, d), of the dtype of x. The scan is in fp32, or in float64 for float64 x.

    Raises
    ------
    UserError
        For shapes that do not fit, an unknown backend, or one that is not available here.
    RuntimeError
        When the chunked scan is differentiated twice.

    Example
    -------
    >>> x, dt = torch.randn(2, 50, 3), torch.rand(2, 50, 3)
    >>> A, D = -torch.arange(1.0, 5.0).repeat(3, 1), torch.ones(3)
    >>> B, C = torch.randn(2, 2, 50, 4)
    >>> y = selective_scan(x, dt, A, B, C, D)
    >>> y.shape
    torch.Size([2, 50, 3])
    >>> slow = selective_scan(x, dt, A, B, C, D, backend="reference")
    >>> torch.allclose(y, slow, atol=1e-5)
    True
    """
    _check_shapes(x, dt, A, B, C, D)
    check_padding_mask(key_padding_mask, x)
    backend = choose_scan_backend(backend, x.device, x.dtype)
    x, dt, B, C = (zero_padding(tensor, key_padding_mask) for tensor in (x, dt, B, C))
    scan = {"reference": reference.selective_scan, "chunked": _chunked, "mamba_ssm": _kernel}
    with torch.autocast(x.device.type, enabled=False):
        return scan[backend](x, dt, A, B, C, D, reverse=reverse)


@torch.no_grad()
def selective_scan_from(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The selective scan from left to right after an initial state, without gradients.

    Arguments
    ---------
    state : torch.Tensor
        (B, N, d): h before the first frame, in fp32 or better.
    x, dt, A, B, C, D
        As for `selective_scan`.
    backend : str
        As for `selective_scan`; the kernels of mamba_ssm take no initial state, and "chunked" runs
        in their place.

    Returns
    -------
    output : torch.Tensor
        (B, T, d).
    state : torch.Tensor
        (B, N, d): h after the last frame.

    Raises
    ------
    UserError
        As `selective_scan`.

    Example
    -------
    >>> x, dt = torch.randn(2, 50, 3), torch.rand(2, 50, 3)
    >>> A, D = -torch.arange(1.0, 5.0).repeat(3, 1), torch.ones(3)
    >>> B, C = torch.randn(2, 2, 50, 4)
    >>> state = torch.zeros(2, 4, 3)
    >>> first, state = selective_scan_from(state, x[:, :20], dt[:, :20], A, B[:, :20], C[:, :20], D)
    >>> last, state = selective_scan_from(state, x[:, 20:], dt[:, 20:], A, B[:, 20:], C[:, 20:], D)
    >>> whole = selective_scan(x, dt, A, B, C, D)
    >>> torch.allclose(torch.cat([first, last], dim=1), whole, atol=1e-5)
    True
    """
    _check_shapes(x, dt, A, B, C, D)
    backend = choose_scan_backend(backend, x.device, x.dtype)
    with torch.autocast(x.device.type, enabled=False):
        if backend == "reference":
            return reference.scan_from(state, x, dt, A, B, C, D)
        dtype = state.dtype
        output, state = chunked.scan_from(state, x, dt, A.to(dtype), B, C)
        return torch.addcmul(output, x.to(dtype), D.to(dtype)).to(x.dtype), state


def choose_scan_backend(
    backend: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> str:
    """The implementation of the selective scan that runs on a device.

    Arguments
    ---------
    backend : str
        "reference": slow, the definition, in float64. "chunked": PyTorch's operations; any device.
        "mamba_ssm": the kernels of the package of this name; NVIDIA GPUs. "auto": mamba_ssm where
        it can be had, else chunked.
    device : torch.device or str
        Where the frames are.
    dtype : torch.dtype
        Dtype of the frames.

    Returns
    -------
    str
        "reference", "chunked" or "mamba_ssm".

    Raises
    ------
    UserError
        For an unknown backend, or one that is not available here.

    Example
    -------
    >>> choose_scan_backend("auto", "cpu")
    'chunked'
    """
    return _BACKENDS.choose(backend, device, dtype)


def _chunked(x, dt, A, B, C, D, *, reverse):
    dtype = compute_dtype(x.dtype)
    tensors = (x, dt, A.to(dtype), B, C)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    output, _ = chunked.chunked_scan(*tensors, reverse, keep)
    return torch.addcmul(output, x.to(dtype), D.to(dtype)).to(x.dtype)


def _kernel(x, dt, A, B, C, D, *, reverse):
    """The package's kernel: (B, d, T) and (B, N, T), always from left to right.

    It wants one dtype for all of x, dt, B and C: fp32, because a rounded dt is another decay.
    """

    def time_last(tensor):
        tensor = tensor.float().transpose(1, 2)
        return (tensor.flip(-1) if reverse else tensor).contiguous()

    kernel = importlib.import_module(_KERNEL_MODULE).selective_scan_fn
    output = kernel(*map(time_last, (x, dt)), A.float(), *map(time_last, (B, C)), D.float())
    return (output.flip(-1) if reverse else output).transpose(1, 2).to(x.dtype)


def _check_shapes(x, dt, A, B, C, D):
    if x.dim() != 3 or A.dim() != 2:
        raise UserError(
            f"x is of shape {tuple(x.shape)} and A of {tuple(A.shape)}: give (B, T, d) and (d, N)"
        )
    batch, num_frames, width = x.shape
    num_states = A.shape[1]
    per_frame = (batch, num_frames, num_states)
    wanted = {
        "dt": (dt, x.shape),
        "A": (A, (width, num_states)),
        "B": (B, per_frame),
        "C": (C, per_frame),
        "D": (D, (width,)),
    }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise UserError(
                f"{name} is of shape {tuple(tensor.shape)}: with x {tuple(x.shape)} and N = "
                f"{num_states} give {tuple(shape)}"
            )
