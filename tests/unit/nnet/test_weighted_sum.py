"""The learnt weighted sum of layers."""

import pytest
import torch

from speechbrain_pom.nnet import WeightedSum


@pytest.mark.parametrize("num_states", [1, 2, 13])
def test_starts_as_the_mean_of_the_layers(num_states):
    states = [torch.randn(2, 63, 4) for _ in range(num_states)]
    torch.testing.assert_close(WeightedSum(num_states)(states), torch.stack(states).mean(0))


def test_weights_are_a_softmax_and_sum_to_one():
    layer_sum = WeightedSum(3)
    with torch.no_grad():
        layer_sum.scores.copy_(torch.tensor([0.0, 1.0, -2.0]))
    states = [torch.randn(1, 5, 4, dtype=torch.float64) for _ in range(3)]
    weights = torch.tensor([1.0, torch.e, torch.e**-2]).double()
    weights /= weights.sum()
    expected = sum(weight * state for weight, state in zip(weights, states, strict=True))
    torch.testing.assert_close(layer_sum.double()(states), expected, rtol=1e-6, atol=1e-7)
    ones = [torch.ones(1, 1, 1, dtype=torch.float64)] * 3
    assert layer_sum(ones).item() == pytest.approx(1.0)


def test_it_learns_which_layer_helps():
    torch.manual_seed(0)
    layer_sum = WeightedSum(3)
    states = [torch.randn(2, 20, 4) for _ in range(3)]
    optimizer = torch.optim.Adam(layer_sum.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        (layer_sum(states) - states[1]).square().mean().backward()
        optimizer.step()
    assert layer_sum.scores.softmax(0)[1] > 0.9


def test_another_number_of_states_is_refused():
    with pytest.raises(ValueError, match="3 hidden states for 2 weights"):
        WeightedSum(2)([torch.zeros(1, 1, 1)] * 3)
