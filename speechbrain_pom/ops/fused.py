"""PoM's two passes over the frames, block by block, with backward passes of their own.

Everything between the matrix products is pointwise work on tensors E = k*D times as wide as the
frames. Blocks keep those tensors in the processor's cache; autograd would keep four of them per
layer, these functions keep two (the outputs of the two projections) or none (`recompute`).
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from speechbrain_pom.ops.pooling import chunk_sums, rows_of_frames

# The expanded tensors of a block (256 x 1952 floats = 2 MB at the paper's size) stay in cache. A
# GPU has no use for blocks: launching kernels costs more than memory traffic within one tensor.
CPU_BLOCK_FRAMES = 256


def block_ranges(num_frames, device, multiple_of=1):
    """Ranges of frames to work on, each a multiple of something long, except the last.

    Arguments
    ---------
    num_frames : int
        T.
    device : torch.device
        Of the frames.
    multiple_of : int
        Chunk size of the mask, so that a block holds whole chunks.

    Returns
    -------
    list of (int, int)

    Example
    -------
    >>> block_ranges(600, torch.device("cpu"), multiple_of=100)
    [(0, 200), (200, 400), (400, 600)]
    """
    size = CPU_BLOCK_FRAMES if device.type == "cpu" else max(num_frames, 1)
    size = max(1, size // multiple_of) * multiple_of
    return [(start, min(start + size, num_frames)) for start in range(0, max(num_frames, 1), size)]


def features_of(projected, degree, activation):
    """phi of a projection, in fp32 or better: (..., E).

    Arguments
    ---------
    projected : torch.Tensor
        (..., E), branch i in columns i*n to (i+1)*n.
    degree : int
        k.
    activation : str
        "gelu_product" or "relu_power".

    Returns
    -------
    torch.Tensor
        (..., E).
    """
    # fp16 overflows and bf16 rounds away in products of k activations: upcast right after the
    # projection, which is where the half-precision speed is.
    projected = projected.to(torch.promote_types(projected.dtype, torch.float32))
    if activation == "relu_power":
        return torch.relu(projected) ** degree
    if degree == 1:
        return F.gelu(projected)
    branches = F.gelu(projected).chunk(degree, dim=-1)
    products = [branches[0]]
    for branch in branches[1:]:
        products.append(products[-1] * branch)
    return torch.cat(products, dim=-1)


def features_backward(projected, grad, degree, activation):
    """Gradient of `features_of`.

    With g_k = dH_k and g_i = dH_i + g_(i+1) h_(i+1): dh_i = g_i H_(i-1), H_0 = 1.

    Arguments
    ---------
    projected : torch.Tensor
        (..., E), as `features_of` got it.
    grad : torch.Tensor
        Gradient of its output, broadcastable to (..., E).
    degree, activation
        As for `features_of`.

    Returns
    -------
    torch.Tensor
        (..., E), of the dtype of the projection.
    """
    z = projected.to(torch.promote_types(projected.dtype, torch.float32))
    if activation == "relu_power":
        grad = grad * (degree * torch.relu(z) ** (degree - 1)) * (z > 0)
        return grad.to(projected.dtype)
    branches = F.gelu(z).chunk(degree, dim=-1)
    grads = grad.expand_as(z).chunk(degree, dim=-1)
    products = [branches[0]]
    for branch in branches[1:-1]:
        products.append(products[-1] * branch)
    inner = [None] * degree
    running = grads[-1]
    for i in range(degree - 1, 0, -1):
        inner[i] = running * products[i - 1]
        running = grads[i - 1] + running * branches[i]
    inner[0] = running
    inner = torch.cat(inner, dim=-1) if degree > 1 else inner[0]
    return torch.ops.aten.gelu_backward(inner, z).to(projected.dtype)


class FeatureSums(torch.autograd.Function):
    """Sums over time of phi(W x), one per chunk: (B, T, g) to (B, C, E), fp32 or better."""

    @staticmethod
    def forward(ctx, frames, weight, bias, padding, chunk_size, degree, activation, keep):
        """`keep`: store the projection for the backward pass, else it is computed again."""
        batch, num_frames, _ = frames.shape
        dtype = torch.promote_types(frames.dtype, torch.float32)
        num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
        sums = frames.new_zeros(batch, num_chunks, weight.shape[0], dtype=dtype)
        kept = frames.new_empty(batch, num_frames, weight.shape[0]) if keep else None
        for start, stop in block_ranges(num_frames, frames.device, chunk_size or 1):
            projected = F.linear(frames[:, start:stop], weight, bias)
            if keep:
                kept[:, start:stop] = projected
            features = features_of(projected, degree, activation)
            if padding is not None:
                # masked_fill rather than a product: padding may hold anything, even NaN.
                features = features.masked_fill_(padding[:, start:stop].unsqueeze(-1), 0.0)
            if chunk_size is None:
                sums += features.sum(1, keepdim=True)
            else:
                rows = slice(start // chunk_size, -(-stop // chunk_size))
                sums[:, rows] = chunk_sums(features, chunk_size)
        ctx.save_for_backward(frames, weight, bias, padding, kept)
        ctx.options = chunk_size, degree, activation
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_sums):
        """Gradients of frames, weight and bias."""
        frames, weight, bias, padding, kept = ctx.saved_tensors
        chunk_size, degree, activation = ctx.options
        grads = _LinearGrads(frames, weight, bias, ctx.needs_input_grad[:3])
        for start, stop in block_ranges(frames.shape[1], frames.device, chunk_size or 1):
            x = frames[:, start:stop]
            projected = F.linear(x, weight, bias) if kept is None else kept[:, start:stop]
            grad = rows_of_frames(grad_sums, chunk_size, start, stop)
            grad = features_backward(projected, grad, degree, activation)
            if padding is not None:
                grad = grad.masked_fill(padding[:, start:stop].unsqueeze(-1), 0.0)
            grads.add(start, stop, grad)
        return (*grads.results(), None, None, None, None, None)


class Select(torch.autograd.Function):
    """W_o (sigmoid(W_s x) * H): (B, T, d) frames and (B, C, E) states to (B, T, d_out)."""

    @staticmethod
    def forward(ctx, frames, state, gate_weight, gate_bias, out_weight, out_bias, chunk_size, keep):
        """`keep`: store the scores for the backward pass, else they are computed again."""
        batch, num_frames, _ = frames.shape
        output = frames.new_empty(batch, num_frames, out_weight.shape[0])
        kept = frames.new_empty(batch, num_frames, gate_weight.shape[0]) if keep else None
        for start, stop in block_ranges(num_frames, frames.device, chunk_size or 1):
            scores = F.linear(frames[:, start:stop], gate_weight, gate_bias)
            if keep:
                kept[:, start:stop] = scores
                gate = torch.sigmoid(scores)
            else:
                gate = scores.sigmoid_()
            gated = gate * rows_of_frames(state, chunk_size, start, stop)
            output[:, start:stop] = F.linear(gated.to(frames.dtype), out_weight, out_bias)
        ctx.save_for_backward(frames, state, gate_weight, gate_bias, out_weight, out_bias, kept)
        ctx.chunk_size = chunk_size
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output):
        """Gradients of frames, state, and the four parameters."""
        frames, state, gate_weight, gate_bias, out_weight, out_bias, kept = ctx.saved_tensors
        chunk_size = ctx.chunk_size
        needs = ctx.needs_input_grad
        gate_grads = _LinearGrads(frames, gate_weight, gate_bias, (needs[0], needs[2], needs[3]))
        grad_state = torch.zeros_like(state)
        grad_out_weight = _accumulator(out_weight) if needs[4] else None
        for start, stop in block_ranges(frames.shape[1], frames.device, chunk_size or 1):
            x = frames[:, start:stop]
            scores = F.linear(x, gate_weight, gate_bias) if kept is None else kept[:, start:stop]
            gate = torch.sigmoid(scores.to(state.dtype))
            rows = rows_of_frames(state, chunk_size, start, stop)
            grad = grad_output[:, start:stop]
            if grad_out_weight is not None:
                gated = (gate * rows).to(frames.dtype)
                _add_product(grad_out_weight, grad.flatten(0, 1), gated.flatten(0, 1))
            grad_gated = F.linear(grad, out_weight.T).to(state.dtype)
            gate_state = grad_gated * gate
            if chunk_size is None:
                grad_state += gate_state.sum(1, keepdim=True)
            else:
                chunks = slice(start // chunk_size, -(-stop // chunk_size))
                grad_state[:, chunks] = chunk_sums(gate_state, chunk_size)
            grad_scores = gate_state.mul_(rows).mul_(1 - gate)
            gate_grads.add(start, stop, grad_scores.to(frames.dtype))
        grad_frames, grad_gate_weight, grad_gate_bias = gate_grads.results()
        if grad_out_weight is not None:
            grad_out_weight = grad_out_weight.to(out_weight.dtype)
        grad_out_bias = grad_output.sum((0, 1)) if needs[5] and out_bias is not None else None
        gate_parameters = grad_gate_weight, grad_gate_bias
        return grad_frames, grad_state, *gate_parameters, grad_out_weight, grad_out_bias, None, None


class _LinearGrads:
    """Collects the gradients of a linear layer over blocks of frames."""

    def __init__(self, frames, weight, bias, needed):
        self._frames, self._weight = frames, weight
        self._grad_frames = torch.empty_like(frames) if needed[0] else None
        self._grad_weight = _accumulator(weight) if needed[1] else None
        self._grad_bias = _accumulator(bias) if needed[2] and bias is not None else None

    def add(self, start, stop, grad):
        """Add the gradient (B, t, E) of the layer's output at a block of frames."""
        if self._grad_frames is not None:
            self._grad_frames[:, start:stop] = F.linear(grad, self._weight.T)
        flat = grad.flatten(0, 1)
        if self._grad_weight is not None:
            _add_product(self._grad_weight, flat, self._frames[:, start:stop].flatten(0, 1))
        if self._grad_bias is not None:
            self._grad_bias += flat.sum(0, dtype=self._grad_bias.dtype)

    def results(self):
        """Gradients of frames, weight and bias; None where not needed."""
        sums = (self._grad_weight, self._grad_bias)
        sums = (None if grad is None else grad.to(self._weight.dtype) for grad in sums)
        return self._grad_frames, *sums


def _accumulator(parameter):
    """Zeros for a gradient that is summed over blocks: in fp32 or better."""
    dtype = torch.promote_types(parameter.dtype, torch.float32)
    return torch.zeros_like(parameter, dtype=dtype)


def _add_product(total, left, right):
    """total += left^T right, for (t, m) and (t, n)."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
    else:
        total += left.T @ right
