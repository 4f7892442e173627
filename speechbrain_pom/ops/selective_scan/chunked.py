"""The selective scan chunk by chunk, as an operator of PyTorch with a backward pass of its own.

Of the (B, T, N, d) states only those between chunks are kept for the backward pass, which computes
the others again. No decay is ever divided by or multiplied up over frames: each state comes from
the one before, as in the equation, so no length and no decay can overflow or lose digits.
"""

import itertools

import torch
from torch import Tensor

# Within a chunk, the exponentials and products are one operation each, in buffers (16, B, N, d)
# that stay in the cache; the recurrence is one multiply-add per frame. T = 1000, d = 948, N = 16,
# one CPU core: 26 ms forward, 145 ms with the backward pass. Autograd through checkpointed chunks
# takes 0.9 s, and parallel forms inside a chunk more: 1.3 s by doubling, 5.5 s by segment sums.
# With 16 frames the kept states are as large as one (B, T, d) tensor for N = 16.
CHUNK_FRAMES = 16


@torch.library.custom_op(
    "speechbrain_pom::chunked_scan",
    mutates_args=(),
    schema="(Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, bool reverse, bool keep) "
    "-> (Tensor, Tensor)",
)
def chunked_scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, reverse: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    """C h for h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t.

    Arguments
    ---------
    x, dt : torch.Tensor
        (B, T, d).
    A : torch.Tensor
        (d, N), of the dtype of the scan.
    B, C : torch.Tensor
        (B, T, N).
    reverse : bool
        True: h_t follows from h_(t+1).
    keep : bool
        Whether to return the states between chunks, for the backward pass.

    Returns
    -------
    output : torch.Tensor
        (B, T, d), of the dtype of A.
    states : torch.Tensor
        (K, B, N, d): the state that enters each chunk, K = ceil(T / CHUNK_FRAMES); or empty.
    """
    batch, num_frames, width = x.shape
    spans = _spans(num_frames)
    rates = A.T.contiguous()
    output = rates.new_empty(batch, num_frames, width)
    states = rates.new_empty(len(spans) if keep else 0, batch, *rates.shape)
    state = rates.new_zeros(batch, *rates.shape)
    with torch.autocast(x.device.type, enabled=False):
        for k, span in _in_order(list(enumerate(spans)), reverse):
            if keep:
                states[k] = state
            chunk = _Chunk(x, dt, rates, B, C, span)
            hidden, _ = chunk.run(state, reverse)
            state = hidden[0 if reverse else -1].clone()
            output[:, span] = torch.matmul(chunk.C.unsqueeze(2), hidden).squeeze(2).transpose(0, 1)
    return output, states


