"""Functions of many items in several processes, as for the audio files of a corpus."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

from tqdm import tqdm

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.pool import ProcessDeathError, Worker, work_in_processes


def num_processes(num_workers: int | None) -> int:
    """Check a number of worker processes; None stands for the CPU cores of this process.

    >>> num_processes(3), num_processes(None) >= 1
    (3, True)
    """
    if num_workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if not isinstance(num_workers, int) or num_workers < 1:
        raise UserError(f"num_workers is {num_workers!r}: it must be an integer of at least 1")
    return num_workers


def map_in_processes(
    function: Worker,
    items: Sequence[Any],
    num_workers: int,
    *,
    bar_title: str | None = None,
    sizes: Sequence[int] | None = None,
    chunksize: int = 1,
) -> Iterator[Any]:
    """Apply a function to items in several processes; the results keep the items' order.

    With one worker, or one item, everything happens in this process. `chunksize` is the number of
    items that a process takes at a time. With a `bar_title` there is a progress bar over files, of
    which each item has one, or as many as `sizes` says. An error of the function is raised here.

    >>> list(map_in_processes(abs, [-1, 2, -3], 2))
    [1, 2, 3]
    """
    sizes = sizes or [1] * len(items)
    with tqdm(total=sum(sizes), desc=bar_title, unit="file", disable=bar_title is None) as bar:
        results = _map(function, items, min(num_workers, len(items)), chunksize)
        for size, result in zip(sizes, results, strict=True):
            yield result
            bar.update(size)


def _map(function, items, num_workers, chunksize):
    if num_workers <= 1:
        yield from map(function, items)
        return
    chunks = [items[start : start + chunksize] for start in range(0, len(items), chunksize)]
    # Forked workers touch little but soundfile; spawned ones would import the recipe and torch.
    method = "fork" if sys.platform == "linux" else "spawn"
    finished, place = {}, 0
    with closing(work_in_processes(chunks, _Mapping(function), num_workers, method)) as outcomes:
        for index, results, error in outcomes:
            if isinstance(error, ProcessDeathError):
                where = f"(it worked on {chunks[index][0]!r} or an item soon after it)"
                raise ProcessDeathError(f"{error} {where}")
            if error is not None:
                raise error
            finished[index] = results
            while place in finished:
                yield from finished.pop(place)
                place += 1


class _Mapping(NamedTuple):
    """Makes the worker of `map_in_processes`, which takes chunks of items."""

    function: Worker

    def __call__(self):
        return self.work

    def work(self, chunk):
        return [self.function(item) for item in chunk]
