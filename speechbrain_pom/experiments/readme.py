"""The tables of the recipes' README: the experiments, with published figures and our own."""

from speechbrain_pom.experiments.commands import format_command
from speechbrain_pom.experiments.table import (
    FIGURES,
    STAGES,
    format_figure,
    load_experiments,
)
from speechbrain_pom.utils.files import replace_section

README = "recipes/LibriSpeech/README.md"
BEGIN = "<!-- EXPERIMENTS: written by python -m speechbrain_pom experiments readme -->"
END = "<!-- /EXPERIMENTS -->"
_GROUPS = {
    "base": "Base, about 95 M",
    "large": "Large, about 315 M",
    "ablation": "Ablations of PoM, base",
    "hybrid": "Hybrids",
}
_NOTES = {
    "large": (
        "The d_model of PoM large is not published (688 to 696 fit): 688 comes closest to the "
        "size of RelPosMHA, and is a multiple of 16, as matrix products in half precision like it."
    ),
    "ablation": (
        "Sizes and figures are not published: d_model is the multiple of 8 whose number of "
        "parameters is closest to that of base-pom. In words, the publication finds that a "
        "higher order (k = 3, D = 2) helps up to saturation, and that the selective and the "
        "frequency-aware variants gain a little where the model under-fits, and do not beat the "
        "base variant at scale."
    ),
    "hybrid": (
        "Attention below, PoM above: the publication's future work, without figures. d_model is "
        "chosen for the number of parameters."
    ),
}


def update_readme(records, path=README, check=False):
    """Write the tables between the markers of a README, or see whether they are there.

    Arguments
    ---------
    records : list of dict
        From `read_records`.
    path : str or pathlib.Path
    check : bool
        Only compare.

    Returns
    -------
    bool
        Whether the README had these tables already.

    Raises
    ------
    UserError
        If it has no markers.
    """
    return replace_section(path, BEGIN, END, render(records).strip("\n"), check)


def render(records):
    """The tables and the commands of our runs, as Markdown.

    Arguments
    ---------
    records : list of dict
        From `read_records`.

    Returns
    -------
    str
    """
    experiments = load_experiments().values()
    lines = []
    for group, title in _GROUPS.items():
        rows = [experiment for experiment in experiments if experiment.group == group]
        lines += [f"### {title}", ""]
        lines += [_NOTES[group], ""] if group in _NOTES else []
        lines += [*_table(rows, records), ""]
        outside = [row for row in rows if row.outside]
        if outside:
            names = ", ".join(f"{row.name} ({_deviation(row):+.1f} %)" for row in outside)
            lines += [f"More than 3 % from the size: {names}; kept is {outside[0].outside}.", ""]
    return "\n".join([*lines, *_runs(records)])


def overrides_text(experiment):
    """The options of a row, as typed; those of pretraining alone last.

    Arguments
    ---------
    experiment : speechbrain_pom.experiments.table.Experiment

    Returns
    -------
    str
        "none" if there are none.
    """
    options = experiment.options("pretraining")
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    return format_command(words) or "none"


def _deviation(experiment):
    return 100 * (experiment.parameters[1] / experiment.num_parameters_wanted - 1)


def _table(experiments, records):
    heads = ["name", "mixer", "overrides of `hparams/pom.yaml`", "encoder", "all"]
    for *_, heading in FIGURES.values():
        heads += [heading, "ours"]
    yield _row(heads)
    yield _row(["---"] * len(heads))
    for experiment in experiments:
        overrides = overrides_text(experiment)
        cells = [
            experiment.name,
            f"{experiment.mixer} †" if experiment.pretraining else experiment.mixer,
            overrides if overrides == "none" else f"`{overrides}`",
            *(f"{number:,}" for number in experiment.parameters),
        ]
        own = [record for record in records if record["experiment"] == experiment.name]
        for column, (split, decoder, _) in FIGURES.items():
            cells.append(format_figure(experiment.published.get(column)))
            measured = (record["results"].get(split, {}).get(decoder) for record in own)
            cells.append(", ".join(_measured(found) for found in measured if found))
        yield _row(cells)


def _measured(found):
    return f"{found['wer']:.2f} ±{(found['wer_high'] - found['wer_low']) / 2:.2f}"


def _row(cells):
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _runs(records):
    """Seed, commits, hours, hardware and commands of each of our runs."""
    yield "### Our runs"
    yield ""
    if not records:
        yield 'None yet: the cells "ours" are filled from records of runs on LibriSpeech alone.'
        yield ""
    for record in records:
        facts = [record[stage] for stage in STAGES]
        hours = " + ".join("?" if fact["hours"] is None else f"{fact['hours']}" for fact in facts)
        commits = ", ".join(dict.fromkeys(str(fact["commit"]) for fact in facts))
        yield (
            f"{record['experiment']}, seed {record['seed']}: commit {commits}; {hours} hours; "
            f"{record['hardware']}, {record['pretraining']['processes']} processes in pretraining."
        )
        yield from ["", "```bash", *(fact["command"] for fact in facts), "```", ""]
