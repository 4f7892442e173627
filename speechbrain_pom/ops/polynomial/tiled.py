"""PoM's two passes over the frames in blocks that stay in the processor's cache, forward and back.

Everything between the matrix products is pointwise work on tensors E = k*D times as wide as the
frames. A block writes them into memory that the next block uses again, so they cost neither traffic
to main memory nor fresh pages; in inference no more than one block of them exists.
"""

import math
import threading

import torch

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.common.sums import chunk_sums, rows_of_frames
from speechbrain_pom.ops.polynomial.pointwise import features_backward, features_of, gate_of

# 1024 x 1952 floats = 8 MB at the paper's size. Shorter blocks pay for the start of their matrix
# products, longer ones leave the cache. Other devices have no use for blocks: there, starting
# kernels costs more than memory traffic.
CPU_BLOCK_FRAMES = 1024
_of_thread = threading.local()  # memory of blocks, by dtype and number


def block_ranges(batch, num_frames, device, multiple_of=1):
    """Cut (B, T) into ranges of utterances and frames: whole utterances, or parts of one.

    Arguments
    ---------
    batch, num_frames : int
        B and T.
    device : torch.device
        Of the frames.
    multiple_of : int
        Chunk size of the mask, so that a block holds whole chunks.

    Returns
    -------
    list of (slice, slice)
        Utterances and frames.

    Example
    -------
    >>> cpu = torch.device("cpu")
    >>> [(items.start, items.stop) for items, _ in block_ranges(5, 400, cpu)]
    [(0, 2), (2, 4), (4, 5)]
    >>> [(frames.start, frames.stop) for _, frames in block_ranges(1, 2200, cpu, multiple_of=500)]
    [(0, 1000), (1000, 2000), (2000, 2200)]
    """
    if device.type != "cpu" or batch * num_frames <= CPU_BLOCK_FRAMES:
        return [(slice(0, batch), slice(0, num_frames))]
    num_items = max(1, CPU_BLOCK_FRAMES // max(num_frames, 1))
    size = max(1, CPU_BLOCK_FRAMES // multiple_of) * multiple_of
    return [
        (slice(item, min(item + num_items, batch)), slice(start, min(start + size, num_frames)))
        for item in range(0, batch, num_items)
        for start in range(0, num_frames, size)
    ]


def feature_sums(frames, weight, bias, padding, chunk_size, degree, activation, keep):
    """Sums over time of phi(W x), one per chunk.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, g).
    weight, bias : torch.Tensor
        (E, g) and (E,) or None.
    padding : torch.Tensor or None
        (B, T) boolean, True = padding.
    chunk_size : int or None
        Frames per chunk; None: one sum for all.
    degree, activation
        As for `features_of`.
    keep : bool
        Whether to return the projection, for the backward pass.

    Returns
    -------
    sums : torch.Tensor
        (B, C, E), fp32 or better.
    projected : torch.Tensor
        (B, T, E), or empty.
    """
    batch, num_frames, _ = frames.shape
    blocks = _Blocks(frames, weight.shape[0], chunk_size)
    num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
    sums = frames.new_zeros(batch, num_chunks, weight.shape[0], dtype=blocks.dtype)
    kept = frames.new_empty(batch, num_frames, weight.shape[0]) if keep else frames.new_empty(0)
    for items, span in blocks:
        projected = kept[items, span] if keep else blocks.scratch(items, span, frames.dtype)
        _linear(frames[items, span], weight, bias, out=projected)
        in_place = not keep and projected.dtype == blocks.dtype
        features = projected if in_place else blocks.scratch(items, span, blocks.dtype, 1)
        features_of(projected, degree, activation, out=features)
        if padding is not None:
            # masked_fill rather than a product: padding may hold anything, even NaN.
            features.masked_fill_(padding[items, span].unsqueeze(-1), 0.0)
        _add_sums(sums, features, items, span, chunk_size)
    return sums, kept


def feature_sums_backward(
    grad_sums, frames, weight, bias, padding, kept, chunk_size, degree, activation, needs
):
    """Gradient of `feature_sums`.

    Arguments
    ---------
    grad_sums : torch.Tensor
        (B, C, E).
    frames, weight, bias, padding, chunk_size, degree, activation
        As for `feature_sums`.
    kept : torch.Tensor
        The projection; empty: it is computed again.
    needs : list of bool
        Which gradients are wanted: of the frames, the weight, the bias.

    Returns
    -------
    list of torch.Tensor
        Of the frames, the weight and the bias; empty where not wanted.
    """
    blocks = _Blocks(frames, weight.shape[0], chunk_size)
    grads = _LinearGrads(frames, weight, needs)
    for items, span in blocks:
        x = frames[items, span]
        projected = blocks.projection(kept, x, weight, bias, items, span)
        rows = rows_of_frames(grad_sums[items], chunk_size, span.start, span.stop)
        grad = blocks.scratch(items, span, blocks.dtype, 1)
        work = blocks.scratch(items, span, blocks.dtype, 2)
        features_backward(projected, rows, degree, activation, out=grad, work=work)
        if padding is not None:
            grad.masked_fill_(padding[items, span].unsqueeze(-1), 0.0)
        grads.add(items, span, grad.to(frames.dtype))
    return grads.results()


def select(frames, state, gate_weight, gate_bias, out_weight, out_bias, chunk_size, keep):
    """W_o (sigmoid(W_s x) * H).

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, g).
    state : torch.Tensor
        (B, C, E), fp32 or better: one row, or one per chunk.
    gate_weight, gate_bias : torch.Tensor
        (E, g) and (E,) or None.
    out_weight, out_bias : torch.Tensor
        (d_out, E) and (d_out,) or None.
    chunk_size : int or None
        Frames per row of the state; None: one row for all.
    keep : bool
        Whether to return the scores, for the backward pass.

    Returns
    -------
    output : torch.Tensor
        (B, T, d_out).
    scores : torch.Tensor
        (B, T, E), or empty.
    """
    batch, num_frames, _ = frames.shape
    num_expanded = gate_weight.shape[0]
    blocks = _Blocks(frames, num_expanded, chunk_size)
    output = frames.new_empty(batch, num_frames, out_weight.shape[0])
    kept = frames.new_empty(batch, num_frames, num_expanded) if keep else frames.new_empty(0)
    for items, span in blocks:
        scores = kept[items, span] if keep else blocks.scratch(items, span, frames.dtype)
        _linear(frames[items, span], gate_weight, gate_bias, out=scores)
        in_place = not keep and scores.dtype == state.dtype
        gated = scores if in_place else blocks.scratch(items, span, state.dtype, 1)
        gate_of(scores, rows_of_frames(state[items], chunk_size, span.start, span.stop), out=gated)
        _linear(gated.to(frames.dtype), out_weight, out_bias, out=output[items, span])
    return output, kept


def select_backward(
    grad_output, frames, state, gate_weight, gate_bias, out_weight, kept, chunk_size, needs
):
    """Gradient of `select`.

    Arguments
    ---------
    grad_output : torch.Tensor
        (B, T, d_out).
    frames, state, gate_weight, gate_bias, out_weight, chunk_size
        As for `select`.
    kept : torch.Tensor
        The scores; empty: they are computed again.
    needs : list of bool
        Which gradients are wanted: of the frames, the state, and the four parameters.

    Returns
    -------
    list of torch.Tensor
        Of the frames, the state and the four parameters; empty where not wanted.
    """
    blocks = _Blocks(frames, gate_weight.shape[0], chunk_size)
    gate_grads = _LinearGrads(frames, gate_weight, [needs[0], *needs[2:4]])
    grad_state = torch.zeros_like(state)
    grad_out_weight = _WeightGrad(out_weight, needs[4])
    for items, span in blocks:
        scores = blocks.projection(kept, frames[items, span], gate_weight, gate_bias, items, span)
        rows = rows_of_frames(state[items], chunk_size, span.start, span.stop)
        grad = grad_output[items, span]
        gate = torch.sigmoid(scores, out=blocks.scratch(items, span, state.dtype, 1))
        work = blocks.scratch(items, span, state.dtype, 2)
        if needs[4]:
            gated = torch.mul(gate, rows, out=work).to(frames.dtype)
            grad_out_weight.add(grad.flatten(0, 1), gated.flatten(0, 1))
        if grad.dtype == work.dtype:
            _linear(grad, out_weight.T, None, out=work)
        else:
            work.copy_(torch.nn.functional.linear(grad, out_weight.T))
        work.mul_(gate)
        _add_sums(grad_state, work, items, span, chunk_size)
        work.mul_(rows)
        torch.addcmul(work, work, gate, value=-1, out=work)  # times (1 - gate)
        gate_grads.add(items, span, work.to(frames.dtype))
    grad_frames, grad_weight, grad_bias = gate_grads.results()
    grad_out_bias = grad_output.sum((0, 1)) if needs[5] else grad_output.new_empty(0)
    gate_results = grad_frames, grad_state, grad_weight, grad_bias
    return [*gate_results, grad_out_weight.result(), grad_out_bias]


class _WeightGrad:
    """Gradient of a weight matrix, summed over blocks in fp32 or better."""

    def __init__(self, weight, needed):
        self._weight, self._needed = weight, needed
        self._total = None

    def add(self, grad, frames):
        """Add grad^T frames, for (t, E) and (t, g)."""
        if self._total is None:  # not zeros: they cost as much as a small block
            self._total = (grad.T @ frames).to(compute_dtype(grad.dtype))
        elif self._total.dtype == grad.dtype:
            self._total.addmm_(grad.T, frames)
        else:
            self._total += grad.T @ frames

    def result(self):
        """The sum, in the dtype of the weight; empty if not wanted."""
        if not self._needed:
            return self._weight.new_empty(0)
        if self._total is None:
            return torch.zeros_like(self._weight)
        return self._total.to(self._weight.dtype)


def _linear(frames, weight, bias, out):
    """F.linear of (B, t, g) into (B, t, E); both must be flat in their first two dimensions."""
    x, target = frames.flatten(0, 1), out.view(-1, out.shape[-1])
    if bias is None:
        torch.mm(x, weight.T, out=target)
    else:
        torch.addmm(bias, x, weight.T, out=target)


def _add_sums(sums, values, items, span, chunk_size):
    if chunk_size is None:
        sums[items] += values.sum(1, keepdim=True)
    else:
        rows = slice(span.start // chunk_size, -(-span.stop // chunk_size))
        sums[items, rows] = chunk_sums(values, chunk_size)


def _kept_scratch(size, dtype, number):
    """Memory of this thread that stays from call to call, so that its pages are not made anew."""
    buffers = _of_thread.__dict__
    if (dtype, number) not in buffers or buffers[dtype, number].numel() < size:
        with torch.inference_mode(False):  # else it could not be written to outside of that mode
            buffers[dtype, number] = torch.empty(size, dtype=dtype)
    return buffers[dtype, number][:size]


class _Blocks:
    """The blocks of a pass over the frames, and the memory that they share."""

    def __init__(self, frames, num_expanded, chunk_size):
        batch, num_frames, _ = frames.shape
        self.dtype = compute_dtype(frames.dtype)
        self._ranges = block_ranges(batch, num_frames, frames.device, chunk_size or 1)
        self._num_expanded, self._device = num_expanded, frames.device

    def __iter__(self):
        return iter(self._ranges)

    def scratch(self, items, span, dtype, number=0):
        """Memory for the expanded tensor of a block; the same number is the same memory."""
        shape = items.stop - items.start, span.stop - span.start, self._num_expanded
        if self._device.type == "cpu" and shape[0] * shape[1] <= CPU_BLOCK_FRAMES:
            return _kept_scratch(math.prod(shape), dtype, number).view(shape)
        return torch.empty(shape, dtype=dtype, device=self._device)

    def projection(self, kept, frames, weight, bias, items, span):
        """The projection of a block, kept or computed again, in fp32 or better."""
        if kept.numel():
            projected = kept[items, span]
        else:
            projected = self.scratch(items, span, frames.dtype)
            _linear(frames, weight, bias, out=projected)
        return projected.to(self.dtype)


class _LinearGrads:
    """Collects the gradients of a linear layer over blocks of frames."""

    def __init__(self, frames, weight, needs):
        self._frames, self._weight, self._needs = frames, weight, needs
        self._grad_frames = frames.new_empty(frames.shape if needs[0] else 0)
        self._grad_weight = _WeightGrad(weight, needs[1])
        self._grad_bias = torch.zeros(
            weight.shape[0] if needs[2] else 0,
            dtype=compute_dtype(weight.dtype),
            device=weight.device,
        )

    def add(self, items, span, grad):
        """Add the gradient (b, t, E) of the layer's output at a block of frames."""
        if self._needs[0]:
            _linear(grad, self._weight.T, None, out=self._grad_frames[items, span])
        flat = grad.flatten(0, 1)
        if self._needs[1]:
            self._grad_weight.add(flat, self._frames[items, span].flatten(0, 1))
        if self._needs[2]:
            self._grad_bias += flat.sum(0, dtype=self._grad_bias.dtype)

    def results(self):
        """Gradients of frames, weight and bias; empty where not wanted."""
        grad_bias = self._grad_bias.to(self._weight.dtype)
        return [self._grad_frames, self._grad_weight.result(), grad_bias]
