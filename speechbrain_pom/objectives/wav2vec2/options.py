"""Checks of the options of wav2vec 2.0: a `UserError` quotes what cannot work."""

from __future__ import annotations

from collections.abc import Collection

from speechbrain_pom.utils.errors import UserError


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Refuse a word that is none of the choices."""
    if value not in choices:
        raise UserError(f"{name} = {value!r}: choose one of {', '.join(choices)}")


def check_positive(**numbers: float) -> None:
    """Refuse numbers that are not above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise UserError(f"{name} = {number}: give a number above 0")


def check_num_negatives(num_negatives: int) -> None:
    """Refuse a number of negatives that is no number of at least 1."""
    if not isinstance(num_negatives, int) or num_negatives < 1:
        raise UserError(f"num_negatives = {num_negatives}: give a whole number of at least 1")


def check_diversity_weight(diversity_weight: float) -> None:
    """Refuse a negative weight."""
    if not diversity_weight >= 0:
        raise UserError(f"diversity_weight = {diversity_weight}: give a number of at least 0")
