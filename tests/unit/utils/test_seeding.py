"""Seeds: stable across processes, free of trivial collisions; states come back."""

import itertools
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from speechbrain_pom.utils.seeding import (
    derive_seed,
    permutation,
    philox,
    seed_step,
    seeded,
    uniform,
)


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seeds_have_63_bits_and_do_not_collide():
    coordinates = list(itertools.product(range(4), range(30), range(30), range(3)))
    seeds = {derive_seed("step", *c) for c in coordinates}
    assert len(seeds) == len(coordinates)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**62  # the whole range is used


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1, 23), (12, 3)),
        (("a", "bc"), ("ab", "c")),
        ((1,), ("1",)),
        ((1, 2), (2, 1)),
        ((), ("",)),
        (("",), ("", "")),
        ((-1,), (1,)),
        (("s1:a",), ("a",)),
        (("a", 1), ("as1:1",)),
    ],
)
def test_different_parts_give_different_seeds(one, other):
    assert derive_seed(*one) != derive_seed(*other)


def test_numpy_integers_count_as_integers():
    assert derive_seed(np.int64(7), "a") == derive_seed(7, "a")


@pytest.mark.parametrize("part", [1.0, None, b"a", (1, 2)])
def test_other_types_are_refused(part):
    with pytest.raises(TypeError):
        derive_seed("mask", part)


def test_seeds_are_the_same_in_every_process():
    code = (
        "from speechbrain_pom.utils.seeding import derive_seed, philox;"
        "print(hash('spk'), derive_seed('mask', 1000, 3, 'spk-é'), philox('order', 3).random_raw())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
        timeout=600,
    )
    their_hash, *theirs = map(int, result.stdout.split())
    assert theirs == [derive_seed("mask", 1000, 3, "spk-é"), philox("order", 3).random_raw()]
    assert their_hash != hash("spk")  # the guard: Python's own hash would not do


def test_uniform_numbers_fill_the_unit_interval():
    numbers = uniform(philox(1), 20000)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, bins=10, range=(0, 1))[0]
    assert abs(counts - 2000).max() < 250  # over 5 standard deviations


def test_permutations_are_uniform():
    bits = philox("permutations")
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for _ in range(3000):
        counts[tuple(permutation(bits, 3).tolist())] += 1
    assert max(abs(count - 500) for count in counts.values()) < 105  # 5 standard deviations


def test_a_step_is_seeded_whatever_came_before():
    seed_step(1000, 2, 17, 0)
    first = draw()
    draw()
    seed_step(1000, 2, 17, 0)
    assert draw() == first


def test_every_coordinate_changes_every_generator():
    seed_step(1000, 2, 17, 0)
    first = draw()
    for coordinates in ((1001, 2, 17, 0), (1000, 3, 17, 0), (1000, 2, 18, 0), (1000, 2, 17, 1)):
        seed_step(*coordinates)
        assert all(a != b for a, b in zip(first, draw(), strict=True))


def test_seeded_restores_all_states():
    seed_step(1, 1, 1, 0)
    expected = [draw(), draw()]
    seed_step(1, 1, 1, 0)
    assert draw() == expected[0]
    inside = []
    for _ in range(2):
        with seeded("valid", 1):
            inside.append(draw())
    assert inside[0] == inside[1]
    with pytest.raises(KeyError), seeded("valid", 1):
        {}[draw()]
    assert draw() == expected[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_seeded_restores_the_states_of_cuda():
    seed_step(1, 1, 1, 0)
    expected = [torch.rand(3, device="cuda") for _ in range(2)]
    seed_step(1, 1, 1, 0)
    assert torch.equal(torch.rand(3, device="cuda"), expected[0])
    with seeded("valid", 1):
        torch.rand(3, device="cuda")
    assert torch.equal(torch.rand(3, device="cuda"), expected[1])
