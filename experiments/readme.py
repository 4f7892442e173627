"""The tables of the recipes' README: all experiments, with published and measured error rates."""

from pathlib import Path

from experiments.commands import format_command
from experiments.table import (
    DOWNSTREAM_COLUMNS,
    STAGES,
    WER_COLUMNS,
    Row,
    format_wer,
    load_table,
)
from speechbrain_pom.utils.files import replace_section

README = "recipes/LibriSpeech/README.md"
BEGIN = "<!-- EXPERIMENTS: written by python -m experiments readme -->"
END = "<!-- /EXPERIMENTS -->"
_GROUPS = {
    "base": "Base, about 95 M",
    "large": "Large, about 315 M",
    "ablation": "Ablations of PoM, base",
    "hybrid": "Hybrids",
    "wav2vec2": "wav2vec 2.0, about 155 M",
}
_NOTES = {
    "large": (
        "The d_model of PoM large is not published (688 to 696 fit): 688 comes closest to the "
        "size of RelPosMHA, and is a multiple of 16, as matrix products in half precision like it."
    ),
    "ablation": (
        "Sizes and error rates are not published: d_model is the multiple of 8 whose number of "
        "parameters is closest to that of base-pom. In words, the publication finds that a "
        "higher order (k = 3, D = 2) helps up to saturation, and that the selective and the "
        "frequency-aware variants gain a little where the model under-fits, and do not beat the "
        "base variant at scale."
    ),
    "hybrid": (
        "Attention below, PoM above: the publication's future work, without results. d_model is "
        "chosen for the number of parameters."
    ),
    "wav2vec2": (
        "These rows are pretrained by `train_wav2vec2.py`, as SummaryMixing wav2vec 2.0 (arXiv "
        "2407.13377) on 4 processes; the data folder of that stage is `--pretraining.data_folder`. "
        "Published are the sizes and results of SummaryMixing and of attention, which kept the "
        "d_model of SummaryMixing; for the other mixers d_model is chosen for the number of "
        '"all", which is the front end, the Conformer, the quantizer and the projection. Welsh and '
        "SLURP are frozen encoders in MP3S (BiLSTM heads)."
    ),
}


def update_readme(records: list[dict], path: str | Path = README, check: bool = False) -> bool:
    """Write the tables between the markers of a README, or only compare (`check`).

    Returns whether the README had these tables already.
    """
    return replace_section(path, BEGIN, END, render_tables(records).strip("\n"), check)


def render_tables(records: list[dict]) -> str:
    """The tables and the commands of the recorded runs, as Markdown."""
    table = load_table().values()
    lines = []
    for group, title in _GROUPS.items():
        rows = [row for row in table if row.group == group]
        lines += [f"### {title}", ""]
        lines += [_NOTES[group], ""] if group in _NOTES else []
        lines += [*_table(rows, records), ""]
        outside = [row for row in rows if row.outside]
        if outside:
            names = ", ".join(f"{row.name} ({_deviation(row):+.1f} %)" for row in outside)
            lines += [f"More than 3 % from the size: {names}; kept is {outside[0].outside}.", ""]
    return "\n".join([*lines, *_runs(records)])


def overrides_text(row: Row) -> str:
    """The overrides of a row as typed, those of pretraining only at the end; "none" if none."""
    options = row.options("pretraining")
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return format_command(words) or "none"


def _deviation(row):
    return 100 * (row.parameters[1] / row.num_parameters_wanted - 1)


def _table(rows, records):
    (yaml,) = {row.files["pretraining"] for row in rows}
    heads = ["name", "mixer", f"overrides of `{yaml}`", "encoder", "all"]
    downstream = DOWNSTREAM_COLUMNS if rows[0].group == "wav2vec2" else {}
    for heading in [*(heading for *_, heading in WER_COLUMNS.values()), *downstream.values()]:
        heads += [heading, "ours"]
    yield _line(heads)
    yield _line(["---"] * len(heads))
    for row in rows:
        overrides = overrides_text(row)
        cells = [
            row.name,
            f"{row.mixer} †" if row.pretraining else row.mixer,
            overrides if overrides == "none" else f"`{overrides}`",
            *(f"{number:,}" for number in row.parameters),
        ]
        own = [record for record in records if record["experiment"] == row.name]
        for column, (split, decoder, _) in WER_COLUMNS.items():
            cells.append(format_wer(row.published.get(column)))
            measured = (record["results"].get(split, {}).get(decoder) for record in own)
            cells.append(", ".join(_measured(found) for found in measured if found))
        for column in downstream:
            cells += [format_wer(row.published.get(column)), ""]
        yield _line(cells)


def _measured(found):
    return f"{found['wer']:.2f} ±{(found['wer_high'] - found['wer_low']) / 2:.2f}"


def _line(cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _runs(records):
    """Seed, commits, hours, hardware and commands of each of our runs."""
    yield "### Our runs"
    yield ""
    if not records:
        yield 'None yet: the cells "ours" are filled from records of runs on LibriSpeech alone.'
        yield ""
    for record in records:
        runs = [record[stage] for stage in STAGES]
        hours = " + ".join("?" if run["hours"] is None else f"{run['hours']}" for run in runs)
        commits = ", ".join(dict.fromkeys(str(run["commit"]) for run in runs))
        yield (
            f"{record['experiment']}, seed {record['seed']}: commit {commits}; {hours} hours; "
            f"{record['hardware']}, {record['pretraining']['processes']} processes in pretraining."
        )
        yield from ["", "```bash", *(run["command"] for run in runs), "```", ""]
