"""The learning curves of several runs in one picture."""

import io
import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_pom.reports.comparison import TestedRun
from speechbrain_pom.utils.files import write_atomically

_STAGES = {"train": "training", "valid": "validation"}
_WIDTH_IN, _ROW_IN, _DPI = 12, 3.8, 100


class _Panel(NamedTuple):
    title: str
    unit: str
    lines: dict  # label of a run to (steps, shown values)


def draw_together(runs: list[TestedRun], out_png: str | Path) -> bool:
    """Draw the metrics of runs over their optimizer steps: those that get better or worse.

    Runs of one task share panels; the loss of another task is another one.

    Arguments
    ---------
    runs : list of TestedRun
        From `read_runs`.
    out_png : str or pathlib.Path
        Replaced in one step.

    Returns
    -------
    bool
        Whether there was anything to draw.
    """
    panels = list(_panels(runs))
    if not panels:
        return False
    num_rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * num_rows), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    colours = {run.label: f"C{place % 10}" for place, run in enumerate(runs)}
    for position, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(num_rows, 2, position), panel, colours)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(out_png, picture.getvalue())
    return True


def _panels(runs):
    """A panel for each task, metric with a direction, and stage, if a run has values of it."""
    tasks = {}
    for run in runs:
        tasks.setdefault(run.task.task, run.task)
    for name, task in tasks.items():
        for metric in task.metrics:
            for part in [part for part in ("train", "valid") if part in metric.parts]:
                lines = {
                    run.label: _line(run.history, metric, part)
                    for run in runs
                    if run.task.task == name
                }
                lines = {label: line for label, line in lines.items() if line[0]}
                if metric.better and lines:
                    title = ": ".join(filter(None, (name, f"{metric.label}, {_STAGES[part]}")))
                    yield _Panel(title, metric.shown_unit, lines)


def _line(history, metric, part):
    """Steps, and values; NaN where they are not finite."""
    records = [(row["steps"], row.get(part, {})) for row in history]
    points = [(steps, row[metric.name]) for steps, row in records if metric.name in row]
    values = [metric.factor * v if math.isfinite(v) else math.nan for _, v in points]
    return [step for step, _ in points], values


def _draw_panel(axes, panel, colours):
    for label, (steps, values) in panel.lines.items():
        marker = "o" if len(steps) <= 40 else None
        axes.plot(steps, values, marker=marker, markersize=3, label=label, color=colours[label])
    axes.set_title(panel.title)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(panel.unit)
    axes.grid(alpha=0.3)
    axes.legend()
