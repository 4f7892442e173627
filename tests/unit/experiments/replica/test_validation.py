"""What the validation data say of a grid of learning rates."""

import pytest

from experiments.replica.protocols import find_protocol
from experiments.replica.validation import best_cells

CELLS = ("rates x0.25", "rates x0.5", "rates x1", "rates x2")


@pytest.mark.parametrize(
    ("rates", "best"),
    [
        ((4, 3, 1, 2), "rates x1"),
        ((None, 3, 1, 2), "rates x1"),  # both sides of the best one are known
        ((None, 1, 3, 2), None),
        ((4, 3, 1, None), None),
        ((1, 3, 4, None), "rates x0.25"),  # the grid has no more on that side
        ((None, None, 2, 1), "rates x2"),
        ((None, None, None, None), None),
    ],
)
def test_the_best_rate_is_known_when_its_neighbours_are(rates, best):
    runs = [
        {
            "mixer": f"PoM, {cell}",
            "seed": 1,
            "kind": "finetuning",
            "curve": {"wer": [rate + 5, rate, rate + 1]},
        }
        for cell, rate in zip(CELLS, rates, strict=True)
        if rate is not None
    ]
    found = best_cells({"runs": runs}, find_protocol("real_tuning"))
    assert found == ({} if best is None else {"PoM": best})
