"""Tables of a replica's validation metrics and of the statistics of its layers."""

from collections.abc import Collection, Iterable, Iterator
from statistics import fmean

from experiments.replica.protocols import Protocol
from experiments.replica.statistics import runs_of


def best_wer(record: dict, mixer: str, kind: str = "finetuning") -> float | None:
    """The lowest validation WER (%) of a mixer, averaged over its seeds; None without a run."""
    values = _best_wers(record, mixer, kind)
    return fmean(values) if values else None


def _best_wers(record, mixer, kind="finetuning"):
    return [min(run["curve"]["wer"]) for run in runs_of(record, mixer, kind).values()]


def best_cells(record: dict, protocol: Protocol) -> dict[str, str]:
    """For each mixer, the label of the grid with the lowest validation WER.

    It is known when the cells on both sides of it are finished, as far as the grid has them, and
    all finished cells have the same seeds.
    """
    cells, seeds = {}, {}
    for label in protocol.mixers:
        mixer, _, cell = label.rpartition(", ")
        cells.setdefault(mixer, {})[cell] = best_wer(record, label)
        seeds.setdefault(mixer, set()).add(tuple(runs_of(record, label, "finetuning")))
    best = {}
    for mixer, found in cells.items():
        if len(seeds[mixer] - {()}) > 1:
            continue
        labels, values = list(found), list(found.values())
        finished = [position for position, value in enumerate(values) if value is not None]
        place = min(finished, key=values.__getitem__, default=None)
        if place is not None and None not in values[max(place - 1, 0) : place + 2]:
            best[mixer] = labels[place]
    return best


def validation_rows(
    record: dict, mixers: Iterable[str], kinds: Collection[str]
) -> Iterator[tuple[str, ...]]:
    """Rows of a table of validation metrics, heading first; `kinds` decides the columns."""
    columns = [column for column in _COLUMNS if column[0] in kinds]
    yield "mixer", "seeds", *(heading for _, heading, _, _ in columns)
    for mixer in mixers:
        runs = {kind: list(runs_of(record, mixer, kind).values()) for kind in kinds}
        yield (
            mixer,
            str(max(map(len, runs.values()))),
            *(
                _cell([metric(r["curve"]) for r in runs[k]], digits)
                for k, _, metric, digits in columns
            ),
        )


def _cell(values, digits):
    """The mean, and where there are several values their lowest and highest; empty without any."""
    values = [value for value in values if value is not None]
    if not values:
        return ""
    texts = [f"{value:.{digits}f}" for value in (fmean(values), min(values), max(values))]
    return texts[0] if len(values) == 1 else "{} ({}, {})".format(*texts)


def _blank_epochs(curve):
    if "blank_share" not in curve:
        return None
    return sum(share == 1.0 for share in curve["blank_share"])


# Kind of the run, heading, metric from its curve, decimals.
_COLUMNS = (
    ("pretraining", "masked loss", lambda curve: curve["loss"][-1], 3),
    ("pretraining", "masked accuracy (%)", lambda curve: 100 * curve["accuracy"][-1], 1),
    ("finetuning", "WER, greedy (%)", lambda curve: min(curve["wer"]), 2),
    ("scratch", "from scratch (%)", lambda curve: min(curve["wer"]), 2),
    ("finetuning", "epochs all blank", _blank_epochs, 1),
)


def grid_rows(record: dict, protocol: Protocol) -> Iterator[tuple[str, ...]]:
    """Rows of a table, heading first: mixers by cells of the grid, the best of each in bold."""
    yield "mixer", *protocol.grid
    best = best_cells(record, protocol)
    for mixer in dict.fromkeys(label.rpartition(", ")[0] for label in protocol.mixers):
        found = {cell: _best_wers(record, f"{mixer}, {cell}") for cell in protocol.grid}
        texts = {cell: _cell(values, 2) for cell, values in found.items()}
        yield (
            mixer,
            *(f"**{text}**" if best.get(mixer) == c else text for c, text in texts.items()),
        )


def layer_rows(record: dict, mixers: Iterable[str]) -> Iterator[tuple[str, ...]]:
    """Rows of a table, heading first: the mixers' outputs and gradients at two steps.

    These are the first and the last step with statistics; each cell has the first and the last
    layer.
    """
    yield (
        *("mixer", "step", "rms of the output", "the same in all frames (%)"),
        *("in all utterances too (%)", "gradient norm"),
    )
    for mixer in mixers:
        for run in list(runs_of(record, mixer, "pretraining").values())[:1]:
            for line in run.get("layers", ()):
                ends = (line["layers"][0], line["layers"][-1])
                yield (
                    mixer,
                    str(line["step"]),
                    _ends(ends, "output_rms", 1, 3),
                    _ends(ends, "constant_over_time", 100, 1),
                    _ends(ends, "constant_over_utterances", 100, 1),
                    _ends(ends, "gradient_norm", 1, 3),
                )


def _ends(ends, key, factor, digits):
    return ", ".join(f"{factor * layer[key]:.{digits}f}" for layer in ends)
