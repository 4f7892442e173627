"""Runs side by side: error rates with intervals, and the significance of their differences."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from speechbrain_pom.ctc.scoring import read_word_edits
from speechbrain_pom.downstream.answers import read_wrong_answers
from speechbrain_pom.reports.significance import paired_difference
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.metrics import TaskMetrics, interval, read_metrics
from speechbrain_pom.utils.bootstrap import rate_with_interval
from speechbrain_pom.utils.errors import UserError

# Test set, chunks if there were any, and how it was decoded.
_REPORT = re.compile(r"wer_(.+?)(?:_(chunk\d+(?:_left\d+)?))?_(no_lm|lm|greedy)\.txt")
_ANSWERS = re.compile(r"answers_(.+)\.csv")


@dataclass(frozen=True)
class TestedRun:
    """What a comparison needs of a run.

    Arguments
    ---------
    label : str
        Tells it from the others.
    history : list of dict
        One record per epoch.
    edits : dict
        (test set, decoder), with the chunks between them if there were any, to utterance id to
        (edited words, words), or (test set,) to utterance id to (wrong answers, 1); empty for
        pretraining.
    results : dict
        As `edits`, to the results of the test.
    task : TaskMetrics
        What the run measures.
    """

    label: str
    history: list[dict]
    edits: dict[tuple[str, ...], dict[str, tuple[int, int]]]
    results: dict[tuple[str, ...], dict]
    task: TaskMetrics


def read_runs(folders: list[str]) -> list[TestedRun]:
    """Read the runs that are to be compared, finished or not."""
    paths = [Path(folder) for folder in folders]
    for position, path in enumerate(paths):
        if path.resolve() in [other.resolve() for other in paths[:position]]:
            raise UserError(f"'{path}' is given twice: a run has no difference to itself")
    return [_read_run(path, label) for path, label in zip(paths, short_labels(paths), strict=True)]


def short_labels(paths: list[Path]) -> list[str]:
    """The parts of paths that distinguish them, without folders that all begin or end with.

    >>> short_labels([Path("results/base-pom/1000/ctc"), Path("results/base-mamba/1000/ctc")])
    ['base-pom', 'base-mamba']
    """
    parts = [path.resolve().parts if path.name in ("", "..") else path.parts for path in paths]
    if len(set(parts)) > 1:
        while len({part[0] for part in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [part[1:] for part in parts]
        while len({part[-1] for part in parts}) == 1 and min(map(len, parts)) > 1:
            parts = [part[:-1] for part in parts]
    return ["/".join(part).replace("//", "/") for part in parts]


def format_comparison(
    runs: list[TestedRun], num_bootstrap: int = 1000, num_randomisations: int = 10000, seed: int = 0
) -> str:
    """Tables of the error rates of runs, and of the differences of each pair, as Markdown."""
    tests = list(dict.fromkeys(key for run in runs for key in _in_order(run.edits)))
    blocks = _without_counts(runs)
    if not tests and not blocks:
        return "No error rates: none of these runs has been tested."
    for test in tests:
        tested = [run for run in runs if test in run.edits]
        num_utterances = len(tested[0].edits[test])
        lines = [f"{', '.join(test)}, {num_utterances} utterances", ""]
        lines += table(_rates(tested, test, num_bootstrap))
        if len(tested) > 1:
            options = (num_bootstrap, num_randomisations, seed)
            lines += ["", *table(_differences(tested, test, *options))]
        blocks.append("\n".join(lines))
    blocks.append(
        f"Intervals of 95 %: {num_bootstrap} bootstrap trials over utterances, trial i with seed "
        f"i, the same for all runs. p: {num_randomisations} random exchanges of the errors of "
        f"utterances, seed {seed}, two-sided, not corrected for the number of comparisons. Both "
        "know the chance of the utterances, not that of training: for this, compare several seeds."
    )
    return "\n\n".join(blocks)


def _in_order(tests):
    """Tests with the full context before those with chunks."""
    return sorted(tests, key=lambda names: (len(names), names))


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows of text as a Markdown table with aligned columns; the first row is the heading.

    >>> print("\\n".join(table([("run", "WER"), ("base-pom", "8.31")])))
    | run      | WER  |
    | -------- | ---- |
    | base-pom | 8.31 |
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return [
        f"| {' | '.join(f'{cell:{w}}' for cell, w in zip(row, widths, strict=True))} |"
        for row in rows
    ]


def _read_run(path, label):
    if not path.is_dir():
        raise UserError(f"no such folder: '{path}': give the output folder of a run")
    history = EpochHistory(path / "history.jsonl").records()
    reports = {_REPORT.fullmatch(file.name): file for file in sorted(path.glob("wer_*.txt"))}
    answers = {_ANSWERS.fullmatch(file.name): file for file in sorted(path.glob("answers_*.csv"))}
    if not history and not any(reports):
        raise UserError(
            f"'{path}' holds neither an epoch nor a test of a run: give the output_folder of "
            "train_bestrq.py or train_ctc.py"
        )
    file = path / "results.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    logged = history[-1].get("valid", {}) if history else ()
    task = read_metrics(path, logged)
    edits = {
        (found[1], *filter(None, [found[2]]), task.names.get(found[3], found[3])): (
            read_word_edits(file)
        )
        for found, file in reports.items()
        if found
    }
    edits |= {(found[1],): read_wrong_answers(file) for found, file in answers.items() if found}
    return TestedRun(label, history, edits, dict(task.find_results(results)), task)


def _rates(runs, test, num_bootstrap):
    """The word error rate of each run, from its edits, and the other rates of its results."""
    task = runs[0].task
    others = [one for one in task.of("test") if one.better and one.name != task.best]
    heading = ["run", f"{_rate_of(test)} (%)", "95 % interval"]
    for metric in others:
        heading += [f"{metric.label} ({metric.shown_unit})", "95 % interval"]
    yield heading
    for run in runs:
        rates = [rate_with_interval(run.edits[test], num_bootstrap)]
        found = run.results.get(test, {})
        for metric in others:
            ends = interval(metric, found)
            rates.append((found[metric.name], *ends) if ends else None)
        cells = []
        for rate in rates:
            cells += [f"{rate[0]:.2f}", f"{rate[1]:.2f} to {rate[2]:.2f}"] if rate else ["", ""]
        yield run.label, *cells


def _rate_of(test):
    """What is counted in the utterances of a test: words, or answers."""
    return "WER" if len(test) > 1 else "error rate"


def _without_counts(runs):
    """Tables of tests of which no utterance has counts, such as those of verification."""
    tests = [(test, run.edits) for run in runs for test in run.results]
    blocks = []
    for test in dict.fromkeys(test for test, edits in tests if test not in edits):
        found = [(run, run.results[test]) for run in runs if test in run.results]
        metrics = [one for one in runs[0].task.of("test") if interval(one, found[0][1])]
        if metrics:
            rows = [("run", f"{metrics[0].label} ({metrics[0].shown_unit})", "95 % interval")]
            for run, results in found:
                low, high = map(metrics[0].number, interval(metrics[0], results))
                rows.append(
                    (run.label, metrics[0].number(results[metrics[0].name]), f"{low} to {high}")
                )
            blocks.append("\n".join([", ".join(test), "", *table(rows)]))
    return blocks


def _differences(runs, test, *options):
    yield (
        "difference",
        f"{_rate_of(test)} (points)",
        "95 % interval",
        "p",
        "utterances better",
        "worse",
    )
    for first, second in combinations(runs, 2):
        try:
            found = paired_difference(first.edits[test], second.edits[test], *options)
        except UserError as error:
            raise UserError(
                f"{first.label} and {second.label} cannot be compared on {test[0]}: {error}"
            ) from error
        yield (
            f"{first.label} - {second.label}",
            f"{found.difference:+.2f}",
            f"{found.low:+.2f} to {found.high:+.2f}",
            f"{found.p_value:.4f}",
            str(found.num_better),
            str(found.num_worse),
        )
