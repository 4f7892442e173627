"""Launchers of PoM's Triton kernels: functions of tensors that allocate what they return.

Equations: README.md in the folder above. No autograd here, and no change of dtype between linear
layer and result: sums and states are fp32, (B, T, E) tensors have the dtype of the input. Sums add
in one fixed order, without atomics, so equal inputs give equal bits.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.polynomial.features import Polynomial
from speechbrain_pom.ops.polynomial.tiles import (
    POINTWISE,
    Tiles,
    aligned_strides,
    kernels_for,
    padding_arguments,
    product_constants,
    product_operand,
    row_strides,
    unit_stride,
)

# Rows of a pointwise tile. Where segments are added in a second pass, 128 frames each, so that
# partial sums in fp32 are 3 % of a bf16 tensor; else fewer, for fewer registers.
SUM_ROWS, ROWS = 128, 64
# Chunks are padded to a power of two in a tile. That is free for kernels bound by memory, but
# costs arithmetic in a product: under this share of used rows the fused product cannot pay.
MIN_USED_ROWS = 0.75


def sum_features(
    projected: Tensor, padding: Tensor | None, chunk_size: int | None, polynomial: Polynomial
) -> Tensor:
    """Sums over time of the features of a projection: `features_of` and its masked sum in one pass.

    Arguments
    ---------
    projected : torch.Tensor
        (B, T, E), fp32, bf16 or fp16.
    padding : torch.Tensor or None
        (B, T) boolean, True = padding: never read, so it may hold anything.
    chunk_size : int or None
        Frames per sum; None: all.
    polynomial : Polynomial
        The features.

    Returns
    -------
    torch.Tensor
        (B, C, E) in fp32; C = 1, or ceil(T / chunk_size).

    Raises
    ------
    UserError
        Where Triton is not installed, or for a dtype that the kernels do not know.
    """
    kernel = kernels_for(projected, "kernels_sums").feature_sums_kernel
    projected = unit_stride(projected)
    batch, num_frames, width = projected.shape
    tiles = Tiles(num_frames, chunk_size, SUM_ROWS if chunk_size is None else ROWS)
    sums = tiles.new_sums(projected, width)
    padding, *padding_strides = padding_arguments(padding)
    columns = width // polynomial.branches
    strides, align = aligned_strides(*projected.stride()[:2])
    tiles.launch(
        kernel, batch, columns,
        projected, padding, sums,
        num_frames, tiles.chunk_size, tiles.segments, tiles.num_units,
        *strides, *padding_strides, ALIGN=align,
        **_constants(polynomial), **POINTWISE,
    )  # fmt: skip
    return tiles.add_segments(sums)


def sum_features_backward(
    projected: Tensor,
    padding: Tensor | None,
    grad_sums: Tensor,
    chunk_size: int | None,
    polynomial: Polynomial,
) -> Tensor:
    """Gradient of `sum_features`, from the projection alone: GELU and slope are computed again.

    The gradient of the sums is (B, C, E); the result (B, T, E) has the dtype of the projection and
    zeros in the padding.
    """
    kernel = kernels_for(projected, "kernels_sums").feature_sums_backward_kernel
    projected, grad_sums = unit_stride(projected), unit_stride(grad_sums)
    batch, num_frames, width = projected.shape
    # Every branch stays in registers: the more there are, the fewer rows.
    tiles = Tiles(num_frames, chunk_size, max(8, SUM_ROWS >> (polynomial.degree - 1).bit_length()))
    grad = torch.empty(projected.shape, dtype=projected.dtype, device=projected.device)
    padding, *padding_strides = padding_arguments(padding)
    columns = width // polynomial.branches
    strides, align = aligned_strides(*projected.stride()[:2], *row_strides(grad_sums, batch))
    tiles.launch(
        kernel, batch, columns,
        projected, padding, grad_sums, grad,
        num_frames, tiles.chunk_size, tiles.segments,
        *strides[:2], *padding_strides, *strides[2:], ALIGN=align,
        **_constants(polynomial), **POINTWISE,
    )  # fmt: skip
    return grad


def gate_state(scores: Tensor, state: Tensor, chunk_size: int | None) -> Tensor:
    """sigmoid(scores) * state, each frame with the row of its chunk.

    Arguments
    ---------
    scores : torch.Tensor
        (B, T, E), fp32, bf16 or fp16.
    state : torch.Tensor
        (B or 1, C, E), C = 1 without chunks.
    chunk_size : int or None
        Frames per row of the state; None: one row for all.

    Returns
    -------
    torch.Tensor
        (B, T, E), of the dtype of the scores.
    """
    kernel = kernels_for(scores, "kernels_select").select_kernel
    scores, state = unit_stride(scores), unit_stride(state)
    batch, num_frames, width = scores.shape
    tiles = Tiles(num_frames, chunk_size, ROWS)
    gated = torch.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    strides, align = aligned_strides(*scores.stride()[:2], *row_strides(state, batch))
    tiles.launch(
        kernel, batch, width,
        scores, state, gated,
        num_frames, tiles.chunk_size, tiles.segments,
        *strides, ALIGN=align, **POINTWISE,
    )  # fmt: skip
    return gated


def gate_state_backward(
    scores: Tensor, state: Tensor, grad_gated: Tensor, chunk_size: int | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `gate_state`, and its output again (the gradient of W_o needs it), in one pass.

    Returns
    -------
    grad_scores : torch.Tensor
        (B, T, E), of the dtype of the scores.
    grad_state : torch.Tensor
        (B, C, E) in fp32, per utterance also where the state has one row for the batch.
    gated : torch.Tensor
        (B, T, E), of the dtype of the scores: what `gate_state` returns.
    """
    kernel = kernels_for(scores, "kernels_select").select_backward_kernel
    scores, state, grad_gated = map(unit_stride, (scores, state, grad_gated))
    batch, num_frames, width = scores.shape
    tiles = Tiles(num_frames, chunk_size, ROWS)
    grad_scores, gated = (
        torch.empty(scores.shape, dtype=scores.dtype, device=scores.device) for _ in range(2)
    )
    grad_state = tiles.new_sums(scores, width)
    strides, align = aligned_strides(
        *scores.stride()[:2], *row_strides(state, batch), *grad_gated.stride()[:2]
    )
    tiles.launch(
        kernel, batch, width,
        scores, state, grad_gated, grad_scores, gated, grad_state,
        num_frames, tiles.chunk_size, tiles.segments, tiles.num_units,
        *strides, ALIGN=align, **POINTWISE,
    )  # fmt: skip
    return grad_scores, tiles.add_segments(grad_state), gated


