"""Processes that read audio files, where one would take long."""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tqdm import tqdm

from speechbrain_pom.utils.errors import UserError


def num_processes(num_workers):
    """Checks a number of worker processes.

    Arguments
    ---------
    num_workers : int or None
        None stands for the CPU cores that this process may use.

    Returns
    -------
    int

    Raises
    ------
    UserError
        If it is no integer of at least 1.

    Example
    -------
    >>> num_processes(3), num_processes(None) >= 1
    (3, True)
    """
    if num_workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if not isinstance(num_workers, int) or num_workers < 1:
        raise UserError(f"num_workers is {num_workers!r}: it must be an integer of at least 1")
    return num_workers


def map_in_processes(function, items, num_workers, *, bar_title=None, sizes=None, chunksize=1):
    """Applies a function to items in several processes; the results keep the items' order.

    Arguments
    ---------
    function : callable
        Of one item; it and its result can be pickled.
    items : list
    num_workers : int
        From `num_processes`; with 1, or one item, everything happens in this process.
    bar_title : str, optional
        Of a progress bar over files; by default there is none.
    sizes : list of int, optional
        Files in each item; 1 by default.
    chunksize : int
        Items per task.

    Yields
    ------
    object
        The result for each item.

    Example
    -------
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
    # Forked workers touch nothing but soundfile; spawned ones would import the recipe and torch.
    context = get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(num_workers, mp_context=context)
    try:
        yield from pool.map(function, items, chunksize=chunksize)
    finally:
        pool.shutdown(cancel_futures=True)
