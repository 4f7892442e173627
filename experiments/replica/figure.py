"""The results of a replica in one picture: error rates with intervals, and learning curves."""

import io
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.replica.protocols import Protocol
from experiments.replica.report import STARTS
from experiments.replica.statistics import error_rate, runs_of
from speechbrain_pom.utils.files import write_atomically

_SIZE_IN, _DPI = (12, 8), 100
_MARKERS = {"finetuning": "o", "scratch": "s"}
_STYLES = {"pretraining": "-", "finetuning": "-", "scratch": "--"}


def draw_replica(record: dict, protocol: Protocol, paths: list[Path]) -> None:
    """Draw the WER of each mixer with and without pretraining, and the learning curves.

    Each mixer has one colour in all panels. Of a protocol that only pretrains, draw the loss that
    each mixer ends with. The suffix of a path chooses the format.
    """
    present = {run["mixer"] for run in record["runs"]}
    mixers = [mixer for mixer in protocol.mixers if mixer in present]
    figure = Figure(figsize=_SIZE_IN, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if protocol.only_pretrains:
        _draw_losses(figure.subplots(), record, mixers)
    else:
        _draw_rates_and_curves(figure, record, protocol, mixers)
    for path in paths:
        picture = io.BytesIO()
        # The same bytes for the same results: no date, and no random names in the SVG.
        dated = {"Date": None} if path.suffix == ".svg" else {}
        with matplotlib.rc_context({"svg.hashsalt": "replica"}):
            figure.savefig(picture, format=path.suffix[1:], metadata=dated)
        write_atomically(path, picture.getvalue())


def _draw_rates_and_curves(figure, record, protocol, mixers):
    """Panels of the test sets, and below them those of the validation data."""
    rows = figure.subplots(1 + bool(protocol.test_sets), 2, squeeze=False)
    for panel, split in zip(rows[0], protocol.test_sets, strict=False):
        _draw_rates(panel, record, mixers, split)
    for panel in rows[0][len(protocol.test_sets) :] if protocol.test_sets else ():
        panel.set_axis_off()
    pretraining, tuning = rows[-1]
    _draw_curves(pretraining, record, mixers, ("pretraining",), "loss")
    pretraining.set(title="Pretraining: validation", ylabel="masked loss (nats)")
    _draw_curves(tuning, record, mixers, tuple(STARTS), "wer")
    tuning.set(title="Fine-tuning: validation, greedy (dashed: from scratch)", ylabel="WER (%)")
    labels = [panel.get_legend_handles_labels()[1] for panel in (pretraining, tuning)]
    # Mixers that share a pretraining have one curve there, under the name of the first.
    panel = tuning if set(labels[1]) - set(labels[0]) else pretraining
    panel.legend(fontsize="small" if len(mixers) > 6 else None)


def _draw_losses(panel, record, mixers):
    """A row for each mixer with a point for each seed; the line is the first mixer's mean."""
    ends = [
        [run["curve"]["loss"][-1] for run in runs_of(record, mixer, "pretraining").values()]
        for mixer in mixers
    ]
    panel.axvline(sum(ends[0]) / len(ends[0]), color="0.6", linewidth=1)
    for position, losses in enumerate(ends):
        panel.plot(losses, [position] * len(losses), "o", color="C0")
    panel.set_yticks(range(len(mixers)), mixers)
    panel.set_ylim(len(mixers) - 0.5, -0.5)
    title = "Pretraining: validation, at the end; the line: " + mixers[0]
    panel.set(title=title, xlabel="masked loss (nats)")
    panel.grid(alpha=0.3)


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


def _draw_curves(panel, record, mixers, kinds, metric):
    """A line for each run."""
    for position, mixer in enumerate(mixers):
        for kind in kinds:
            for number, run in enumerate(runs_of(record, mixer, kind).values()):
                label = mixer if (number, kind) == (0, kinds[0]) else None
                style = {"color": f"C{position % 10}", "linestyle": _STYLES[kind], "label": label}
                panel.plot(run["curve"]["steps"], run["curve"][metric], linewidth=1, **style)
    panel.set_xlabel("optimizer step")
    panel.grid(alpha=0.3)
