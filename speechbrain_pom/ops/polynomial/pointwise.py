"""The work between PoM's matrix products, in place where that saves a pass over memory."""

import itertools

import torch

from speechbrain_pom.ops.common.precision import compute_dtype


def features_of(projected, degree, activation, out=None):
    """phi of a projection, in fp32 or better: (..., E).

    Arguments
    ---------
    projected : torch.Tensor
        (..., E), branch i in columns i*n to (i+1)*n.
    degree : int
        k.
    activation : str
        "gelu_product" or "relu_power".
    out : torch.Tensor, optional
        (..., E) in the dtype of the result, to write it into; the projection itself if it may go.

    Returns
    -------
    torch.Tensor
        (..., E).

    Example
    -------
    >>> features_of(torch.tensor([2.0, -1.0]), 3, "relu_power")
    tensor([8., 0.])
    """
    if out is None:
        out = torch.empty_like(projected, dtype=compute_dtype(projected.dtype))
    if activation == "relu_power":
        return out.copy_(projected).relu_().pow_(degree)
    _gelu(projected, out)
    branches = out.chunk(degree, dim=-1)
    for previous, branch in itertools.pairwise(branches):
        branch.mul_(previous)
    return out


def features_backward(projected, grad, degree, activation, out=None, work=None):
    """Gradient of `features_of`.

    With g_k = dH_k and g_i = dH_i + g_(i+1) h_(i+1): dh_i = g_i H_(i-1), H_0 = 1.

    Arguments
    ---------
    projected : torch.Tensor
        (..., E) in fp32 or better.
    grad : torch.Tensor
        Gradient of its features, broadcastable to (..., E).
    degree, activation
        As for `features_of`.
    out, work : torch.Tensor, optional
        (..., E), to write the result and the activations into; none of the others.

    Returns
    -------
    torch.Tensor
        (..., E).
    """
    out = torch.empty_like(projected) if out is None else out
    if activation == "relu_power":
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


def gate_of(scores, state, out=None):
    """sigmoid(scores) * state, in the dtype of the state.

    Arguments
    ---------
    scores : torch.Tensor
        (..., E).
    state : torch.Tensor
        Broadcastable to (..., E).
    out : torch.Tensor, optional
        (..., E) in the dtype of the state, to write it into; the scores themselves if they may go.

    Returns
    -------
    torch.Tensor
        (..., E).

    Example
    -------
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
