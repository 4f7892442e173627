"""What a run measures: declared by its task, stored with the run, read by all reports.

No report knows a metric by name: curves, summaries, model cards, comparisons and the choice of the
best checkpoint follow the declarations.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from speechbrain_pom.runs.record import read_run, record_run
from speechbrain_pom.utils.errors import UserError

PARTS = ("train", "valid", "epoch", "test")
_DIGITS = {"share": 1, "%": 2, "count": 0}
_CHOICES = {
    "better": ("lower", "higher", None),
    "axis": ("linear", "zero", "log", None),
    "summary": ("course", "last", "none", None),
}


@dataclass(frozen=True)
class Metric:
    """One number that a task logs, and how reports show it.

    Arguments
    ---------
    name : str
        Its key among the logged statistics.
    unit : str
        ``"share"`` (0 to 1, shown in %), ``"%"``, ``"count"``, or any other unit: ``"nats"``.
    label : str, optional
        Its name in words; by default `name` with spaces.
    better : str, optional
        ``"lower"`` or ``"higher"``; None where neither is better.
    panel : str, optional
        Title of the panel of the curves in which it is drawn, with all others that name it.
        None: it is not drawn.
    parts : tuple of str
        Where it is logged: ``"train"`` and ``"valid"`` (statistics of these stages), ``"epoch"``
        (beside them, as a learning rate), ``"test"`` (results.json, perhaps with the ends of its
        interval as ``<name>_low`` and ``<name>_high``).
    axis : str, optional
        ``"linear"``, ``"zero"`` (linear from zero; the default of percentages) or ``"log"``.
    digits : int, optional
        Decimals in texts; by default 1 for shares, 2 for ``"%"``, 0 for counts and 3 for others.
    summary : str, optional
        In the summary of a run: ``"course"`` (from the first epoch to the last; the default if
        `better` is given), ``"last"`` (the last epoch alone) or ``"none"``.
    compared_with : str, optional
        Another metric that is shown beside it, such as what guessing would reach.

    Raises
    ------
    UserError
        If `better`, `axis`, `summary` or `parts` is none of these.

    Example
    -------
    >>> accuracy = Metric("accuracy", "share", better="higher", panel="Masked prediction")
    >>> accuracy.format(0.25)
    '25.0 %'
    """

    name: str
    unit: str = ""
    label: str | None = None
    better: str | None = None
    panel: str | None = None
    parts: tuple[str, ...] = ("train", "valid")
    axis: str | None = None
    digits: int | None = None
    summary: str | None = None
    compared_with: str | None = None

    def __post_init__(self):
        for key, known in _CHOICES.items():
            if getattr(self, key) not in known:
                raise UserError(
                    f"metric '{self.name}': {key} = {getattr(self, key)!r}: give one of {known}"
                )
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise UserError(f"metric '{self.name}': parts = {self.parts}: give some of {PARTS}")
        unset = {
            "label": self.name.replace("_", " "),
            "axis": "zero" if self.shown_unit == "%" else "linear",
            "digits": _DIGITS.get(self.unit, 3),
            "summary": "course" if self.better else "none",
        }
        for key, value in unset.items():
            if getattr(self, key) is None:
                object.__setattr__(self, key, value)

    @property
    def factor(self) -> int:
        """What a logged value is multiplied by to be shown."""
        return 100 if self.unit == "share" else 1

    @property
    def shown_unit(self) -> str:
        """The unit of shown values."""
        return {"share": "%", "count": ""}.get(self.unit, self.unit)

    def number(self, value: float) -> str:
        """A logged value as text, without its unit."""
        return f"{self.factor * value:.{self.digits}f}"

    def format(self, value: float) -> str:
        """A logged value as text, with its unit."""
        return f"{self.number(value)} {self.shown_unit}".rstrip()


@dataclass(frozen=True)
class TaskMetrics:
    """All that the runs of a task log, and which checkpoint is the best.

    Arguments
    ---------
    task : str
        Name of the task, for titles.
    metrics : tuple of Metric
    best : str
        The metric of the validation that says which checkpoint is the best: this one is kept
        besides the newest. It needs a direction (`Metric.better`).
    use : str
        Which checkpoint of a run later stages load: ``"best"`` or ``"newest"``.
    names : dict of str to str
        Keys of results.json to what they are called in reports.

    Raises
    ------
    UserError
        If a name comes twice in a part, `best` has no direction, or `use` does not exist.

    Example
    -------
    >>> task = TaskMetrics("CTC", (Metric("wer", "%", label="WER", better="lower"),), best="wer")
    >>> task.checkpoint_key()
    {'min_key': 'wer'}
    """

    task: str
    metrics: tuple[Metric, ...]
    best: str = "loss"
    use: str = "best"
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self):
        for part in PARTS:
            names = [metric.name for metric in self.of(part)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise UserError(f"{self.task} declares the metric '{twice[0]}' of {part} twice")
        if self.best_metric.better is None:
            raise UserError(
                f"{self.task} chooses checkpoints by '{self.best}', which has no direction: give "
                "its Metric better='lower' or better='higher'"
            )
        if self.use not in ("best", "newest"):
            raise UserError(f"{self.task}: use = {self.use!r}: give 'best' or 'newest'")

    def of(self, part: str) -> list[Metric]:
        """The metrics of a part."""
        return [metric for metric in self.metrics if part in metric.parts]

    @property
    def best_metric(self) -> Metric:
        """The metric that says which checkpoint is the best."""
        for metric in self.of("valid"):
            if metric.name == self.best:
                return metric
        raise UserError(
            f"{self.task} chooses checkpoints by '{self.best}', which is no metric of its "
            "validation: declare it"
        )

    def checkpoint_key(self) -> dict[str, str]:
        """`min_key` or `max_key`, as SpeechBrain's checkpointer and `Brain.evaluate` take it."""
        return {"min_key" if self.best_metric.better == "lower" else "max_key": self.best}

    def best_of(self, stats: Sequence[Mapping]) -> int | None:
        """The position of the best of several statistics; None if no value is finite."""
        sign = 1 if self.best_metric.better == "lower" else -1
        values = [sign * one.get(self.best, math.nan) for one in stats]
        ranked = [(value, place) for place, value in enumerate(values) if math.isfinite(value)]
        return min(ranked)[1] if ranked else None

    def format_results(self, results: Mapping) -> str:
        """The metrics of one test as one line; ± is half the width of the interval."""
        return ", ".join(
            f"{metric.label} {_with_interval(metric, results)}"
            for metric in self.of("test")
            if metric.name in results
        )

    def find_results(self, results: Mapping, path: tuple = ()) -> Iterator[tuple[tuple, Mapping]]:
        """(keys, results) of each test in the contents of results.json."""
        for key, value in results.items():
            if not isinstance(value, dict):
                continue
            if any(metric.name in value for metric in self.of("test")):
                yield (*path, self.names.get(key, key)), value
            else:
                yield from self.find_results(value, (*path, self.names.get(key, key)))


