"""What runs of a replica have come to on the validation data, and what went on in their layers."""

from statistics import fmean

from speechbrain_pom.experiments.replica_statistics import runs_of


def best_wer(record, mixer, kind="finetuning"):
    """The lowest validation WER of a mixer, averaged over its seeds.

    Arguments
    ---------
    record : dict
        From `speechbrain_pom.experiments.replica_records.collect`.
    mixer, kind : str

    Returns
    -------
    float or None
        In %; None if no seed is finished.
    """
    runs = runs_of(record, mixer, kind)
    return fmean(min(run["curve"]["wer"]) for run in runs.values()) if runs else None


def best_cells(record, protocol):
    """Of each mixer of a tuning protocol, the cell of the grid with the lowest validation WER.

    Arguments
    ---------
    record : dict
    protocol : speechbrain_pom.experiments.replica.Protocol
        With a grid.

    Returns
    -------
    dict of str to str
        Mixer to label; of mixers all of whose cells are finished.
    """
    cells = {}
    for label in protocol.mixers:
        mixer, _, cell = label.rpartition(", ")
        cells.setdefault(mixer, {})[cell] = best_wer(record, label)
    return {
        mixer: min(found, key=found.get)
        for mixer, found in cells.items()
        if None not in found.values()
    }


def validation_rows(record, mixers, kinds):
    """Rows of a table: what each mixer has come to on the validation data.

    Arguments
    ---------
    record : dict
    mixers : iterable of str
    kinds : iterable of str
        What was run: it decides the columns.

    Yields
    ------
    tuple of str
        The heading first.
    """
    columns = [column for column in _COLUMNS if column[0] in kinds]
    yield "mixer", "seeds", *(heading for _, heading, _, _ in columns)
    for mixer in mixers:
        runs = {kind: list(runs_of(record, mixer, kind).values()) for kind in kinds}
        cells = [_mean(figure(run["curve"]) for run in runs[k]) for k, _, figure, _ in columns]
        digits = [digits for *_, digits in columns]
        yield (
            mixer,
            str(max(map(len, runs.values()))),
            *("" if v is None else f"{v:.{d}f}" for v, d in zip(cells, digits, strict=True)),
        )


def _mean(values):
    values = [value for value in values if value is not None]
    return fmean(values) if values else None


def _blank_epochs(curve):
    if "blank_share" not in curve:
        return None
    return sum(share == 1.0 for share in curve["blank_share"])


# Kind of the run, heading, figure of its curve, decimals.
_COLUMNS = (
    ("pretraining", "masked loss", lambda curve: curve["loss"][-1], 3),
    ("pretraining", "masked accuracy (%)", lambda curve: 100 * curve["accuracy"][-1], 1),
    ("finetuning", "WER, greedy (%)", lambda curve: min(curve["wer"]), 2),
    ("scratch", "from scratch (%)", lambda curve: min(curve["wer"]), 2),
    ("finetuning", "epochs all blank", _blank_epochs, 1),
)


def grid_rows(record, protocol):
    """Rows of a table: mixers by cells of the grid, the best of each mixer in bold.

    Arguments
    ---------
    record : dict
    protocol : speechbrain_pom.experiments.replica.Protocol
        With a grid.

    Yields
    ------
    tuple of str
        The heading first.
    """
    yield "mixer", *protocol.grid
    best = best_cells(record, protocol)
    for mixer in dict.fromkeys(label.rpartition(", ")[0] for label in protocol.mixers):
        found = {cell: best_wer(record, f"{mixer}, {cell}") for cell in protocol.grid}
        texts = {cell: "" if wer is None else f"{wer:.2f}" for cell, wer in found.items()}
        yield (
            mixer,
            *(f"**{text}**" if best.get(mixer) == c else text for c, text in texts.items()),
        )


def layer_rows(record, mixers):
    """Rows of a table: the mixers' outputs and gradients, at the first and the last look at them.

    Arguments
    ---------
    record : dict
    mixers : iterable of str

    Yields
    ------
    tuple of str
        The heading first; each cell has the lowest and the highest layer.
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