def project_and_sum_features(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    chunk_size: int | None,
    polynomial: Polynomial,
) -> Tensor:
    """`sum_features` of frames W^T + b in one kernel: the (B, T, E) projection is never written.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, g), fp32, bf16 or fp16. fp32 is multiplied as
        `torch.backends.cuda.matmul.fp32_precision` (or `allow_tf32`) says.
    weight, bias : torch.Tensor
        (E, g) and (E,) or None, of the dtype of the frames.
    padding, chunk_size, polynomial
        As for `sum_features`. Chunks that would leave more than a quarter of the rows of a tile
        empty (5 of 8, say) are projected by `F.linear` and summed by `sum_features`.

    Returns
    -------
    torch.Tensor
        (B, C, E) in fp32.
    """
    kernel = kernels_for(frames, "kernels_sums").projected_feature_sums_kernel
    rows, constants = product_constants(frames, polynomial.branches)
    batch, num_frames, _ = frames.shape
    tiles = Tiles(num_frames, chunk_size, rows)
    if chunk_size is not None and tiles.used_rows < MIN_USED_ROWS:
        projected = F.linear(frames, weight, bias)
        return sum_features(projected, padding, chunk_size, polynomial)
    frames, weight = product_operand(frames), product_operand(weight)
    sums = tiles.new_sums(frames, weight.shape[0])
    padding, *padding_strides = padding_arguments(padding)
    columns = weight.shape[0] // polynomial.branches
    strides, align = aligned_strides(*frames.stride()[:2], weight.stride(0))
    tiles.launch(
        kernel, batch, columns,
        frames, weight, bias if bias is None else bias.contiguous(), padding, sums,
        num_frames, tiles.chunk_size, tiles.segments, tiles.num_units,
        *strides, *padding_strides, ALIGN=align,
        **_constants(polynomial), **constants,
    )  # fmt: skip
    return tiles.add_segments(sums)


def project_and_gate_state(
    frames: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    state: Tensor,
    chunk_size: int | None,
) -> Tensor:
    """`gate_state` of the scores frames W_s^T + b_s in one kernel: the scores are never written.

    Frames and weights are as for `project_and_sum_features`, the state as for `gate_state`. The
    result (B, T, E) has the dtype of the frames.
    """
    kernel = kernels_for(frames, "kernels_select").projected_select_kernel
    rows, constants = product_constants(frames)
    batch, num_frames, _ = frames.shape
    width = gate_weight.shape[0]
    tiles = Tiles(num_frames, chunk_size, rows)
    gated = torch.empty(batch, num_frames, width, dtype=frames.dtype, device=frames.device)
    frames, gate_weight = product_operand(frames), product_operand(gate_weight)
    state = unit_stride(state)
    strides, align = aligned_strides(
        *frames.stride()[:2], gate_weight.stride(0), *row_strides(state, batch)
    )
    tiles.launch(
        kernel, batch, width,
        frames, gate_weight, gate_bias if gate_bias is None else gate_bias.contiguous(), state,
        gated,
        num_frames, tiles.chunk_size, tiles.segments,
        *strides, ALIGN=align, **constants,
    )  # fmt: skip
    return gated


def _constants(polynomial):
    return {
        "DEGREE": polynomial.degree,
        "RELU_POWER": polynomial.activation == "relu_power",
    }
