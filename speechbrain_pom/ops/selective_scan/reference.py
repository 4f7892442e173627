"""Slow, obvious version of the selective scan: the truth that the fast ones are tested against."""

import torch
from torch import Tensor


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, reverse: bool = False
) -> Tensor:
    """One frame after the other, in float64; see `speechbrain_pom.ops.selective_scan`."""
    state = x.new_zeros(x.shape[0], *reversed(A.shape))
    return scan_from(state, x, dt, A, B, C, D, reverse=reverse)[0]


def scan_from(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """The same after an initial state (B, N, d), and the state after the last frame."""
    dtype, state_dtype = x.dtype, state.dtype
    x, dt, A, B, C, D = (tensor.double() for tensor in (x, dt, A, B, C, D))
    num_frames = x.shape[1]
    state = state.double().transpose(1, 2)  # h (B, d, N)
    outputs = [None] * num_frames
    for t in reversed(range(num_frames)) if reverse else range(num_frames):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(-1) * B[:, t, None, :]
        outputs[t] = (state * C[:, t, None, :]).sum(-1) + D * x[:, t]
    output = torch.stack(outputs, dim=1) if outputs else x
    return output.to(dtype), state.transpose(1, 2).to(state_dtype)
