"""The learning curves of several runs in one picture."""

import io
import math

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_pom.utils.files import write_atomically

# Title, unit, whether of pretraining (its loss is another one than CTC's), part and key of a
# record, factor.
_PANELS = (
    ("Pretraining: loss, training", "loss (nats)", True, "train", "loss", 1),
    ("Pretraining: loss, validation", "loss (nats)", True, "valid", "loss", 1),
    ("Pretraining: accuracy of masked prediction", "share (%)", True, "valid", "accuracy", 100),
    ("Fine-tuning: CTC loss, training", "loss (nats)", False, "train", "loss", 1),
    ("Fine-tuning: CTC loss, validation", "loss (nats)", False, "valid", "loss", 1),
    ("Fine-tuning: WER, greedy, validation", "WER (%)", False, "valid", "wer", 1),
)
_WIDTH_IN, _ROW_IN, _DPI = 12, 3.8, 100


def draw_together(histories, out_png):
    """Draw losses, accuracies and error rates of runs over their optimizer steps.

    Arguments
    ---------
    histories : dict of str to list of dict
        Label to records of `EpochHistory`.
    out_png : str or pathlib.Path
        Replaced in one step.

    Returns
    -------
    bool
        Whether there was anything to draw.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> records = [{"epoch": 1, "steps": 9, "train": {"loss": 5.0}, "valid": {"loss": 5.1}}]
    >>> draw_together({"a": records, "b": records}, folder / "compare.png")
    True
    >>> (folder / "compare.png").read_bytes()[1:4]
    b'PNG'
    """
    panels = [(panel, lines) for panel in _PANELS if (lines := _lines(panel, histories))]
    if not panels:
        return False
    num_rows = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(_WIDTH_IN, _ROW_IN * num_rows), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for position, (panel, lines) in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(num_rows, 2, position), panel, lines, list(histories))
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(out_png, picture.getvalue())
    return True


def _lines(panel, histories):
    """Label to (steps, values) of the runs that have the figure; NaN where it is not finite."""
    _, _, of_pretraining, part, key, factor = panel
    lines = {}
    for label, records in histories.items():
        records = [row for row in records if ("accuracy" in row["valid"]) == of_pretraining]
        points = [(row["steps"], row[part][key]) for row in records if key in row[part]]
        if points:
            values = [factor * v if math.isfinite(v) else math.nan for _, v in points]
            lines[label] = ([step for step, _ in points], values)
    return lines


def _draw_panel(axes, panel, lines, labels):
    title, unit, *_ = panel
    for label, (steps, values) in lines.items():
        marker = "o" if len(steps) <= 40 else None
        colour = f"C{labels.index(label) % 10}"  # the same one in all panels
        axes.plot(steps, values, marker=marker, markersize=3, label=label, color=colour)
    axes.set_title(title)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    axes.legend()
