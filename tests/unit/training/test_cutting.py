"""The fast planner against the plain algorithm that it replaced."""

import numpy as np
import pytest

from speechbrain_pom.training import sampler as sampler_module
from speechbrain_pom.training.cutting import cut_by_duration, padded_durations, split_to_multiple
from speechbrain_pom.training.plan import plan_epoch
from speechbrain_pom.training.sampler import BucketBatchSampler


def slow_cut(durations_s, max_batch_duration_s):
    bounds, longest_s = [0], 0.0
    for index, duration_s in enumerate(durations_s.tolist()):
        longest_s = max(longest_s, duration_s)
        if longest_s * (index + 1 - bounds[-1]) > max_batch_duration_s:
            bounds.append(index)
            longest_s = duration_s
    return np.array([*bounds, len(durations_s)])


def slow_split(durations_s, bounds, divisor):
    for _ in range(-(len(bounds) - 1) % divisor):
        divisible = np.diff(bounds) > 1
        if not divisible.any():
            return None
        padded_s = padded_durations(durations_s, bounds)
        largest = int(np.argmax(np.where(divisible, padded_s, 0.0)))
        middle = (bounds[largest] + bounds[largest + 1]) // 2
        bounds = np.insert(bounds, largest + 1, middle)
    return bounds


def durations(kind, size):
    random = np.random.default_rng(size)
    if kind == "ties":  # many sums exactly at the limit, many batches of equal size
        return random.integers(1, 5, size).astype(float)
    lengths_s = random.uniform(0.05, 20.0, size)
    return np.sort(lengths_s) if kind == "ascending" else lengths_s


@pytest.mark.parametrize("limit_s", [20.0, 60.0, 1000.0])
@pytest.mark.parametrize("size", [1, 63, 500, 2000])
@pytest.mark.parametrize("kind", ["ties", "ascending", "mixed"])
def test_bounds_are_those_of_the_plain_algorithm(kind, size, limit_s):
    durations_s = durations(kind, size)
    bounds = cut_by_duration(durations_s, limit_s)
    np.testing.assert_array_equal(bounds, slow_cut(durations_s, limit_s))
    for divisor in (1, 2, 7, 64, 1024):
        fast = split_to_multiple(durations_s, bounds, divisor)
        slow = slow_split(durations_s, bounds, divisor)
        assert (fast is None) == (slow is None)
        if slow is not None:
            np.testing.assert_array_equal(fast, slow)


def test_an_epoch_is_planned_once(monkeypatch):
    plans = []
    monkeypatch.setattr(sampler_module, "plan_epoch", lambda *a: plans.append(1) or plan_epoch(*a))
    sampler = BucketBatchSampler([1.0, 2.0, 3.0, 4.0], list("abcd"), batch_size=1, seed=1)
    sampler.set_epoch(1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert list(sampler) == first
    assert len(plans) == 2  # of epochs 0 and 1
    sampler.set_epoch(2)
    assert len(plans) == 3
