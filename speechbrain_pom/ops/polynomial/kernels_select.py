"""Triton kernels of PoM's second pass: gates times states.

Tiles: kernels_common.py. Grid of each kernel: blocks of columns, tiles, utterances. Importing this
file imports Triton.
"""

import triton
import triton.language as tl

from speechbrain_pom.ops.polynomial.kernels_common import (
    load_state,
    project,
    row_pointers,
    rows_of_tile,
    store_sums,
)
from speechbrain_pom.ops.polynomial.kernels_sums import LENGTHS


@triton.jit(do_not_specialize=LENGTHS)
def select_kernel(
    scores, state, gated,
    num_frames, chunk_size, segments,
    stride_b, stride_t, state_b, state_c,
    WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.gate_state`."""
    batch = tl.program_id(2).to(tl.int64)
    _, frame, chunk, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    mask = inside[:, None] & (col < WIDTH)[None, :]
    source = row_pointers(scores, batch, stride_b, frame, stride_t, ALIGN) + col[None, :]
    state_rows = row_pointers(state, batch, state_b, chunk, state_c, ALIGN)
    gate = tl.sigmoid(tl.load(source, mask=mask, other=0.0).to(tl.float32))
    gate *= load_state(state_rows, col, inside, WIDTH, UNITS)
    target = gated + (batch * num_frames + frame)[:, None] * WIDTH + col[None, :]
    tl.store(target, gate.to(gated.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=LENGTHS)
def select_backward_kernel(
    scores, state, grad_gated, grad_scores, gated, grad_state,
    num_frames, chunk_size, segments, num_units,
    stride_b, stride_t, state_b, state_c, grad_b, grad_t,
    WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.gate_state_backward`, the state's gradient summed per unit."""
    batch = tl.program_id(2).to(tl.int64)
    unit, frame, chunk, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    mask = inside[:, None] & (col < WIDTH)[None, :]
    source = row_pointers(scores, batch, stride_b, frame, stride_t, ALIGN) + col[None, :]
    grad_source = row_pointers(grad_gated, batch, grad_b, frame, grad_t, ALIGN) + col[None, :]
    state_rows = row_pointers(state, batch, state_b, chunk, state_c, ALIGN)
    z = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_source, mask=mask, other=0.0).to(tl.float32)
    seen = load_state(state_rows, col, inside, WIDTH, UNITS)
    gate = tl.sigmoid(z)
    gate_grad = grad * gate
    z_grad = gate_grad * seen * (1.0 - gate)
    target = (batch * num_frames + frame)[:, None] * WIDTH + col[None, :]
    tl.store(gated + target, (gate * seen).to(gated.dtype.element_ty), mask=mask)
    tl.store(grad_scores + target, z_grad.to(grad_scores.dtype.element_ty), mask=mask)
    store_sums(grad_state, gate_grad, batch, unit, num_units, col, WIDTH, WIDTH, FRAMES)


@triton.jit(do_not_specialize=LENGTHS)
def projected_select_kernel(
    frames, weight, bias, state, gated,
    num_frames, chunk_size, segments,
    stride_b, stride_t, stride_w, state_b, state_c,
    WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.project_and_gate_state`."""
    batch = tl.program_id(2).to(tl.int64)
    _, frame, chunk, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    rows = row_pointers(frames, batch, stride_b, frame, stride_t, ALIGN)
    projected = project(
        rows, inside, weight, bias, col, stride_w, ALIGN, 1, WIDTH, DEPTH, BLOCK_K, PRECISION
    )
    state_rows = row_pointers(state, batch, state_b, chunk, state_c, ALIGN)
    gate = tl.sigmoid(projected[0]) * load_state(state_rows, col, inside, WIDTH, UNITS)
    target = gated + (batch * num_frames + frame)[:, None] * WIDTH + col[None, :]
    mask = inside[:, None] & (col < WIDTH)[None, :]
    tl.store(target, gate.to(gated.dtype.element_ty), mask=mask)
