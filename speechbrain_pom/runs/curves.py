"""The curves of a run as one picture, drawn again after each epoch."""

import io
import math
from pathlib import Path
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from speechbrain_pom.runs.metrics import TaskMetrics
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

_WORDS = {"train": "training", "valid": "validation", "epoch": ""}


class _Panel(NamedTuple):
    title: str
    unit: str
    axis: str
    lines: dict  # label to {epoch: shown value}


_WIDTH_IN, _ROW_IN, _DPI = 12, 3.4, 100
# Around and between panels, in inches: Matplotlib's own layout draws everything twice, in each
# epoch.
_LEFT_IN, _RIGHT_IN, _BETWEEN_IN, _ABOVE_IN, _BELOW_IN = 1.0, 0.15, 1.1, 0.35, 0.5


def draw_curves(history: list[dict], task: TaskMetrics, out_png: str | Path) -> None:
    """Draw what the history holds of the metrics of a task, one panel per `Metric.panel`.

    A panel without values is left out. The picture is 1200 pixels wide. Values that are not finite
    leave a gap and are named in the panel.

    Arguments
    ---------
    history : list of dict
        One record per epoch, as in `EpochHistory`: `{"epoch": 1, "lr": ..., "train": {...},
        "valid": {...}}`.
    task : TaskMetrics
        What the run measures.
    out_png : str or Path
        Replaced in one step.

    Raises
    ------
    UserError
        When no record has anything to draw.

    Example
    -------
    >>> from speechbrain_pom.runs.metrics import Metric
    >>> folder = getfixture("tmp_path")
    >>> task = TaskMetrics("toy", (Metric("loss", "nats", better="lower", panel="Loss"),))
    >>> history = [{"epoch": 1, "train": {"loss": 9.0}}, {"epoch": 2, "train": {"loss": 7.5}}]
    >>> draw_curves(history, task, folder / "curves.png")
    >>> (folder / "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    panels = [panel for panel in _panels(task, history) if panel.lines]
    if not panels:
        names = ", ".join(metric.name for metric in task.metrics if metric.panel)
        raise UserError(f"nothing to draw: the history has none of the metrics {names}")
    num_columns = min(2, len(panels))
    num_rows = math.ceil(len(panels) / num_columns)
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * num_rows), dpi=_DPI)
    FigureCanvasAgg(figure)
    column_in = (_WIDTH_IN - _LEFT_IN - _RIGHT_IN + _BETWEEN_IN) / num_columns - _BETWEEN_IN
    figure.subplots_adjust(
        left=_LEFT_IN / _WIDTH_IN,
        right=1 - _RIGHT_IN / _WIDTH_IN,
        wspace=_BETWEEN_IN / column_in,
        top=1 - _ABOVE_IN / (_ROW_IN * num_rows),
        bottom=_BELOW_IN / (_ROW_IN * num_rows),
        hspace=(_ABOVE_IN + _BELOW_IN) / (_ROW_IN - _ABOVE_IN - _BELOW_IN),
    )
    for position, panel in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(num_rows, num_columns, position), panel)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(out_png, picture.getvalue())


def _panels(task, history):
    """The panels of a task, in the order of its metrics, with what the history has of them."""
    titles = dict.fromkeys(metric.panel for metric in task.metrics if metric.panel)
    for title in titles:
        metrics = [metric for metric in task.metrics if metric.panel == title]
        parts = dict.fromkeys(part for one in metrics for part in one.parts if part in _WORDS)
        of_one = _WORDS[next(iter(parts))] if len(parts) == 1 else ""
        lines = {}
        for metric in metrics:
            for part in metric.parts:
                told_apart = [metric.label] if len(metrics) > 1 else []
                told_apart += [part] if len(parts) > 1 else []
                values = _values(metric, part, history)
                if values:
                    lines[", ".join(told_apart or [metric.label])] = values
        unit = metrics[0].shown_unit or title.lower()
        yield _Panel(f"{title}, {of_one}" if of_one else title, unit, metrics[0].axis, lines)


def _values(metric, part, history):
    """Epoch to shown value."""
    records = [(row["epoch"], row if part == "epoch" else row.get(part, {})) for row in history]
    return {epoch: metric.factor * row[metric.name] for epoch, row in records if metric.name in row}


def _draw_panel(axes, panel):
    gaps = []
    for label, values in panel.lines.items():
        finite = [value if math.isfinite(value) else math.nan for value in values.values()]
        marker = "o" if len(values) <= 40 else None
        axes.plot(list(values), finite, marker=marker, markersize=3, label=label)
        lost = [str(epoch) for epoch, v in zip(values, finite, strict=True) if math.isnan(v)]
        if lost:
            more = ", ..." if len(lost) > 5 else ""
            gaps.append(f"{label} not finite at epoch {', '.join(lost[:5])}{more}")
    axes.text(0.02, 0.02, "\n".join(gaps), transform=axes.transAxes, color="tab:red")
    if panel.axis == "zero":
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    elif panel.axis == "log" and not any(
        v <= 0 for values in panel.lines.values() for v in values.values()
    ):
        axes.set_yscale("log")
    epochs = [epoch for values in panel.lines.values() for epoch in values]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.set_title(panel.title, y=1.0)  # or Matplotlib measures all labels for its place
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    if len(panel.lines) > 1:
        axes.legend()
