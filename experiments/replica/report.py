"""The generated section of `docs/replica.md`: tables of the results, or how to get them."""

from pathlib import Path

from experiments.records import RECORDS_FOLDER
from experiments.replica.chunks import chunk_rows
from experiments.replica.protocols import Protocol, load_protocols
from experiments.replica.records import read_record, record_path
from experiments.replica.statistics import (
    NUM_BOOTSTRAP,
    NUM_RANDOMISATIONS,
    difference,
    error_rate,
    mean_of,
    pairs_of_mixers,
)
from experiments.replica.validation import (
    grid_rows,
    layer_rows,
    validation_rows,
)
from experiments.table import STAGES
from speechbrain_pom.reports.comparison import table
from speechbrain_pom.utils.files import replace_section

DOCUMENT = "docs/replica.md"
BEGIN = "<!-- REPLICA: written by python -m experiments.replica report -->"
END = "<!-- /REPLICA -->"
_MAX_NAMED = 6  # runs that are not finished
_STAGES = {"pretraining": "pretraining", "finetuning": "fine-tuning"}
STARTS = {"finetuning": "pretrained", "scratch": "from scratch"}


def update_document(
    path: str | Path = DOCUMENT, records_folder: str | Path = RECORDS_FOLDER, check: bool = False
) -> bool:
    """Write the tables of all protocols into a document, or only compare (`check`).

    Returns whether the document had these tables already.
    """
    blocks = [
        render_section(protocol, read_record(record_path(protocol, records_folder)))
        for protocol in load_protocols().values()
    ]
    return replace_section(path, BEGIN, END, "\n\n".join(blocks), check)


def picture_paths(protocol: Protocol, folder: str | Path = "docs") -> list[Path]:
    """The pictures of a protocol's results: PNG and SVG."""
    return [Path(folder) / f"replica_{protocol.name}.{suffix}" for suffix in ("png", "svg")]


def render_section(protocol: Protocol, record: dict | None) -> str:
    """The section of a protocol, as Markdown."""
    command = f"python -m experiments.replica run {protocol.name}"
    lines = [f"### Protocol `{protocol.name}`: {protocol.hardware}", "", _setting(protocol)]
    if record is None:
        return "\n".join([*lines, "", "Not run yet.", "", "```bash", command, "```"])
    mixers = [mixer for mixer in protocol.mixers if _has_runs(record, mixer)]
    png = picture_paths(protocol)[0].name
    shown = "Losses" if protocol.only_pretrains else "Error rates and learning curves"
    lines += ["", _origin(record), "", f"![{shown}]({png})"]
    if protocol.grid:
        lines += ["", _GRID, "", *table(grid_rows(record, protocol))]
    else:
        lines += ["", _VALIDATION, "", *table(validation_rows(record, mixers, protocol.kinds))]
    layers = list(layer_rows(record, mixers))
    if len(layers) > 1:
        lines += ["", _LAYERS, "", *table(layers)]
    if protocol.test_sets:
        lines += _tests(protocol, record, mixers)
    lines += ["", _COSTS, "", *table(_costs(protocol, record, mixers))]
    if protocol.test_sets:
        lines += ["", _METHOD]
    lines += ["", "```bash", command]
    lines += [f"python -m experiments.replica report {protocol.name}", "```"]
    return "\n".join(lines)


def _tests(protocol, record, mixers):
    """Tables of the test sets."""
    lines = []
    for split in protocol.test_sets:
        rows = list(chunk_rows(record, mixers, split))
        if rows:
            lines += ["", _CHUNKS.format(split=split), "", *table(rows)]
    lines += ["", "WER (%), mean over the seeds; 95 % interval; lowest and highest seed:"]
    lines += ["", *table(_rates(protocol, record, mixers))]
    gains = list(_gains(protocol, record, mixers))
    if len(gains) > 1:
        lines += ["", "With pretraining minus from scratch, points of WER:", "", *table(gains)]
    for split in protocol.test_sets:
        pairs = pairs_of_mixers(record, mixers, "finetuning", split)
        if pairs:
            lines += ["", f"Pairs of mixers, pretrained, {split}, points of WER:"]
            rows = [(f"{a} - {b}", *_cells(found)) for a, b, found in pairs]
            lines += ["", *table([_DIFFERENCE_HEADS, *rows])]
    return lines


