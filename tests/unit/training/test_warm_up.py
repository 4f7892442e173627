"""The warm-up of learning rates that are annealed between epochs."""

import re

import pytest
import torch

from speechbrain_pom.training.warm_up import LinearWarmUp


def optimizer_with(rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": rate} for rate in rates]
    return torch.optim.AdamW(groups)


def rates_of(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


def test_each_optimizer_rises_to_its_own_rate():
    optimizers = {"head": optimizer_with([0.3, 0.3]), "encoder": optimizer_with([0.5])}
    rates = {"head": 0.2, "encoder": 0.4}
    warm_up = LinearWarmUp(4)
    for num_steps, share in enumerate((0.25, 0.5, 0.75, 1.0)):
        warm_up.set_rates(num_steps, optimizers, rates)
        assert rates_of(optimizers["head"]) == pytest.approx(2 * [share * 0.2])
        assert rates_of(optimizers["encoder"]) == pytest.approx([share * 0.4])


@pytest.mark.parametrize(("n_warmup_steps", "num_steps"), [(0, 0), (0, 7), (4, 4), (4, 500)])
def test_after_it_the_rates_are_the_schedules(n_warmup_steps, num_steps):
    optimizer = optimizer_with([0.05])
    LinearWarmUp(n_warmup_steps).set_rates(num_steps, {"head": optimizer}, {"head": 0.1})
    assert rates_of(optimizer) == [0.05]


def test_a_rate_that_is_annealed_in_the_warm_up_goes_on_from_its_new_value():
    optimizer, warm_up = optimizer_with([0.1]), LinearWarmUp(2)
    warm_up.set_rates(0, {"head": optimizer}, {"head": 0.1})
    assert rates_of(optimizer) == [0.05]
    warm_up.set_rates(1, {"head": optimizer}, {"head": 0.06})
    assert rates_of(optimizer) == [0.06]


@pytest.mark.parametrize("number", [-1, 2.5, None, "many", True])
def test_what_is_no_number_of_steps(number):
    message = f"n_warmup_steps is {number}: give a number of steps, or 0 for no warm-up"
    with pytest.raises(ValueError, match=re.escape(message)):
        LinearWarmUp(number)
