"""What the Triton kernels share: tiles of frames, the activation and its slope, sums of a tile.

A tile is UNITS * FRAMES rows by COLS columns of one utterance. A unit is a chunk, or a segment of
FRAMES frames of one: its frames are summed inside of one program, so that no sum needs atomics and
every run adds in the same order. Small chunks share a tile (then a chunk is one unit), long ones
are cut into segments (then a unit is a tile). Importing this file imports Triton.
"""

import triton
import triton.language as tl


@triton.jit
def rows_of_tile(num_frames, chunk_size, segments, UNITS: tl.constexpr, FRAMES: tl.constexpr):
    """What this program works on: axis 1 of the grid numbers the tiles of an utterance.

    Arguments
    ---------
    num_frames, chunk_size, segments, UNITS, FRAMES
        T, and the attributes of `tiles.Tiles`.

    Returns
    -------
    unit (UNITS,), frame (ROWS,) in int64, chunk, inside (ROWS,)
        Indices, and which rows are frames. The chunk is (ROWS,), or one number where a tile is one
        unit: its row of the state is then loaded once.
    """
    row = tl.arange(0, UNITS * FRAMES)
    unit = tl.program_id(1) * UNITS + tl.arange(0, UNITS)
    if UNITS == 1:
        chunk = tl.program_id(1) // segments
        in_chunk = (tl.program_id(1) % segments) * FRAMES + row
    else:
        chunk = tl.program_id(1) * UNITS + row // FRAMES
        in_chunk = row % FRAMES
    frame = chunk * chunk_size + in_chunk
    return unit, frame.to(tl.int64), chunk, (in_chunk < chunk_size) & (frame < num_frames)


@triton.jit
def without_padding(inside, padding, stride_b, stride_t, batch, frame):
    """The rows that are frames and no padding.

    Arguments
    ---------
    inside, batch, frame
        (ROWS,) which rows are frames; utterance; (ROWS,) frames.
    padding, stride_b, stride_t
        (B, T) bytes or None, and strides.

    Returns
    -------
    (ROWS,)
    """
    valid = inside
    if padding is not None:
        padded = tl.load(padding + batch * stride_b + frame * stride_t, mask=inside, other=1)
        valid = inside & (padded == 0)
    return valid


@triton.jit
def row_pointers(tensor, batch, stride_b, row, stride_t, ALIGN: tl.constexpr):
    """Pointers to rows of a (B, T, .) tensor.

    Triton knows no more of a stride than whether 16 divides it. As products with a constant the
    strides tell it which rows start at multiples of 16 bytes, so that wide loads are allowed.

    Arguments
    ---------
    tensor, batch, row
        Pointer; utterance; (ROWS,) rows, or one.
    stride_b, stride_t, ALIGN
        Strides in units of ALIGN elements.

    Returns
    -------
    (ROWS, 1), or one pointer
    """
    start = tensor + batch * stride_b * ALIGN
    if len(row.shape) == 0:
        pointers = start + row.to(tl.int64) * stride_t * ALIGN
    else:
        pointers = start + (row.to(tl.int64) * stride_t * ALIGN)[:, None]
    return pointers


