"""Paired differences of error rates: their intervals, and what chance makes of equal systems."""

import numpy as np
import pytest

from speechbrain_pom.reports.significance import paired_difference
from speechbrain_pom.utils.bootstrap import rate_with_interval


def edits_of(values, num_tokens=10):
    return {f"u{i:04}": (int(value), num_tokens) for i, value in enumerate(values)}


def two_systems(seed, num_utterances=200, share_worse=0.0):
    """Errors of two systems that find the same utterances hard; the second one adds some."""
    draw = np.random.default_rng(seed)
    hard = draw.gamma(0.5, 6.0, num_utterances)
    first, second = draw.poisson(hard), draw.poisson(hard)
    if share_worse:
        first = draw.binomial(20, 0.5, num_utterances)
        second = first + (draw.random(num_utterances) < share_worse)
    return edits_of(first, 20), edits_of(second, 20)


def test_a_system_does_not_differ_from_itself():
    first, _ = two_systems(0)
    found = paired_difference(first, dict(reversed(first.items())), num_randomisations=100)
    assert found == (0.0, 0.0, 0.0, 1.0, 0, 0)


def test_exchanged_systems_have_the_opposite_difference():
    first, second = two_systems(1)
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.difference == -other.difference != 0
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))
    assert one.p_value == other.p_value
    assert (one.num_better, one.num_worse) == (other.num_worse, other.num_better)
    assert one.low < one.difference < one.high


def test_p_value_is_that_of_all_exchanges():
    """Five utterances, each worse by one: 2 of the 32 exchanges differ as much."""
    found = paired_difference(edits_of([1] * 5), edits_of([0] * 5), num_randomisations=20000)
    assert found.p_value == pytest.approx(2 / 32, abs=0.006)


def test_seed_and_order_decide_everything():
    first, second = two_systems(2)
    same = paired_difference(first, second, seed=3)
    np.random.seed(1)
    assert paired_difference(dict(reversed(first.items())), second, seed=3) == same
    assert paired_difference(first, second, seed=4).p_value != same.p_value


def test_equal_systems_are_rarely_called_different():
    options = {"num_bootstrap": 1, "num_randomisations": 300}
    p_values = [paired_difference(*two_systems(seed), **options).p_value for seed in range(300)]
    assert 0.02 < np.mean(np.array(p_values) <= 0.05) < 0.09
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.06)


def test_small_steady_differences_are_found_where_separate_intervals_overlap():
    first, second = two_systems(5, share_worse=0.2)
    _, _, high = rate_with_interval(first, 1000)
    _, low, _ = rate_with_interval(second, 1000)
    assert low < high
    found = paired_difference(first, second)
    assert found.p_value < 0.001
    assert found.high < 0


def test_different_tests_are_refused():
    first, second = two_systems(6)
    removed = dict(list(second.items())[1:])
    message = "not the same utterances: 200 and 199, of which 1 are in one of them alone, .*'u0000'"
    with pytest.raises(ValueError, match=message):
        paired_difference(first, removed)
    with pytest.raises(ValueError, match="not the same transcripts: 'u0000' has 20 and 21 words"):
        paired_difference(first, {**second, "u0000": (1, 21)})


@pytest.mark.parametrize("name", ["num_bootstrap", "num_randomisations"])
def test_no_trials_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} is 0: give at least 1, e.g. 1000$"):
        paired_difference(*two_systems(7), **{name: 0})
