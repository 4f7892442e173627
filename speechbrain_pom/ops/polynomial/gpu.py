"""PoM's two passes on a GPU: matrix products, and Triton's kernels for all that lies between them.

The functions of tiled.py, with the same arguments and results.
"""

import torch
import torch.nn.functional as F

from speechbrain_pom.ops.polynomial import launchers as launch


def feature_sums(frames, weight, bias, padding, chunk_size, degree, activation, keep):
    """See `tiled.feature_sums`.

    Without `keep` the expanded tensor is never written.
    """
    if not keep:
        sums = launch.projected_feature_sums(
            frames, weight, bias, padding, chunk_size, degree, activation
        )
        return sums, frames.new_empty(0)
    projected = F.linear(frames, weight, bias)
    return launch.feature_sums(projected, padding, chunk_size, degree, activation), projected


def feature_sums_backward(
    grad_sums, frames, weight, bias, padding, kept, chunk_size, degree, activation, needs
):
    """See `tiled.feature_sums_backward`."""
    projected = kept if kept.numel() else F.linear(frames, weight, bias)
    grad = launch.feature_sums_backward(
        projected, padding, grad_sums, chunk_size, degree, activation
    )
    return _linear_grads(frames, weight, grad, needs)


def select(frames, state, gate_weight, gate_bias, out_weight, out_bias, chunk_size, keep):
    """See `tiled.select`; without `keep` the scores are never written."""
    if keep:
        scores = F.linear(frames, gate_weight, gate_bias)
        gated = launch.select(scores, state, chunk_size)
    else:
        scores = frames.new_empty(0)
        gated = launch.projected_select(frames, gate_weight, gate_bias, state, chunk_size)
    return F.linear(gated, out_weight, out_bias), scores


def select_backward(
    grad_output, frames, state, gate_weight, gate_bias, out_weight, kept, chunk_size, needs
):
    """See `tiled.select_backward`."""
    scores = kept if kept.numel() else F.linear(frames, gate_weight, gate_bias)
    grad_gated = F.linear(grad_output, out_weight.T)
    grad_scores, grad_state, gated = launch.select_backward(scores, state, grad_gated, chunk_size)
    grad_frames, grad_gate_weight, grad_gate_bias = _linear_grads(
        frames, gate_weight, grad_scores, [needs[0], *needs[2:4]]
    )
    _, grad_out_weight, grad_out_bias = _linear_grads(
        gated, out_weight, grad_output, [False, *needs[4:6]]
    )
    gate_grads = grad_frames, grad_state, grad_gate_weight, grad_gate_bias
    return [*gate_grads, grad_out_weight, grad_out_bias]


def _linear_grads(frames, weight, grad, needs):
    """Gradients of frames, weight and bias of F.linear; empty where not wanted."""
    flat = grad.flatten(0, 1)
    return [
        F.linear(grad, weight.T) if needs[0] else grad.new_empty(0),
        flat.T @ frames.flatten(0, 1) if needs[1] else grad.new_empty(0),
        # Summed in fp32, rounded once.
        flat.sum(0, dtype=torch.float32).to(grad.dtype) if needs[2] else grad.new_empty(0),
    ]
