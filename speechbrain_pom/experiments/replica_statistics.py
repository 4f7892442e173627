"""Figures of a replica over its seeds: error rates with intervals, differences, time and memory."""

from itertools import combinations
from typing import NamedTuple

from speechbrain_pom.ctc.scoring import rate_with_interval
from speechbrain_pom.reports.significance import paired_difference

NUM_BOOTSTRAP = 1000
NUM_RANDOMISATIONS = 10000


class Rate(NamedTuple):
    """The WER of a mixer over its seeds, in %.

    Arguments
    ---------
    mean : float
        All edited words of all seeds by all words.
    low, high : float
        Its 95 % interval over utterances: an utterance is drawn with all its seeds.
    seeds : list of float
        The WER of each seed.
    """

    mean: float
    low: float
    high: float
    seeds: list


def runs_of(record, mixer, kind):
    """The runs of a mixer, by seed.

    Arguments
    ---------
    record : dict
        From `speechbrain_pom.experiments.replica_records.collect`.
    mixer, kind : str

    Returns
    -------
    dict of int to dict
    """
    found = [run for run in record["runs"] if (run["mixer"], run["kind"]) == (mixer, kind)]
    return {run["seed"]: run for run in sorted(found, key=lambda run: run["seed"])}


def error_rate(record, mixer, kind, split):
    """The WER of a mixer, over the seeds that are finished.

    Arguments
    ---------
    record : dict
    mixer : str
    kind : str
        "finetuning" or "scratch".
    split : str
        Test set.

    Returns
    -------
    Rate or None
        None if no seed is finished.
    """
    runs = runs_of(record, mixer, kind)
    if not runs:
        return None
    edits = _pooled(record, runs, list(runs), split)
    seeds = [run["results"][split]["wer"] for run in runs.values()]
    return Rate(*rate_with_interval(edits, NUM_BOOTSTRAP), seeds)


def difference(record, first, second, split):
    """The difference of two systems, each a mixer and a kind, over the seeds that both have.

    Arguments
    ---------
    record : dict
    first, second : tuple of (str, str)
        Mixer and kind.
    split : str
        Test set.

    Returns
    -------
    speechbrain_pom.reports.significance.Difference or None
        Paired by utterance, which counts with the errors of all its seeds; None if the two have
        no seed in common.
    """
    runs = [runs_of(record, *system) for system in (first, second)]
    seeds = [seed for seed in runs[0] if seed in runs[1]]
    if not seeds:
        return None
    pooled = [_pooled(record, found, seeds, split) for found in runs]
    return paired_difference(*pooled, NUM_BOOTSTRAP, NUM_RANDOMISATIONS)


def pairs_of_mixers(record, mixers, kind, split):
    """The differences of all pairs of mixers that have seeds in common.

    Arguments
    ---------
    record : dict
    mixers : iterable of str
    kind, split : str

    Returns
    -------
    list of (str, str, speechbrain_pom.reports.significance.Difference)
    """
    pairs = combinations(mixers, 2)
    found = [(a, b, difference(record, (a, kind), (b, kind), split)) for a, b in pairs]
    return [pair for pair in found if pair[2] is not None]


def mean_of(record, mixer, kind, figure):
    """A figure of the runs of a mixer, averaged over its seeds.

    Arguments
    ---------
    record : dict
    mixer, kind, figure : str

    Returns
    -------
    float or None
        None if no seed is finished, or the figure of one is not known.
    """
    values = [run[figure] for run in runs_of(record, mixer, kind).values()]
    return sum(values) / len(values) if values and None not in values else None


def _pooled(record, runs, seeds, split):
    """Utterance id to (edited words, words), both added up over the seeds."""
    words = record["utterances"][split]
    edits = [sum(column) for column in zip(*(runs[s]["edits"][split] for s in seeds), strict=True)]
    return {
        key: (number, len(seeds) * words[key]) for key, number in zip(words, edits, strict=True)
    }
