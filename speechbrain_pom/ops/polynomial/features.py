"""The work between PoM's matrix products, in place where that saves a pass over memory."""

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from speechbrain_pom.ops.common.precision import compute_dtype
from speechbrain_pom.utils.errors import UserError

ACTIVATIONS = ("gelu_product", "relu_power")


@dataclass(frozen=True)
class Polynomial:
    """Which features a projection gives.

    Arguments
    ---------
    degree : int
        k.
    activation : str
        "gelu_product": [H_1 | ... | H_k], H_i the product of the GELUs of the branches 1 to i, and
        branch i in columns (i-1)*n to i*n. "relu_power": relu(z)^k.

    Raises
    ------
    UserError
        For an unknown activation.

    Example
    -------
    >>> Polynomial(3, "gelu_product").branches, Polynomial(3, "relu_power").branches
    (3, 1)
    """

    degree: int
    activation: str

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"activation is {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}"
            )

    @property
    def branches(self) -> int:
        """Branches of the projection."""
        return 1 if self.activation == "relu_power" else self.degree


def features_of(projected: Tensor, polynomial: Polynomial, out: Tensor | None = None) -> Tensor:
    """The features (..., E) of a projection, in fp32 or better.

    They are written into `out` if it is given; that may be the projection itself.

    >>> features_of(torch.tensor([2.0, -1.0]), Polynomial(3, "relu_power"))
    tensor([8., 0.])
    """
    if out is None:
        out = torch.empty_like(projected, dtype=compute_dtype(projected.dtype))
    if polynomial.activation == "relu_power":
        return out.copy_(projected).relu_().pow_(polynomial.degree)
    _gelu(projected, out)
    branches = out.chunk(polynomial.degree, dim=-1)
    for previous, branch in itertools.pairwise(branches):
        branch.mul_(previous)
    return out


def features_backward(
    projected: Tensor,
    grad: Tensor,
    polynomial: Polynomial,
    out: Tensor | None = None,
    work: Tensor | None = None,
) -> Tensor:
    """Gradient (..., E) of `features_of`, whose own gradient broadcasts to (..., E).

    With g_k = dH_k and g_i = dH_i + g_(i+1) h_(i+1): dh_i = g_i H_(i-1), H_0 = 1. The projection is
    in fp32 or better; the result goes into `out` and the activations into `work` if they are given.
    """
    out = torch.empty_like(projected) if out is None else out
    degree = polynomial.degree
    if polynomial.activation == "relu_power":
        torch.clamp(projected, min=0, out=out)
        # 0^0 is 1 for k = 1, hence the comparison.
        return out.pow_(degree - 1).mul_(degree).mul_(projected > 0).mul_(grad)
    work = torch.empty_like(projected) if work is None else work
    branches = torch.ops.aten.gelu.out(projected, out=work).chunk(degree, dim=-1)
    grads, outs = grad.chunk(degree, dim=-1), out.chunk(degree, dim=-1)
    products = list(branches[:1])
    for branch in branches[1:-1]:
        products.append(products[-1] * branch)
    running = grads[-1]
    for i in range(degree - 1, 0, -1):
        torch.mul(running, products[i - 1], out=outs[i])
        target = outs[0] if i == 1 else None
        running = torch.addcmul(grads[i - 1], running, branches[i], out=target)
    if degree == 1:
        out.copy_(running.expand_as(out))
    return torch.ops.aten.gelu_backward.grad_input(out, projected, grad_input=out)


def gate_of(scores: Tensor, state: Tensor, out: Tensor | None = None) -> Tensor:
    """sigmoid(scores) * state, in the dtype of the state; into `out`, or the scores themselves.

    >>> gate_of(torch.zeros(2), torch.tensor([4.0, 6.0]))
    tensor([2., 3.])
    """
    out = torch.empty_like(scores, dtype=state.dtype) if out is None else out
    return torch.sigmoid(scores, out=out).mul_(state)


def _gelu(source, out):
    """The exact GELU."""
    if source.dtype != out.dtype:
        source = out.copy_(source)
    return torch.ops.aten.gelu.out(source, out=out)
