"""Metrics of a replica over its seeds: error rates with intervals, differences, time and memory."""

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from speechbrain_pom.reports.significance import Difference, paired_difference
from speechbrain_pom.utils.bootstrap import rate_with_interval

NUM_BOOTSTRAP = 1000
NUM_RANDOMISATIONS = 10000


class Rate(NamedTuple):
    """The WER of a mixer over its seeds, in %.

    Arguments
    ---------
    mean : float
        Edited words of all seeds, divided by their words.
    low, high : float
        Its 95 % bootstrap interval over utterances; an utterance is drawn with all its seeds.
    seeds : list of float
        The WER of each seed.
    """

    mean: float
    low: float
    high: float
    seeds: list


def runs_of(record: dict, mixer: str, kind: str) -> dict[int, dict]:
    """The runs of a mixer, by seed."""
    found = [run for run in record["runs"] if (run["mixer"], run["kind"]) == (mixer, kind)]
    return {run["seed"]: run for run in sorted(found, key=lambda run: run["seed"])}


def error_rate(record: dict, mixer: str, kind: str, split: str, chunks: str = "") -> Rate | None:
    """The WER of a mixer on a test set over the finished seeds; None if there is none.

    `chunks` is the label of a test with dynamic chunks.
    """
    runs = runs_of(record, mixer, kind)
    if chunks:
        runs = {seed: _chunked(run, split, chunks) for seed, run in runs.items()}
        runs = {seed: run for seed, run in runs.items() if run is not None}
    if not runs:
        return None
    edits = _pooled(record, runs, list(runs), split)
    seeds = [run["results"][split]["wer"] for run in runs.values()]
    return Rate(*rate_with_interval(edits, NUM_BOOTSTRAP), seeds)


def _chunked(run, split, chunks):
    """A run as if its test with these chunks were the one with the full context."""
    found = run.get("chunks", {}).get(split, {}).get(chunks)
    return found and {"results": {split: found}, "edits": {split: found["edits"]}}


def difference(
    record: dict, first: tuple[str, str], second: tuple[str, str], split: str
) -> Difference | None:
    """The difference of two systems (mixer, kind) over the seeds that both have, if any.

    It is paired by utterance, which counts with the errors of all its seeds.
    """
    runs = [runs_of(record, *system) for system in (first, second)]
    seeds = [seed for seed in runs[0] if seed in runs[1]]
    if not seeds:
        return None
    pooled = [_pooled(record, found, seeds, split) for found in runs]
    return paired_difference(*pooled, NUM_BOOTSTRAP, NUM_RANDOMISATIONS)


def pairs_of_mixers(
    record: dict, mixers: Iterable[str], kind: str, split: str
) -> list[tuple[str, str, Difference]]:
    """The differences of all pairs of mixers that have seeds in common."""
    pairs = combinations(mixers, 2)
    found = [(a, b, difference(record, (a, kind), (b, kind), split)) for a, b in pairs]
    return [pair for pair in found if pair[2] is not None]


def mean_of(record: dict, mixer: str, kind: str, metric: str) -> float | None:
    """A metric of a mixer, averaged over its seeds; None if it is unknown for one of them."""
    values = [run[metric] for run in runs_of(record, mixer, kind).values()]
    return sum(values) / len(values) if values and None not in values else None


def _pooled(record, runs, seeds, split):
    """Utterance id to (edited words, words), both added up over the seeds."""
    words = record["utterances"][split]
    edits = [sum(column) for column in zip(*(runs[s]["edits"][split] for s in seeds), strict=True)]
    return {
        key: (number, len(seeds) * words[key]) for key, number in zip(words, edits, strict=True)
    }
