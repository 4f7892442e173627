"""Slow, obvious version of the bidirectional LSTM: utterance by utterance, frame by frame."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def bidirectional_lstm(
    frames: Tensor,
    num_frames: Tensor,
    layers: Sequence[tuple[Sequence[Tensor], Sequence[Tensor]]],
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Bidirectional LSTM; see `speechbrain_pom.ops.lstm`."""
    rows = []
    for row, length in zip(frames, num_frames.tolist(), strict=True):
        states = row[:length]
        for number, (forward, backward) in enumerate(layers):
            if number:
                states = F.dropout(states, dropout)
            reverse = _run(states.flip(0), backward).flip(0)
            states = torch.cat((_run(states, forward), reverse), dim=-1)
        rows.append(F.pad(states, (0, 0, 0, len(row) - length)))
    return torch.stack(rows)


def _run(frames, weights):
    """(T, d) to (T, h)."""
    w_ih, w_hh, b_ih, b_hh = weights
    state = cell = frames.new_zeros(w_hh.shape[1])
    states = []
    for frame in frames:
        gates = F.linear(frame, w_ih, b_ih) + F.linear(state, w_hh, b_hh)
        write, keep, value, read = gates.chunk(4)
        cell = keep.sigmoid() * cell + write.sigmoid() * value.tanh()
        state = read.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states)
