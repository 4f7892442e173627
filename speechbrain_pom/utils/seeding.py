"""Randomness as a function of what is being done, not of what was done before.

Every random choice of a training run is drawn from a seed derived from its coordinates: the order
of the data from (seed, epoch), a mask from (seed, epoch, utterance), noise, dropout and
augmentation from (seed, epoch, step, rank). A resumed run therefore repeats what an uninterrupted
one would have done without any generator state being stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import random
from collections.abc import Iterator

import numpy as np
import torch

_BLOCK = 2**20


def derive_seed(*parts: int | str) -> int:
    """Hash integers and strings to a 63-bit seed, the same in every process and version.

    The parts are the coordinates of a random choice, such as ``"mask", seed, epoch, utterance_id``.
    They are encoded with their type and length, so that ``(1, 23)``, ``(12, 3)`` and ``("1", 23)``
    give unrelated seeds.

    Example
    -------
    >>> derive_seed(1, 23) == derive_seed(1, 23)
    True
    >>> derive_seed(1, 23) == derive_seed(12, 3)
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind, text = ("s", part) if isinstance(part, str) else ("i", str(operator.index(part)))
        data = text.encode("utf-8")
        digest.update(f"{kind}{len(data)}:".encode() + data)
    return int.from_bytes(digest.digest(), "big") >> 1


def philox(*parts: int | str) -> np.random.Philox:
    """Return a counter-based bit generator keyed by ``derive_seed(*parts)``.

    Its ``random_raw`` stream is fixed by the algorithm, whereas the distributions of
    `numpy.random.Generator` may change between NumPy versions.

    Example
    -------
    >>> int(philox("order", 7, 1).random_raw()) == int(philox("order", 7, 1).random_raw())
    True
    """
    return np.random.Philox(key=derive_seed(*parts))


def uniform(bits: np.random.Philox, size: int) -> np.ndarray:
    """Draw float64 numbers in [0, 1), (size,), with the 53 upper bits of each raw number.

    Example
    -------
    >>> numbers = uniform(philox(1), 1000)
    >>> bool(((numbers >= 0) & (numbers < 1)).all())
    True
    """
    numbers = np.empty(size)
    for start in range(0, size, _BLOCK):  # no raw numbers beside all of them
        block = numbers[start : start + _BLOCK]
        block[:] = (bits.random_raw(len(block)) >> np.uint64(11)) * 2.0**-53
    return numbers


def permutation(bits: np.random.Philox, size: int) -> np.ndarray:
    """Draw a random permutation of ``range(size)``, (size,) int64, by sorting raw numbers.

    Example
    -------
    >>> sorted(permutation(philox(1), 5).tolist())
    [0, 1, 2, 3, 4]
    """
    return np.argsort(bits.random_raw(size), kind="stable")


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Seed PyTorch (CPU and every device), `random` and NumPy for one training step.

    Called before the step's forward pass, it makes noise, dropout and augmentation a function of
    the run's seed, the epoch (from 1), the batch within it and the rank, whatever was drawn
    before.

    Example
    -------
    >>> seed_step(seed=1000, epoch=3, step=17, rank=0)
    >>> first = torch.rand(2)
    >>> seed_step(seed=1000, epoch=3, step=17, rank=0)
    >>> torch.equal(first, torch.rand(2))
    True
    """
    _seed_all("step", seed, epoch, step, rank)


@contextlib.contextmanager
def seeded(*parts: int | str) -> Iterator[None]:
    """Seed all generators as `seed_step` does, and put their former states back at the end.

    For validation: its random choices are fixed, and training continues as if it had not been.
    The states of CUDA devices are put back if CUDA was in use at the start.

    Example
    -------
    >>> with seeded("valid", 1000):
    ...     first = torch.rand(2)
    >>> with seeded("valid", 1000):
    ...     torch.equal(first, torch.rand(2))
    True
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()
    cpu_state = torch.get_rng_state()
    # Asking CUDA for its states would start it, and take device memory, in a run on the CPU.
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        _seed_all(*parts)
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(cpu_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


def _seed_all(*parts: int | str) -> None:
    seed = derive_seed(*parts)
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed([seed >> 32, seed & 0xFFFFFFFF])
