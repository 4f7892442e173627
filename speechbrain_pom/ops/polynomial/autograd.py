"""PoM's two passes over the frames as operators of PyTorch, with backward passes of their own.

Autograd would keep four (B, T, E) tensors per layer; these operators keep two, the outputs of the
two projections, or none and compute them again. To `torch.compile` each is one node of the graph,
without a graph break. How they compute is up to the implementation: tiled.py or gpu.py. The
operators take numbers and strings one by one, as PyTorch's schemas know nothing else; `Passes` is
how to call them.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.ops.polynomial.backends import implementation
from speechbrain_pom.ops.polynomial.features import Polynomial

FLAGS = "int? chunk_size, int degree, str activation"


@torch.library.custom_op(
    "speechbrain_pom::feature_sums",
    mutates_args=(),
    schema=f"(Tensor frames, Tensor weight, Tensor? bias, Tensor? padding, {FLAGS}, bool keep, "
    "str backend) -> (Tensor, Tensor)",
)
def feature_sums(
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    chunk_size: int | None,
    degree: int,
    activation: str,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Sums over time of the features, and the projection if it is kept."""
    polynomial = Polynomial(degree, activation)
    forward = implementation(backend).feature_sums_forward
    return forward(frames, weight, bias, padding, chunk_size, polynomial, keep)


@torch.library.custom_op(
    "speechbrain_pom::feature_sums_backward",
    mutates_args=(),
    schema="(Tensor grad_sums, Tensor frames, Tensor weight, Tensor? bias, Tensor? padding, "
    f"Tensor kept, {FLAGS}, bool[] needs, str backend) -> Tensor[]",
)
def feature_sums_backward(
    grad_sums: Tensor,
    frames: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Tensor | None,
    kept: Tensor,
    chunk_size: int | None,
    degree: int,
    activation: str,
    needs: list[bool],
    backend: str,
) -> list[Tensor]:
    """Gradient of `feature_sums`."""
    polynomial = Polynomial(degree, activation)
    return implementation(backend).feature_sums_backward(
        grad_sums, frames, weight, bias, padding, kept, chunk_size, polynomial, needs
    )


@torch.library.custom_op(
    "speechbrain_pom::select",
    mutates_args=(),
    schema="(Tensor frames, Tensor state, Tensor gate_weight, Tensor? gate_bias, "
    "Tensor out_weight, Tensor? out_bias, int? chunk_size, bool keep, str backend) "
    "-> (Tensor, Tensor)",
)
def select(
    frames: Tensor,
    state: Tensor,
    gate_weight: Tensor,
    gate_bias: Tensor | None,
    out_weight: Tensor,
    out_bias: Tensor | None,
    chunk_size: int | None,
    keep: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """W_o (sigmoid(W_s x) * H), and the scores W_s x if they are kept."""
    forward = implementation(backend).select_forward
    return forward(frames, state, gate_weight, gate_bias, out_weight, out_bias, chunk_size, keep)


@torch.library.custom_op(
    "speechbrain_pom::select_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor frames, Tensor state, Tensor gate_weight, "
    "Tensor? gate_bias, Tensor out_weight, Tensor kept, int? chunk_size, bool[] needs, "
    "str backend) -> Tensor[]",
)
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
    backend: str,
) -> list[Tensor]:
    """Gradient of `select`."""
    return implementation(backend).select_backward(
        grad_output, frames, state, gate_weight, gate_bias, out_weight, kept, chunk_size, needs
    )


@feature_sums.register_fake
def _(frames, weight, bias, padding, chunk_size, degree, activation, keep, backend):
    batch, num_frames, _ = frames.shape
    num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
    shape = batch, num_chunks, weight.shape[0]
    sums = frames.new_empty(shape, dtype=compute_dtype(frames.dtype))
    return sums, _kept_like(frames, weight, keep)


@select.register_fake
def _(frames, state, gate_weight, gate_bias, out_weight, out_bias, chunk_size, keep, backend):
    output = frames.new_empty(*frames.shape[:2], out_weight.shape[0])
    return output, _kept_like(frames, gate_weight, keep)


@feature_sums_backward.register_fake
def _(
    grad_sums, frames, weight, bias, padding, kept, chunk_size, degree, activation, needs, backend
):
    return _grads_like((frames, weight, weight[:, 0]), needs)


@select_backward.register_fake
def _(
    grad_output, frames, state, gate_weight, gate_bias, out_weight, kept, chunk_size, needs, backend
):
    gate = frames, state, gate_weight, gate_weight[:, 0]
    return _grads_like((*gate, out_weight, out_weight[:, 0]), [needs[0], True, *needs[2:]])


