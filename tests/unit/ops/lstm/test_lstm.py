"""The bidirectional LSTM against its equations and PyTorch's packed sequences."""

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechbrain_pom.ops.lstm import bidirectional_lstm, reference

LENGTHS = torch.tensor([62, 1, 63, 5])


def lstm_of(num_layers, dtype=torch.float64):
    torch.manual_seed(0)
    return nn.LSTM(6, 4, num_layers, bidirectional=True, batch_first=True, dtype=dtype)


def layers_of(lstm):
    weights = lstm.all_weights
    return list(zip(weights[::2], weights[1::2], strict=True))


def batch(garbage, dtype=torch.float64):
    torch.manual_seed(1)
    frames = torch.randn(len(LENGTHS), 65, 6, dtype=dtype)
    padding = torch.arange(65) >= LENGTHS.unsqueeze(1)
    return frames.masked_fill(padding.unsqueeze(-1), garbage).requires_grad_()


def with_gradients(states, frames, lstm):
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(states.shape, dtype=states.dtype, generator=generator)
    return states, *torch.autograd.grad((states * weights).sum(), [frames, *lstm.parameters()])


@pytest.mark.parametrize("garbage", [0.0, torch.nan])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_against_the_reference(num_layers, garbage):
    lstm, frames = lstm_of(num_layers), batch(garbage)
    found, expected = (
        with_gradients(function(frames, LENGTHS, layers_of(lstm)), frames, lstm)
        for function in (bidirectional_lstm, reference.bidirectional_lstm)
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    padding = torch.arange(65) >= LENGTHS.unsqueeze(1)
    assert not found[0][padding].any()
    assert not found[1][padding].any()


@pytest.mark.parametrize("num_layers", [1, 3])
def test_against_packed_sequences_in_fp32(num_layers):
    lstm, frames = lstm_of(num_layers, torch.float32), batch(9.0, torch.float32)
    packed = pack_padded_sequence(frames, LENGTHS, batch_first=True, enforce_sorted=False)
    states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=65)
    expected = with_gradients(states, frames, lstm)
    found = bidirectional_lstm(frames, LENGTHS, layers_of(lstm))
    found = with_gradients(found, frames, lstm)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_between_layers():
    frames = batch(0.0)
    one, two = lstm_of(1), lstm_of(2)
    once = bidirectional_lstm(frames, LENGTHS, layers_of(one), dropout=0.5)
    assert torch.equal(once, bidirectional_lstm(frames, LENGTHS, layers_of(one)))
    torch.manual_seed(0)
    first = bidirectional_lstm(frames, LENGTHS, layers_of(two), dropout=0.5)
    torch.manual_seed(0)
    assert torch.equal(first, bidirectional_lstm(frames, LENGTHS, layers_of(two), dropout=0.5))
    assert not torch.equal(first, bidirectional_lstm(frames, LENGTHS, layers_of(two)))
