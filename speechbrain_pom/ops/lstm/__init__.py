"""A bidirectional LSTM over the valid frames of a batch, without packing it."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from speechbrain_pom.ops.common.sums import zero_padding

Direction = Sequence[Tensor]


def bidirectional_lstm(
    frames: Tensor,
    num_frames: Tensor,
    layers: Sequence[tuple[Direction, Direction]],
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Run both directions of each layer over whole rows, the backward one over reversed utterances.

    What a direction reads of the padding comes after an utterance's frames and changes none of
    them. On a CPU this is several times as fast as packed sequences, which PyTorch steps through
    frame by frame there, and for which oneDNN is not used.

    Arguments
    ---------
    frames : torch.Tensor
        (B, T, d).
    num_frames : torch.Tensor
        (B,) integers: the valid frames of each utterance.
    layers : sequence of (sequence of torch.Tensor, sequence of torch.Tensor)
        Forward and backward direction of each layer, as `torch.nn.LSTM.all_weights` has them:
        W_ih (4 h, inputs), W_hh (4 h, h), b_ih (4 h,), b_hh (4 h,); gates in the order i, f, g, o.
    dropout : float
        Between the layers.

    Returns
    -------
    torch.Tensor
        (B, T, 2 h): forward and backward states, zero in padding.

    Example
    -------
    >>> lstm = torch.nn.LSTM(4, 3, bidirectional=True, batch_first=True)
    >>> frames, num_frames = torch.randn(2, 7, 4), torch.tensor([7, 5])
    >>> states = bidirectional_lstm(frames, num_frames, [lstm.all_weights])
    >>> torch.allclose(states[1, :5], lstm(frames[1, :5])[0], atol=1e-6)
    True
    """
    times = torch.arange(frames.shape[1], device=frames.device)
    ends = num_frames.to(frames.device).unsqueeze(1)
    padding = times >= ends
    reversal = torch.where(padding, times, ends - 1 - times).unsqueeze(-1)  # is its own inverse

    def reverse(values):
        return values.gather(1, reversal.expand_as(values))

    states = zero_padding(frames, padding)
    for number, (forward, backward) in enumerate(layers):
        if number and dropout:  # drawn for valid frames alone: more padding changes no draw
            dropped = F.dropout(states[~padding], dropout)
            states = torch.zeros_like(states).index_put((~padding,), dropped)
        directions = _run(states, forward), reverse(_run(reverse(states), backward))
        states = torch.cat(directions, dim=-1)
    return zero_padding(states, padding)


def _run(frames, weights):
    """(B, T, d) to (B, T, h), from states of zero."""
    start = frames.new_zeros(1, len(frames), weights[1].shape[1])
    options = {
        "has_biases": True,
        "num_layers": 1,
        "dropout": 0.0,
        "train": torch.is_grad_enabled(),
        "bidirectional": False,
        "batch_first": True,
    }
    return torch.lstm(frames, (start, start), tuple(weights), **options)[0]
