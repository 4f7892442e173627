"""Slow, obvious version of the selective scan: the truth that the fast ones are tested against."""

import torch
from torch import Tensor


def selective_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, reverse: bool = False
) -> Tensor:
    """One frame after the other, in float64; see `speechbrain_pom.ops.selective_scan`."""
    dtype = x.dtype
    x, dt, A, B, C, D = (tensor.double() for tensor in (x, dt, A, B, C, D))
    num_frames = x.shape[1]
    state = x.new_zeros(x.shape[0], *A.shape)  # h (B, d, N)
    outputs = [None] * num_frames
    for t in reversed(range(num_frames)) if reverse else range(num_frames):
        decay = torch.exp(dt[:, t, :, None] * A)
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(-1) * B[:, t, None, :]
        outputs[t] = (state * C[:, t, None, :]).sum(-1) + D * x[:, t]
    return torch.stack(outputs, dim=1).to(dtype) if outputs else x.to(dtype)
