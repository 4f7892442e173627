"""Triton kernels of PoM's first pass: sums over time of the polynomial features.

Equations: README.md in the folder above. Tiles: kernels_common.py. Grid of each kernel: blocks of
columns, tiles, utterances. Importing this file imports Triton.
"""

import triton
import triton.language as tl

from speechbrain_pom.ops.polynomial.kernels_common import (
    gelu,
    gelu_slope,
    load_state,
    power,
    project,
    relu,
    row_pointers,
    rows_of_tile,
    store_sums,
    without_padding,
)

# What depends on the length of the audio: compiled once for all values (from 128 frames on).
LENGTHS = ("num_frames", "chunk_size", "segments", "num_units", "padding_b")
LENGTHS += ("stride_b", "sums_b", "state_b", "grad_b")  # ALIGN says what must be known of them


@triton.jit(do_not_specialize=LENGTHS)
def feature_sums_kernel(
    projected, padding, sums,
    num_frames, chunk_size, segments, num_units,
    stride_b, stride_t, padding_b, padding_t,
    DEGREE: tl.constexpr, RELU_POWER: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.sum_features`, sums of units; WIDTH: columns of a branch."""
    batch = tl.program_id(2).to(tl.int64)
    unit, frame, _, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    valid = without_padding(inside, padding, padding_b, padding_t, batch, frame)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    mask = valid[:, None] & (col < WIDTH)[None, :]
    source = row_pointers(projected, batch, stride_b, frame, stride_t, ALIGN) + col[None, :]
    if RELU_POWER:
        z = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        features = power(relu(z), DEGREE)
        store_sums(sums, features, batch, unit, num_units, col, WIDTH, WIDTH, FRAMES)
    else:
        branches = ()  # all loads first: they are in flight together
        for i in tl.static_range(DEGREE):
            branches += (tl.load(source + i * WIDTH, mask=mask, other=0.0),)
        product = gelu(branches[0].to(tl.float32))
        for i in tl.static_range(DEGREE):
            if i > 0:
                product = product * gelu(branches[i].to(tl.float32))
            target = sums + i * WIDTH
            store_sums(target, product, batch, unit, num_units, col, DEGREE * WIDTH, WIDTH, FRAMES)


@triton.jit(do_not_specialize=LENGTHS)
def feature_sums_backward_kernel(
    projected, padding, grad_sums, grad_projected,
    num_frames, chunk_size, segments,
    stride_b, stride_t, padding_b, padding_t, sums_b, sums_c,
    DEGREE: tl.constexpr, RELU_POWER: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.sum_features_backward`: equations of `features.features_backward`."""
    batch = tl.program_id(2).to(tl.int64)
    _, frame, chunk, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    valid = without_padding(inside, padding, padding_b, padding_t, batch, frame)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    mask = valid[:, None] & (col < WIDTH)[None, :]
    stored = inside[:, None] & (col < WIDTH)[None, :]
    source = row_pointers(projected, batch, stride_b, frame, stride_t, ALIGN) + col[None, :]
    grad_rows = row_pointers(grad_sums, batch, sums_b, chunk, sums_c, ALIGN)
    dtype = grad_projected.dtype.element_ty
    target = grad_projected + col[None, :]
    if RELU_POWER:
        target += (batch * num_frames + frame)[:, None] * WIDTH
        z = tl.load(source, mask=mask, other=0.0).to(tl.float32)
        grad = load_state(grad_rows, col, inside, WIDTH, UNITS)
        grad = tl.where(z <= 0, 0.0, grad * (DEGREE * power(z, DEGREE - 1)))
        tl.store(target, tl.where(valid[:, None], grad, 0.0).to(dtype), mask=stored)
    else:
        target += (batch * num_frames + frame)[:, None] * (DEGREE * WIDTH)
        branches = ()
        for i in tl.static_range(DEGREE):
            branches += (tl.load(source + i * WIDTH, mask=mask, other=0.0),)
        heads = ()  # H_1 to H_(k-1)
        for i in tl.static_range(DEGREE - 1):
            head = gelu(branches[i].to(tl.float32))
            if i > 0:
                head = heads[i - 1] * head
            heads += (head,)
        # g_k = dH_k, dh_i = g_i H_(i-1), g_(i-1) = dH_(i-1) + g_i h_i
        running = load_state(grad_rows + (DEGREE - 1) * WIDTH, col, inside, WIDTH, UNITS)
        for i in tl.static_range(DEGREE - 1, -1, -1):
            z = branches[i].to(tl.float32)
            grad = running * gelu_slope(z)
            if i > 0:
                grad = grad * heads[i - 1]
                before = load_state(grad_rows + (i - 1) * WIDTH, col, inside, WIDTH, UNITS)
                running = before + running * gelu(z)
            grad = tl.where(valid[:, None], grad, 0.0)
            tl.store(target + i * WIDTH, grad.to(dtype), mask=stored)


@triton.jit(do_not_specialize=LENGTHS)
def projected_feature_sums_kernel(
    frames, weight, bias, padding, sums,
    num_frames, chunk_size, segments, num_units,
    stride_b, stride_t, stride_w, padding_b, padding_t,
    DEGREE: tl.constexpr, RELU_POWER: tl.constexpr, WIDTH: tl.constexpr, ALIGN: tl.constexpr,
    DEPTH: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
    UNITS: tl.constexpr, FRAMES: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """As `launchers.project_and_sum_features`, sums of units."""
    batch = tl.program_id(2).to(tl.int64)
    unit, frame, _, inside = rows_of_tile(num_frames, chunk_size, segments, UNITS, FRAMES)
    valid = without_padding(inside, padding, padding_b, padding_t, batch, frame)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    rows = row_pointers(frames, batch, stride_b, frame, stride_t, ALIGN)
    branches: tl.constexpr = 1 if RELU_POWER else DEGREE
    projected = project(
        rows, valid, weight, bias, col, stride_w, ALIGN, branches, WIDTH, DEPTH, BLOCK_K, PRECISION
    )
    # Rows of padding hold phi(b): zeros in the first factor take them out.
    if RELU_POWER:
        product = tl.where(valid[:, None], power(relu(projected[0]), DEGREE), 0.0)
    else:
        product = tl.where(valid[:, None], gelu(projected[0]), 0.0)
    for i in tl.static_range(branches):
        if i > 0:
            product = product * gelu(projected[i])
        target = sums + i * WIDTH
        store_sums(target, product, batch, unit, num_units, col, branches * WIDTH, WIDTH, FRAMES)