def _kept_like(frames, weight, keep):
    return frames.new_empty((*frames.shape[:2], weight.shape[0]) if keep else 0)


def _grads_like(tensors, needs):
    return [t.new_empty(t.shape if need else 0) for t, need in zip(tensors, needs, strict=True)]


def _keep_out_of_gradients(ctx, kept):
    """Without this, autograd makes a (B, T, E) tensor of zeros as the gradient of what is kept."""
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)


def _save_for_feature_sums(ctx, inputs, output):
    frames, weight, bias, padding, chunk_size, degree, activation, _, backend = inputs
    _keep_out_of_gradients(ctx, output[1])
    ctx.save_for_backward(frames, weight, bias, padding, output[1])
    ctx.options = chunk_size, degree, activation
    ctx.backend = backend


def _feature_sums_gradients(ctx, grad_sums, _grad_kept):
    needs = list(ctx.needs_input_grad[:3])
    grads = torch.ops.speechbrain_pom.feature_sums_backward(
        grad_sums, *ctx.saved_tensors, *ctx.options, needs, ctx.backend
    )
    return *_wanted(grads, needs), None, None, None, None, None, None


def _save_for_select(ctx, inputs, output):
    frames, state, gate_weight, gate_bias, out_weight, _, chunk_size, _, backend = inputs
    _keep_out_of_gradients(ctx, output[1])
    ctx.save_for_backward(frames, state, gate_weight, gate_bias, out_weight, output[1])
    ctx.chunk_size, ctx.backend = chunk_size, backend


def _select_gradients(ctx, grad_output, _grad_kept):
    needs = list(ctx.needs_input_grad[:6])
    grads = torch.ops.speechbrain_pom.select_backward(
        grad_output, *ctx.saved_tensors, ctx.chunk_size, needs, ctx.backend
    )
    return *_wanted(grads, needs), None, None, None


def _wanted(grads, needs):
    return (grad if need else None for grad, need in zip(grads, needs, strict=True))


def _refuse_second_derivative(ctx, *_grads):
    raise RuntimeError(
        "PoM's fused backward pass cannot be differentiated again: for second derivatives call "
        "polynomial_mix with backend='reference'"
    )


feature_sums.register_autograd(_feature_sums_gradients, setup_context=_save_for_feature_sums)
select.register_autograd(_select_gradients, setup_context=_save_for_select)
feature_sums_backward.register_autograd(_refuse_second_derivative)
select_backward.register_autograd(_refuse_second_derivative)


@dataclass(frozen=True)
class Passes:
    """How the two passes over the frames run.

    Arguments
    ---------
    chunk_size : int or None
        Frames per row of the state; None: one row for all.
    keep : bool
        Whether the outputs of the projections are kept for the backward pass.
    backend : str
        "tiled" or "triton".
    """

    chunk_size: int | None
    keep: bool
    backend: str

    def feature_sums(
        self,
        frames: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: Tensor | None,
        polynomial: Polynomial,
    ) -> Tensor:
        """Sums over time (B, C, E) of the features of W x + b, fp32 or better.

        Arguments
        ---------
        frames : torch.Tensor
            (B, T, g).
        weight, bias : torch.Tensor
            (E, g) and (E,) or None.
        padding : torch.Tensor or None
            (B, T) boolean, True = padding.
        polynomial : Polynomial
            The features.

        Returns
        -------
        torch.Tensor
        """
        flags = self.chunk_size, polynomial.degree, polynomial.activation, self.keep, self.backend
        return feature_sums(frames, weight, bias, padding, *flags)[0]

    def select(
        self,
        frames: Tensor,
        state: Tensor,
        gate_weight: Tensor,
        gate_bias: Tensor | None,
        out_weight: Tensor,
        out_bias: Tensor | None,
    ) -> Tensor:
        """W_o (sigmoid(W_s x + b_s) * H) + b_o: (B, T, d_out).

        Arguments
        ---------
        frames : torch.Tensor
            (B, T, g).
        state : torch.Tensor
            H, (B, C, E), fp32 or better: a row for all frames, or one for each chunk.
        gate_weight, gate_bias : torch.Tensor
            (E, g) and (E,) or None.
        out_weight, out_bias : torch.Tensor
            (d_out, E) and (d_out,) or None.

        Returns
        -------
        torch.Tensor
        """
        weights = gate_weight, gate_bias, out_weight, out_bias
        return select(frames, state, *weights, self.chunk_size, self.keep, self.backend)[0]
