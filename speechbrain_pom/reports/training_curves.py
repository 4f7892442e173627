"""The curves of a run as one picture, drawn again after each epoch."""

import io
import math
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically


class _Panel(NamedTuple):
    title: str
    unit: str
    lines: tuple  # (part of the record or "" for the record itself, key, label)
    scale: str = "linear"  # or "log", or "zero": linear from zero
    factor: int = 1


_PANELS = (
    _Panel("Loss", "loss (nats)", (("train", "loss", "train"), ("valid", "loss", "valid"))),
    _Panel(
        "Masked prediction",
        "share (%)",
        (
            ("train", "accuracy", "accuracy, train"),
            ("valid", "accuracy", "accuracy, valid"),
            ("valid", "top_code_share", "commonest code, valid"),
        ),
        "zero",
        factor=100,
    ),
    _Panel(
        "Error rates, greedy decoding",
        "error rate (%)",
        (("valid", "wer", "WER, valid"), ("valid", "cer", "CER, valid")),
        "zero",
    ),
    _Panel(
        "Classification",
        "error rate (%)",
        (("train", "error_rate", "train"), ("valid", "error_rate", "valid")),
        "zero",
    ),
    _Panel(
        "Learning rate",
        "learning rate",
        (("", "lr", "all"), ("", "lr_encoder", "encoder"), ("", "lr_head", "head")),
        "log",
    ),
    _Panel(
        "Codes, validation",
        "number of codes",
        (("valid", "code_perplexity", "perplexity"), ("valid", "codes_in_use", "in use")),
        "log",
    ),
    _Panel("Gradient norm, training", "L2 norm", (("train", "grad_norm", "mean"),), "log"),
    _Panel(
        "Throughput, training",
        "seconds of audio per second",
        (("train", "audio_s_per_s", "all processes"),),
        "zero",
    ),
)
_WIDTH_IN, _ROW_IN, _DPI = 12, 3.4, 100
# Around and between panels, in inches: Matplotlib's own layout draws everything twice, in each
# epoch.
_LEFT_IN, _RIGHT_IN, _BETWEEN_IN, _ABOVE_IN, _BELOW_IN = 1.0, 0.15, 1.1, 0.35, 0.5


def draw_curves(history, out_png):
    """Draw what the history holds: loss, accuracy or error rates, learning rate, health.

    The figures drawn are `lr`, `lr_encoder`, `lr_head`; of `train` loss, accuracy, grad_norm,
    audio_s_per_s; of `valid` loss, accuracy, top_code_share, code_perplexity, codes_in_use,
    wer, cer, error_rate (of `train` too). A panel without figures is left out. The picture is 1200
    pixels wide. Values that are not finite leave a gap and are named in the panel.

    Arguments
    ---------
    history : list of dict
        One record per epoch, as in `EpochHistory`: `{"epoch": 1, "lr": ..., "train": {...},
        "valid": {...}}`. wer, cer and error_rate in %, accuracy and shares from 0 to 1.
    out_png : str or Path
        Replaced in one step.

    Raises
    ------
    UserError
        When no record has anything to draw.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> history = [{"epoch": 1, "train": {"loss": 9.0}}, {"epoch": 2, "train": {"loss": 7.5}}]
    >>> draw_curves(history, folder / "curves.png")
    >>> (folder / "curves.png").read_bytes()[1:4]
    b'PNG'
    """
    panels = [(panel, _lines(panel, history)) for panel in _PANELS]
    panels = [(panel, lines) for panel, lines in panels if lines]
    if not panels:
        raise UserError("nothing to draw: the history has none of the known figures")
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
    for position, (panel, lines) in enumerate(panels, start=1):
        _draw_panel(figure.add_subplot(num_rows, num_columns, position), panel, lines)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(out_png, picture.getvalue())


def _lines(panel, history):
    """[(label, {epoch: value})] of the panel's figures that the history has."""
    lines = []
    for part, key, label in panel.lines:
        records = [(row["epoch"], row.get(part, {}) if part else row) for row in history]
        values = {epoch: panel.factor * row[key] for epoch, row in records if key in row}
        if values:
            lines.append((label, values))
    return lines


def _draw_panel(axes, panel, lines):
    gaps = []
    for label, values in lines:
        finite = [value if math.isfinite(value) else math.nan for value in values.values()]
        marker = "o" if len(values) <= 40 else None
        axes.plot(list(values), finite, marker=marker, markersize=3, label=label)
        lost = [str(epoch) for epoch, v in zip(values, finite, strict=True) if math.isnan(v)]
        if lost:
            more = ", ..." if len(lost) > 5 else ""
            gaps.append(f"{label} not finite at epoch {', '.join(lost[:5])}{more}")
    axes.text(0.02, 0.02, "\n".join(gaps), transform=axes.transAxes, color="tab:red")
    if panel.scale == "zero":
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    elif panel.scale == "log" and not any(v <= 0 for _, values in lines for v in values.values()):
        axes.set_yscale("log")
    epochs = [epoch for _, values in lines for epoch in values]
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.set_title(panel.title)
    axes.set_xlabel("epoch")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    if len(lines) > 1:
        axes.legend()