def interval(metric: Metric, results: Mapping) -> tuple[float, float] | None:
    """The ends of a metric's interval in the results of a test, if it has one."""
    low, high = (results.get(f"{metric.name}_{end}") for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _with_interval(metric: Metric, results: Mapping) -> str:
    value, ends = results[metric.name], interval(metric, results)
    if ends is None:
        return metric.format(value)
    half_width = metric.format((ends[1] - ends[0]) / 2)
    low, high = map(metric.number, ends)
    return f"{metric.number(value)} ±{half_width} ({low} to {high})"


def store_metrics(folder: str | Path, task: TaskMetrics) -> None:
    """Write a run's declarations into its record; for the main process."""
    record_run(folder, metrics=json.loads(json.dumps(asdict(task))))


def read_metrics(folder: str | Path | None, logged: Collection[str] = ()) -> TaskMetrics:
    """Read the declarations of a run.

    Arguments
    ---------
    folder : str, pathlib.Path or None
        Of the run; None for a checkpoint that was taken out of it.
    logged : collection of str
        Names of what was logged in validation, by which runs of version 0.1 are known.
    """
    stored = read_run(folder).get("metrics") if folder is not None else None
    if stored is None:
        from speechbrain_pom.runs.legacy_metrics import metrics_of_0_1

        return metrics_of_0_1(logged)
    known = {each.name for each in fields(Metric)}
    metrics = tuple(
        Metric(**{**{k: v for k, v in one.items() if k in known}, "parts": tuple(one["parts"])})
        for one in stored["metrics"]
    )
    return TaskMetrics(**{**stored, "metrics": metrics})
