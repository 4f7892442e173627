"""PoM's two passes on a GPU: matrix products, and Triton's kernels for everything between them.

The functions implement the operators in autograd.py, as those of tiled.py do, with the same
arguments and results.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.polynomial import launchers
from speechbrain_pom.ops.polynomial.features import Polynomial


def feature_sums_forward(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    chunk_size: int | None,
    polynomial: Polynomial,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """See `tiled.feature_sums_forward`; without `keep` the projection is never written."""
    if not keep:
        linear = frames, weight, bias
        sums = launchers.project_and_sum_features(*linear, padding, chunk_size, polynomial)
        return sums, frames.new_empty(0)
    projected = F.linear(frames, weight, bias)
    return launchers.sum_features(projected, padding, chunk_size, polynomial), projected


def feature_sums_backward(
    grad_sums: Tensor,
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    kept: Tensor,
    chunk_size: int | None,
    polynomial: Polynomial,
    needs: list[bool],
) -> list[Tensor]:
    """See `tiled.feature_sums_backward`."""
    projected = kept if kept.numel() else F.linear(frames, weight, bias)
    grad = launchers.sum_features_backward(projected, padding, grad_sums, chunk_size, polynomial)
    return _linear_grads(frames, weight, grad, needs)


def select_forward(
    frames: Tensor,
    state: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    chunk_size: int | None,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """See `tiled.select_forward`; without `keep` the scores are never written."""
    if keep:
        scores = F.linear(frames, gate_weight, gate_bias)
        gated = launchers.gate_state(scores, state, chunk_size)
    else:
        scores = frames.new_empty(0)
        gated = launchers.project_and_gate_state(frames, gate_weight, gate_bias, state, chunk_size)
    return F.linear(gated, out_weight, out_bias), scores


def select_backward(
    grad_output: Tensor,
    frames: Tensor,
    state: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    out_weight: Tensor,
    kept: Tensor,
    chunk_size: int | None,
    needs: list[bool],
) -> list[Tensor]:
    """See `tiled.select_backward`."""
    scores = kept if kept.numel() else F.linear(frames, gate_weight, gate_bias)
    grad_gated = F.linear(grad_output, out_weight.T)
    grad_scores, grad_state, gated = launchers.gate_state_backward(
        scores, state, grad_gated, chunk_size
    )
    grad_frames, grad_gate_weight, grad_gate_bias = _linear_grads(
        frames, gate_weight, grad_scores, [needs[0], *needs[2:4]]
    )
    _, grad_out_weight, grad_out_bias = _linear_grads(
        gated, out_weight, grad_output, [False, *needs[4:6]]
    )
    gate_grads = grad_frames, grad_state, grad_gate_weight, grad_gate_bias
    return [*gate_grads, grad_out_weight, grad_out_bias]


def _linear_grads(frames, weight, grad, needs):
    """Gradients of frames, weight and bias of F.linear; empty where not needed."""
    flat = grad.flatten(0, 1)
    return [
        F.linear(grad, weight.T) if needs[0] else grad.new_empty(0),
        flat.T @ frames.flatten(0, 1) if needs[1] else grad.new_empty(0),
        # Summed in fp32, rounded once.
        flat.sum(0, dtype=torch.float32).to(grad.dtype) if needs[2] else grad.new_empty(0),
    ]