_CHUNKS = (
    "WER (%) on {split} by chunk size and left context, ± half of the 95 % interval; a frame waits "
    "for the end of its chunk:"
)
_GRID = (
    "Lowest validation WER (%, greedy) of an epoch, in bold the best of a mixer if its cells have "
    "the same seeds; of several seeds the mean, and the lowest and the highest:"
)
_VALIDATION = (
    "On the validation data, mean over the seeds (lowest, highest): masked prediction at the end "
    "of pretraining, and the lowest WER of an epoch of fine-tuning:"
)
_LAYERS = (
    "The mixers' outputs in pretraining, at the first and the last step that was looked at; each "
    'cell has the lowest and the highest layer. "The same in all frames" is the share of the '
    "power that is the mean over an utterance's frames:"
)
_DIFFERENCE_HEADS = (
    "difference",
    "WER (points)",
    "95 % interval",
    "p",
    "utterances better",
    "worse",
)
_COSTS = (
    "CPU time of the whole recipe (loading, validation and tests too), time of training by the "
    "clock, and peak memory of a run:"
)
_METHOD = (
    f"Intervals: {NUM_BOOTSTRAP} bootstrap trials over utterances, the same for all systems; an "
    "utterance counts with the errors of all seeds, in a difference of those that both systems "
    f"have. p: {NUM_RANDOMISATIONS} random exchanges of these errors, two-sided, not corrected for "
    "the number of comparisons. Both know the chance of the utterances; that of training shows in "
    "the range of the seeds alone."
)


def _setting(protocol):
    corpus = protocol.corpus
    sizes = [settings["parameters"][1] / 1e6 for settings in protocol.mixers.values()]
    if protocol.is_real:
        data = f"Recordings of people ({', '.join(corpus['files'])})"
    else:
        data = f"Mini corpus of {corpus['duration_min']} minutes (seed {corpus['seed']})"
    steps = ", ".join(
        f"{getattr(protocol, stage)['optimizer_step_limit']} of {_STAGES[stage]}"
        for stage in STAGES
        if stage in protocol.kinds
    )
    text = (
        f"{data}; {protocol.options['num_encoder_layers']} layers, {min(sizes):.2f} to "
        f"{max(sizes):.2f} million parameters; steps: {steps}; seeds "
        f"{', '.join(map(str, protocol.seeds))}; {len(protocol.mixers)} "
        f"{'systems' if protocol.grid or not protocol.test_sets else 'mixers'}."
    )
    if protocol.choice:
        chosen = ", ".join(f"{mixer} {label}" for mixer, label in protocol.choice.items())
        text += f" Chosen on the validation data (`{protocol.tuned_by}`): {chosen}."
    return f"{protocol.about}\n\n{text}" if protocol.about else text


def _has_runs(record, mixer):
    return any(run["mixer"] == mixer for run in record["runs"])


def _origin(record):
    """Commits, machines, and what is missing."""
    commits = dict.fromkeys(str(run["commit"]) for run in record["runs"])
    parts = [f"{len(record['runs'])} runs at commit {', '.join(commits)}"]
    for machine in record["machines"]:
        versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        parts.append(
            f"{machine['hardware']}; {machine['jobs']} at a time with {machine['threads']} "
            f"threads each; {versions}"
        )
    text = ". ".join(parts) + "."
    missing = record["missing"]
    if len(missing) > _MAX_NAMED:
        text += f" {len(missing)} runs are not finished."
    elif missing:
        text += f" Not finished: {'; '.join(missing)}."
    return text


def _rates(protocol, record, mixers):
    heads = [f"{split}, {start}" for split in protocol.test_sets for start in STARTS.values()]
    yield "mixer", "d_model", "parameters", *heads
    for mixer in mixers:
        settings = protocol.mixers[mixer]
        rates = [
            error_rate(record, mixer, kind, split)
            for split in protocol.test_sets
            for kind in STARTS
        ]
        yield (
            mixer,
            str(settings["d_model"]),
            f"{settings['parameters'][1]:,}",
            *(_rate(found) for found in rates),
        )


def _rate(found):
    if found is None:
        return ""
    return (
        f"{found.mean:.2f} ({found.low:.2f} to {found.high:.2f}; "
        f"{min(found.seeds):.2f}, {max(found.seeds):.2f})"
    )


def _gains(protocol, record, mixers):
    yield ("mixer", "test set", *_DIFFERENCE_HEADS[1:])
    for mixer in mixers:
        for split in protocol.test_sets:
            found = difference(record, *((mixer, kind) for kind in STARTS), split)
            if found is not None:
                yield mixer, split, *_cells(found)


def _cells(found):
    return (
        f"{found.difference:+.2f}",
        f"{found.low:+.2f} to {found.high:+.2f}",
        f"{found.p_value:.4f}",
        str(found.num_better),
        str(found.num_worse),
    )


def _costs(protocol, record, mixers):
    stages = {stage: name for stage, name in _STAGES.items() if stage in protocol.kinds}
    heads = ("CPU minutes", "minutes", "MiB")
    yield "mixer", *(f"{name}: {head}" for name in stages.values() for head in heads)
    metrics = (("cpu_s", 1 / 60, 1), ("duration_s", 1 / 60, 1), ("peak_memory_mib", 1, 0))
    for mixer in mixers:
        cells = []
        for kind in stages:
            for metric, factor, digits in metrics:
                mean = mean_of(record, mixer, kind, metric)
                cells.append("" if mean is None else f"{factor * mean:.{digits}f}")
        yield mixer, *cells