def scan_from(
    state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """C h after an initial state (B, N, d), and the state after the last frame; no gradients."""
    rates = A.T.contiguous()
    output = rates.new_empty(x.shape)
    for span in _spans(x.shape[1]):
        chunk = _Chunk(x, dt, rates, B, C, span)
        hidden, _ = chunk.run(state, reverse=False)
        state = hidden[-1].clone()
        output[:, span] = torch.matmul(chunk.C.unsqueeze(2), hidden).squeeze(2).transpose(0, 1)
    return output, state


@torch.library.custom_op(
    "speechbrain_pom::chunked_scan_backward",
    mutates_args=(),
    schema="(Tensor grad_output, Tensor x, Tensor dt, Tensor A, Tensor B, Tensor C, "
    "Tensor states, bool reverse) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def chunked_scan_backward(
    grad_output: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    states: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `chunked_scan`: of x, dt, A, B and C, with their shapes and dtypes.

    With g_t the gradient of h_t: g_t = C_t y'_t + exp(dt_(t+1) A) g_(t+1), from the last frame to
    the first. All the rest are sums of g_t times something over d, N or t.
    """
    rates = A.T.contiguous()
    grads = [torch.empty_like(tensor) for tensor in (x, dt, B, C)]
    grad_rates = torch.zeros_like(rates)
    carry = torch.zeros_like(states[0]) if len(states) else None
    with torch.autocast(x.device.type, enabled=False):
        for k, span in _in_order(list(enumerate(_spans(x.shape[1]))), not reverse):
            chunk = _Chunk(x, dt, rates, B, C, span)
            grad_y = grad_output[:, span].transpose(0, 1).to(rates.dtype)
            *found, carry = chunk.backward(grad_y, states[k], carry, grad_rates, reverse)
            for grad, part in zip(grads, found, strict=True):
                grad[:, span] = part.transpose(0, 1)
    grad_x, grad_dt, grad_B, grad_C = grads
    return grad_x, grad_dt, grad_rates.T.contiguous(), grad_B, grad_C


class _Chunk:
    """A chunk of L frames, time first: x, dt (L, B, d), B, C (L, B, N), in the scan's dtype."""

    def __init__(self, x, dt, rates, B, C, span):
        self.x, self.dt, self.B, self.C = (
            tensor[:, span].transpose(0, 1).to(rates.dtype) for tensor in (x, dt, B, C)
        )
        self.rates = rates  # (N, d): d innermost, so that B and C are factors of whole rows

    def run(self, state, reverse):
        """States (L, B, N, d) after `state`, and the decays exp(dt A) of the same shape."""
        decay = (self.dt.unsqueeze(2) * self.rates).exp_()
        hidden = (self.dt * self.x).unsqueeze(2) * self.B.unsqueeze(-1)
        for t in _in_order(range(len(hidden)), reverse):
            state = torch.addcmul(hidden[t], decay[t], state, out=hidden[t])
        return hidden, decay

    def backward(self, grad_y, state, carry, grad_rates, reverse):
        """Gradients of x, dt, B, C and of the state that enters; adds to that of the rates."""
        hidden, decay = self.run(state, reverse)
        order = list(_in_order(range(len(hidden)), reverse))
        grad_C = torch.matmul(hidden, grad_y.unsqueeze(-1)).squeeze(-1)
        grad = self.C.unsqueeze(-1) * grad_y.unsqueeze(2)  # becomes g_t
        grad[order[-1]] += carry
        for later, t in itertools.pairwise(reversed(order)):
            torch.addcmul(grad[t], decay[later], grad[later], out=grad[t])
        carry = decay[order[0]] * grad[order[0]]
        drive = (self.dt * self.x).unsqueeze(-1)
        grad_B = torch.matmul(grad, drive).squeeze(-1)
        grad_drive = torch.matmul(self.B.unsqueeze(2), grad).squeeze(2)
        # The gradient of dt A is g_t exp(dt_t A) h_(t-1); h_(t-1) is the row before in this order.
        exponent = grad.mul_(decay)
        exponent[order[0]] *= state
        if reverse:
            exponent[:-1] *= hidden[1:]
        else:
            exponent[1:] *= hidden[:-1]
        grad_dt = torch.mul(exponent, self.rates, out=decay).sum(2)
        grad_dt.addcmul_(grad_drive, self.x)
        grad_rates += exponent.mul_(self.dt.unsqueeze(2)).sum((0, 1))
        return grad_drive * self.dt, grad_dt, grad_B, grad_C, carry


def _spans(num_frames):
    """The chunks as ranges of frames, the last of which may be shorter."""
    return [
        slice(start, min(start + CHUNK_FRAMES, num_frames))
        for start in range(0, num_frames, CHUNK_FRAMES)
    ]


def _in_order(items, reverse):
    return reversed(items) if reverse else items


@chunked_scan.register_fake
def _(x, dt, A, B, C, reverse, keep):
    num_chunks = -(-x.shape[1] // CHUNK_FRAMES) if keep else 0
    return A.new_empty(x.shape), A.new_empty(num_chunks, x.shape[0], A.shape[1], A.shape[0])


@chunked_scan_backward.register_fake
def _(grad_output, x, dt, A, B, C, states, reverse):
    return tuple(torch.empty_like(tensor) for tensor in (x, dt, A, B, C))


def _save(ctx, inputs, output):
    x, dt, A, B, C, reverse, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, dt, A, B, C, output[1])
    ctx.reverse = reverse


def _gradients(ctx, grad_output, _grad_states):
    operator = torch.ops.speechbrain_pom.chunked_scan_backward
    return *operator(grad_output, *ctx.saved_tensors, ctx.reverse), None, None


def _refuse_second_derivative(ctx, *_grads):
    raise RuntimeError(
        "the chunked scan's backward pass cannot be differentiated again: for second derivatives "
        "call selective_scan with backend='reference'"
    )


chunked_scan.register_autograd(_gradients, setup_context=_save)
chunked_scan_backward.register_autograd(_refuse_second_derivative)
