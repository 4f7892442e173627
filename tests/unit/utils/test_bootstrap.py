"""Intervals are those of the `confidence_intervals` package, whether draws are kept or not."""

import numpy as np
import pytest
from confidence_intervals import evaluate_with_conf_int

from speechbrain_pom.utils import bootstrap


@pytest.mark.parametrize("most_kept", [0, bootstrap._MOST_KEPT])
@pytest.mark.parametrize("num_items", [1, 63, 500])
def test_intervals_are_those_of_the_package(num_items, most_kept, monkeypatch):
    monkeypatch.setattr(bootstrap, "_MOST_KEPT", most_kept)
    numbers = np.random.default_rng(num_items)
    for _ in range(2):  # the second system is drawn as the first
        words = numbers.integers(1, 20, num_items)
        edits = numbers.integers(0, words + 1)
        expected, ends = evaluate_with_conf_int(
            edits, lambda words, edits: 100 * edits.sum() / words.sum(), words, num_bootstraps=50
        )
        found = bootstrap.ratio_with_interval(edits, words, num_bootstrap=50)
        assert found == (expected, *ends)