@triton.jit
def load_state(rows, col, inside, WIDTH: tl.constexpr, UNITS: tl.constexpr):
    """Rows of the state in fp32, 0 outside.

    Arguments
    ---------
    rows, col
        Pointers of `row_pointers` for the chunk of `rows_of_tile`; (COLS,) columns.
    inside, WIDTH, UNITS
        (ROWS,) which rows are frames; number of columns; as for `rows_of_tile`.

    Returns
    -------
    (1, COLS) where a tile is one unit, else (ROWS, COLS)
    """
    mask = (col < WIDTH)[None, :]
    if UNITS > 1:
        mask = inside[:, None] & mask
    return tl.load(rows + col[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def store_sums(
    sums, values, batch, unit, num_units, col,
    ROW_SIZE: tl.constexpr, WIDTH: tl.constexpr, FRAMES: tl.constexpr,
):  # fmt: skip
    """Sum the rows of each unit and store the sums.

    Arguments
    ---------
    sums, values
        Pointer to (B, num_units, ROW_SIZE), at the first column; (ROWS, COLS).
    batch, unit, num_units, col
        Utterance; (UNITS,) units, of how many; (COLS,) columns.
    ROW_SIZE, WIDTH, FRAMES
        Columns of `sums`; columns to fill; rows of a unit.
    """
    UNITS: tl.constexpr = unit.shape[0]
    if UNITS == 1:
        total = tl.sum(values, 0)[None, :]
    else:
        total = tl.sum(tl.reshape(values, (UNITS, FRAMES, values.shape[1])), 1)
    row = batch * num_units + unit
    mask = (unit < num_units)[:, None] & (col < WIDTH)[None, :]
    tl.store(sums + row[:, None] * ROW_SIZE + col[None, :], total, mask=mask)


@triton.jit
def upper_tail(z):
    """Q(|z|), the normal distribution beyond |z|, within 1e-7: 2^p(|z|), p of degree 8.

    log2 of Q is smooth, so one polynomial (weighted minimax fit to |z| < 6; beyond it p falls, and
    Q is 0 in fp32) and one exp2 do. The usual erff selects between two polynomials and costs about
    twice the instructions, more than Hopper has to spend on an element of bf16 at full bandwidth.

    Arguments
    ---------
    z : tl.tensor
        fp32.

    Returns
    -------
    Of the shape of z.
    """
    a = tl.abs(z)
    p = -2.09645479e-06 * a + 3.06611720e-05
    p = p * a - 1.45487271e-04
    p = p * a - 2.33147933e-04
    p = p * a + 7.18584351e-03
    p = p * a - 5.25782384e-02
    p = p * a - 4.59182037e-01
    p = p * a - 1.15110829
    return tl.exp2(p * a - 1.0)


@triton.jit
def relu(z):
    """max(z, 0) that keeps NaN, as PyTorch does."""
    return tl.where(z < 0, 0.0, z)


@triton.jit
def gelu(z):
    """z * Phi(z) = max(z, 0) - |z| * Q(|z|), to the rounding of fp32."""
    return relu(z) - tl.abs(z) * upper_tail(z)


@triton.jit
def gelu_slope(z):
    """The derivative Phi(z) + z * phi(z), to the rounding of fp32."""
    tail = upper_tail(z)
    density = 0.3989422804 * tl.exp2(z * z * -0.7213475204)  # 2^(-z^2 / 2 / ln 2)
    return tl.where(z > 0, 1.0 - tail, tail) + z * density


@triton.jit
def power(z, DEGREE: tl.constexpr):
    """z^DEGREE by products, 1 for DEGREE 0.

    Arguments
    ---------
    z, DEGREE
        fp32 tensor; int of 0 or more.

    Returns
    -------
    Of the shape of z.
    """
    result = tl.full(z.shape, 1.0, tl.float32)
    for _ in tl.static_range(DEGREE):
        result = result * z
    return result


@triton.jit
def project(
    rows, inside, weight, bias, col, stride_w, ALIGN: tl.constexpr, BRANCHES: tl.constexpr,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Linear layer, accumulated in fp32, for the same columns of all branches.

    They share one pass over the frames: a tile reads no more per product than one that is BRANCHES
    times as wide.

    Arguments
    ---------
    rows, inside
        (ROWS, 1) pointers to the frames, (ROWS,) which of them to read; the others are zeros.
    weight, stride_w, ALIGN, bias
        Pointer to (BRANCHES * WIDTH, DEPTH); its stride in units of ALIGN; pointer or None.
    col, WIDTH
        (COLS,) columns of a branch; how many a branch has.
    BRANCHES, DEPTH, BLOCK_K, PRECISION
        Branches; features of a frame; how many at a time; input_precision of `tl.dot`.

    Returns
    -------
    tuple of BRANCHES tensors (ROWS, COLS)
    """
    totals = ()
    for _ in tl.static_range(BRANCHES):
        totals += (tl.zeros((inside.shape[0], col.shape[0]), dtype=tl.float32),)
    weight_rows = weight + (col.to(tl.int64) * stride_w * ALIGN)[None, :]
    branch_step = tl.full((1, 1), WIDTH * ALIGN, tl.int64) * stride_w
    for start in tl.range(0, DEPTH, BLOCK_K):
        depth = start + tl.arange(0, BLOCK_K)
        x_mask = inside[:, None] & (depth < DEPTH)[None, :]
        x = tl.load(rows + depth[None, :], mask=x_mask, other=0.0)
        w_mask = (depth < DEPTH)[:, None] & (col < WIDTH)[None, :]
        added = ()
        for i in tl.static_range(BRANCHES):
            source = weight_rows + i * branch_step + depth[:, None]
            w = tl.load(source, mask=w_mask, other=0.0)
            added += (tl.dot(x, w, totals[i], input_precision=PRECISION),)
        totals = added
    projected = ()
    for i in tl.static_range(BRANCHES):
        z = totals[i]
        if bias is not None:
            offset = tl.load(bias + i * WIDTH + col, mask=col < WIDTH, other=0.0)
            z = z + offset.to(tl.float32)[None, :]
        projected += (z,)
    return projected
