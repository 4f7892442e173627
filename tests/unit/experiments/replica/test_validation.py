"""What the validation data say of mixers and of a grid of learning rates."""

import pytest

from experiments.replica.protocols import find_protocol
from experiments.replica.validation import best_cells, grid_rows, validation_rows

CELLS = ("rates x0.25", "rates x0.5", "rates x1", "rates x2")


def tuned(mixer, seed, rate):
    """A run of fine-tuning whose best epoch has this WER."""
    curve = {"wer": [rate + 5, rate, rate + 1], "blank_share": [1.0, 0.5, 0.5]}
    return {"mixer": mixer, "seed": seed, "kind": "finetuning", "curve": curve}


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
        tuned(f"PoM, {cell}", 1, rate)
        for cell, rate in zip(CELLS, rates, strict=True)
        if rate is not None
    ]
    found = best_cells({"runs": runs}, find_protocol("real_tuning"))
    assert found == ({} if best is None else {"PoM": best})


def test_seeds_are_averaged_and_their_range_is_shown():
    rates = {"rates x0.5": (30, 40, 26), "rates x1": (25,)}
    runs = [
        tuned(f"PoM, {cell}", seed, rate)
        for cell, values in rates.items()
        for seed, rate in enumerate(values, 1)
    ]
    heads, pom, *_ = grid_rows({"runs": runs}, find_protocol("real_tuning"))
    cells = dict(zip(heads, pom, strict=True))
    assert cells["rates x0.5"] == "32.00 (26.00, 40.00)"
    assert cells["rates x1"] == "25.00"  # not called the best: the other has seeds that it lacks
    assert cells["rates x2"] == ""
    rows = validation_rows({"runs": runs}, ["PoM, rates x0.5", "PoM, rates x1"], ["finetuning"])
    assert list(rows) == [
        ("mixer", "seeds", "WER, greedy (%)", "epochs all blank"),
        ("PoM, rates x0.5", "3", "32.00 (26.00, 40.00)", "1.0 (1.0, 1.0)"),
        ("PoM, rates x1", "1", "25.00", "1.0"),
    ]
