"""The results of a replica in one picture: error rates with intervals, and learning curves."""

import io

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from speechbrain_pom.experiments.replica import TEST_SETS
from speechbrain_pom.experiments.replica_report import STARTS
from speechbrain_pom.experiments.replica_statistics import error_rate, runs_of
from speechbrain_pom.files import write_atomically

_SIZE_IN, _DPI = (12, 8), 100
_MARKERS = {"finetuning": "o", "scratch": "s"}
_STYLES = {"pretraining": "-", "finetuning": "-", "scratch": "--"}


def draw_replica(record, mixers, paths):
    """Draw the WER of each mixer with and without pretraining, and the courses of the runs.

    Arguments
    ---------
    record : dict
        From `speechbrain_pom.experiments.replica_records.collect`.
    mixers : iterable of str
        In their order; a mixer has one colour in all panels.
    paths : list of pathlib.Path
        Replaced in one step; the suffix says the format.
    """
    mixers = [mixer for mixer in mixers if any(run["mixer"] == mixer for run in record["runs"])]
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2)
    for panel, split in zip(axes[0], TEST_SETS, strict=True):
        _draw_rates(panel, record, mixers, split)
    _draw_curves(axes[1][0], record, mixers, ("pretraining",), "loss")
    axes[1][0].set(title="Pretraining: validation", ylabel="masked loss (nats)")
    _draw_curves(axes[1][1], record, mixers, tuple(STARTS), "wer")
    axes[1][1].set(title="Fine-tuning: validation, greedy (dashed: from scratch)")
    axes[1][1].set(ylabel="WER (%)")
    axes[1][0].legend()
    for path in paths:
        picture = io.BytesIO()
        # The same bytes for the same results: no date, no random names in the SVG.
        dated = {"Date": None} if path.suffix == ".svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "replica"}):
            figure.savefig(picture, format=path.suffix[1:], metadata=dated)
        write_atomically(path, picture.getvalue())


def _draw_rates(panel, record, mixers, split):
    """Means with their 95 % intervals, and a cross for each seed."""
    for position, mixer in enumerate(mixers):
        for shift, kind in zip((-0.12, 0.12), STARTS, strict=True):
            rate = error_rate(record, mixer, kind, split)
            if rate is None:
                continue
            x = position + shift
            # A percentile interval need not contain the mean.
            ends = [[max(0, rate.mean - rate.low)], [max(0, rate.high - rate.mean)]]
            style = {"color": f"C{position % 10}", "marker": _MARKERS[kind], "capsize": 4}
            filled = style["color"] if kind == "finetuning" else "white"
            panel.errorbar([x], [rate.mean], yerr=ends, markerfacecolor=filled, **style)
            panel.plot([x + 0.07] * len(rate.seeds), rate.seeds, "x", color="0.4", markersize=4)
    for kind, start in STARTS.items():
        filled = "black" if kind == "finetuning" else "white"
        style = {"marker": _MARKERS[kind], "markerfacecolor": filled, "linestyle": ""}
        panel.plot([], [], color="black", label=start, **style)
    panel.set_xticks(range(len(mixers)), mixers)
    panel.set_xlim(-0.5, len(mixers) - 0.5)
    panel.set(title=f"{split}: mean, 95 % interval; x: seeds", ylabel="WER (%)", ylim=(0, None))
    panel.grid(axis="y", alpha=0.3)
    panel.legend(loc="center")  # pretrained runs end up below it, the others above


def _draw_curves(panel, record, mixers, kinds, figure):
    """A line for each run."""
    for position, mixer in enumerate(mixers):
        for kind in kinds:
            for number, run in enumerate(runs_of(record, mixer, kind).values()):
                label = mixer if (number, kind) == (0, kinds[0]) else None
                style = {"color": f"C{position % 10}", "linestyle": _STYLES[kind], "label": label}
                panel.plot(run["curve"]["steps"], run["curve"][figure], linewidth=1, **style)
    panel.set_xlabel("optimizer step")
    panel.grid(alpha=0.3)
