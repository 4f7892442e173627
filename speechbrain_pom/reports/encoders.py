"""A table over encoders: a row for each, a column for each test, as SUPERB and MP3S print them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from speechbrain_pom.reports.comparison import TestedRun, read_runs, short_labels, table
from speechbrain_pom.runs.metrics import Metric, interval
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.utils.bootstrap import rate_with_interval
from speechbrain_pom.utils.errors import UserError


class Result(NamedTuple):
    """What a test of one run gave.

    Arguments
    ---------
    metric : Metric
        The main one of the test.
    value, low, high : float
        With its 95 % interval.
    counts : dict, optional
        Utterance ID to (errors, chances), where the run has kept them.
    """

    metric: Metric
    value: float
    low: float
    high: float
    counts: dict | None


def format_encoders(folders: Sequence[str], num_bootstrap: int = 1000) -> str:
    """The results of runs as one table in Markdown: encoders by tests.

    Runs of one encoder, test and head are seeds: their figures are averaged. An interval is that of
    the utterances, each drawn with all its seeds; where a run keeps no counts of them (an equal
    error rate), it is the mean of the seeds' intervals.

    Arguments
    ---------
    folders : sequence of str
        Output folders of runs.
    num_bootstrap : int
        Number of bootstrap trials.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If a folder is not that of a run, or no run has been tested.
    """
    runs = read_runs(list(folders))
    labels = encoder_labels(folders)
    cells, columns = {}, {}
    for folder, label, run in zip(folders, labels, runs, strict=True):
        for column, result in tested_results(Path(folder), run).items():
            columns[column] = result.metric
            cells.setdefault((label, column), []).append(result)
    if not cells:
        raise UserError("none of these runs has been tested: there is nothing to put in a table")
    rows = list(dict.fromkeys(label for label in labels if any(k[0] == label for k in cells)))
    figures = {key: mean_result(found, num_bootstrap) for key, found in cells.items()}
    heading = [f"{column} ({metric.shown_unit})" for column, metric in columns.items()]
    lines = [("encoder", *heading)]
    for row in rows:
        texts = (
            format_cell(figures, rows, row, column, metric) for column, metric in columns.items()
        )
        lines.append((row, *texts))
    seeds = sorted({len(found) for found in cells.values()})
    return "\n".join(
        [
            *table(lines),
            "",
            f"In brackets intervals of 95 %; in bold the best of a column. Seeds in a cell: "
            f"{' or '.join(map(str, seeds))}.",
        ]
    )


def encoder_labels(folders: Sequence[str]) -> list[str]:
    """What the runs read: the encoders by what distinguishes their paths, or features."""
    trees = [_options(Path(folder)) for folder in folders]
    kinds = [
        tree.get("upstream", "random" if tree.get("random_encoder") else "pretrained")
        for tree in trees
    ]
    paths = [Path(str(tree.get("pretrained"))) for tree in trees]
    read = [path for path, kind in zip(paths, kinds, strict=True) if kind != "log_mel"]
    unique = list(dict.fromkeys(read))
    names = dict(zip(unique, short_labels(unique) if unique else (), strict=True))
    labels = []
    for tree, kind, path in zip(trees, kinds, paths, strict=True):
        label = "log-mel" if kind == "log_mel" else names[path]
        label = f"random, as {label}" if kind == "random" else label
        labels.append(f"{label}, fine-tuned" if tree.get("freeze") is False else label)
    return labels


def _options(folder):
    path = folder / "hyperparams.yaml"
    return read_tree(path) if path.is_file() else {}


def tested_results(folder: Path, run: TestedRun) -> dict[str, Result]:
    """Column to the result of each test; the head belongs to the column."""
    file = folder / "results.json"
    stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    head = f", {stored['head']}" if isinstance(stored.get("head"), str) else ""
    found = {}
    for names, results in run.results.items():
        metric = _main_metric(run, results)
        if metric is not None:
            low, high = interval(metric, results)
            column = f"{', '.join(names)}{head}: {metric.label}"
            counts = run.edits.get(names)
            found[column] = Result(metric, results[metric.name], low, high, counts)
    return found


def _main_metric(run: TestedRun, results: Mapping) -> Metric | None:
    """The first metric of a test that has an interval."""
    return next((one for one in run.task.of("test") if interval(one, results)), None)


def mean_result(results: list[Result], num_bootstrap: int) -> tuple[float, float, float]:
    """Mean over the seeds, and the ends of its interval."""
    if len(results) == 1:
        return results[0][1:4]
    if all(result.counts for result in results):
        same = {frozenset(result.counts) for result in results}
        if len(same) > 1:
            raise UserError(
                "runs that would share a cell were tested on other utterances: give those of one "
                "test alone"
            )
        pooled = {
            key: tuple(map(sum, zip(*(result.counts[key] for result in results), strict=True)))
            for key in results[0].counts
        }
        rate, low, high = rate_with_interval(pooled, num_bootstrap)
        if results[0].metric.better == "higher":  # counts are of errors
            return 100 - rate, 100 - high, 100 - low
        return rate, low, high
    ends = zip(*(result[1:4] for result in results), strict=True)
    return tuple(sum(column) / len(results) for column in ends)


def format_cell(
    figures: Mapping, rows: Sequence[str], row: str, column: str, metric: Metric
) -> str:
    """A figure with its interval; in bold if it is the best of its column."""
    if (row, column) not in figures:
        return ""
    value, low, high = figures[row, column]
    values = [figures[other, column][0] for other in rows if (other, column) in figures]
    best = max(values) if metric.better == "higher" else min(values)
    text = metric.number(value)
    text = f"**{text}**" if value == best and len(values) > 1 else text
    return f"{text} ({metric.number(low)} to {metric.number(high)})"
