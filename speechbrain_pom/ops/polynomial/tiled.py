"""PoM's two passes over the frames in tiles that stay in the processor's cache.

Everything between the matrix products is pointwise work on tensors E = k*D times as wide as the
frames. A tile writes them into memory that the next tile uses again, so they cost neither traffic
to main memory nor new pages; in inference no more than one tile of them exists. The functions
implement the operators in autograd.py and take what `Passes` takes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.means import rows_of_frames
from speechbrain_pom.ops.common.sums import chunk_sums
from speechbrain_pom.ops.polynomial.cpu_tiles import CpuTiles, LinearGrads, WeightGrad, linear
from speechbrain_pom.ops.polynomial.features import (
    Polynomial,
    features_backward,
    features_of,
    gate_of,
)


def feature_sums_forward(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    chunk_size: int | None,
    polynomial: Polynomial,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """Sums (B, C, E) over time of the features, and the projection (B, T, E) or an empty tensor."""
    batch, num_frames, _ = frames.shape
    tiles = CpuTiles(frames, weight.shape[0], chunk_size)
    num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
    sums = frames.new_zeros(batch, num_chunks, weight.shape[0], dtype=tiles.dtype)
    kept = frames.new_empty(batch, num_frames, weight.shape[0]) if keep else frames.new_empty(0)
    for items, span in tiles:
        projected = kept[items, span] if keep else tiles.scratch(items, span, frames.dtype)
        linear(frames[items, span], weight, bias, out=projected)
        in_place = not keep and projected.dtype == tiles.dtype
        features = projected if in_place else tiles.scratch(items, span, tiles.dtype, 1)
        features_of(projected, polynomial, out=features)
        if padding is not None:
            # masked_fill rather than a product: padding may hold anything, even NaN.
            features.masked_fill_(padding[items, span].unsqueeze(-1), 0.0)
        _add_sums(sums, features, items, span, chunk_size)
    return sums, kept


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
    """Gradients of the frames, the weight and the bias; empty where not needed.

    An empty `kept` is a projection that has to be computed again.
    """
    tiles = CpuTiles(frames, weight.shape[0], chunk_size)
    grads = LinearGrads(frames, weight, needs)
    for items, span in tiles:
        x = frames[items, span]
        projected = tiles.projection(kept, x, weight, bias, items, span)
        rows = rows_of_frames(grad_sums[items], chunk_size, span.start, span.stop)
        grad = tiles.scratch(items, span, tiles.dtype, 1)
        work = tiles.scratch(items, span, tiles.dtype, 2)
        features_backward(projected, rows, polynomial, out=grad, work=work)
        if padding is not None:
            grad.masked_fill_(padding[items, span].unsqueeze(-1), 0.0)
        grads.add(items, span, grad.to(frames.dtype))
    return grads.results()


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
    """W_o (sigmoid(W_s x) * H), and the scores W_s x (B, T, E) or an empty tensor."""
    batch, num_frames, _ = frames.shape
    num_expanded = gate_weight.shape[0]
    tiles = CpuTiles(frames, num_expanded, chunk_size)
    output = frames.new_empty(batch, num_frames, out_weight.shape[0])
    kept = frames.new_empty(batch, num_frames, num_expanded) if keep else frames.new_empty(0)
    for items, span in tiles:
        scores = kept[items, span] if keep else tiles.scratch(items, span, frames.dtype)
        linear(frames[items, span], gate_weight, gate_bias, out=scores)
        in_place = not keep and scores.dtype == state.dtype
        gated = scores if in_place else tiles.scratch(items, span, state.dtype, 1)
        gate_of(scores, rows_of_frames(state[items], chunk_size, span.start, span.stop), out=gated)
        linear(gated.to(frames.dtype), out_weight, out_bias, out=output[items, span])
    return output, kept


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
    """Gradients of the frames, the state and the four parameters; empty where not needed.

    An empty `kept` stands for scores that have to be computed again.
    """
    tiles = CpuTiles(frames, gate_weight.shape[0], chunk_size)
    gate_grads = LinearGrads(frames, gate_weight, [needs[0], *needs[2:4]])
    grad_state = torch.zeros_like(state)
    grad_out_weight = WeightGrad(out_weight, needs[4])
    for items, span in tiles:
        scores = tiles.projection(kept, frames[items, span], gate_weight, gate_bias, items, span)
        rows = rows_of_frames(state[items], chunk_size, span.start, span.stop)
        grad = grad_output[items, span]
        gate = torch.sigmoid(scores, out=tiles.scratch(items, span, state.dtype, 1))
        work = tiles.scratch(items, span, state.dtype, 2)
        if needs[4]:
            gated = torch.mul(gate, rows, out=work).to(frames.dtype)
            grad_out_weight.add(grad.flatten(0, 1), gated.flatten(0, 1))
        if grad.dtype == work.dtype:
            linear(grad, out_weight.T, None, out=work)
        else:
            work.copy_(F.linear(grad, out_weight.T))
        work.mul_(gate)
        _add_sums(grad_state, work, items, span, chunk_size)
        work.mul_(rows)
        torch.addcmul(work, work, gate, value=-1, out=work)  # times (1 - gate)
        gate_grads.add(items, span, work.to(frames.dtype))
    grad_frames, grad_weight, grad_bias = gate_grads.results()
    grad_out_bias = grad_output.sum((0, 1)) if needs[5] else grad_output.new_empty(0)
    gate_results = grad_frames, grad_state, grad_weight, grad_bias
    return [*gate_results, grad_out_weight.result(), grad_out_bias]


def _add_sums(sums, values, items, span, chunk_size):
    if chunk_size is None:
        sums[items] += values.sum(1, keepdim=True)
    else:
        rows = slice(span.start // chunk_size, -(-span.stop // chunk_size))
        sums[items, rows] = chunk_sums(values, chunk_size)
