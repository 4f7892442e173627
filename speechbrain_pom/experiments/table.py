"""The experiments of `table.yaml`."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML

from speechbrain_pom.utils.errors import UserError

TABLE_PATH = Path(__file__).parent / "table.yaml"
STAGES = ("pretraining", "finetuning")
# Columns of the tables: name to (test set, decoder in results.json, heading).
FIGURES = {
    "clean": ("test-clean", "no_lm", "clean"),
    "clean_lm": ("test-clean", "lm", "clean + LM"),
    "other": ("test-other", "no_lm", "other"),
    "other_lm": ("test-other", "lm", "other + LM"),
}


@dataclass(frozen=True)
class Experiment:
    """A row of the table.

    Arguments
    ---------
    name : str
        Lower case, with hyphens.
    mixer : str
        In words.
    group : str
        The table that it belongs to: base, large, ablation or hybrid.
    size : str
        base or large.
    num_parameters_wanted : int
        Of the size, as published: 95 M or 315 M.
    files : dict of str to str
        Stage to hparams file, relative to a checkout.
    parameters : list of int
        Of the encoder, and of all that is pretrained.
    overrides : dict
        Keys of both files.
    pretraining : dict
        Keys of the first file alone.
    outside : str
        Why the number of parameters is not within 3 % of the size; empty if it is.
    published : dict
        `FIGURES` to [WER in %, half width of its interval] (or the WER alone), and source; empty
        where nothing is published.
    """

    name: str
    mixer: str
    group: str
    size: str
    num_parameters_wanted: int
    files: dict
    parameters: list
    overrides: dict = field(default_factory=dict)
    pretraining: dict = field(default_factory=dict)
    outside: str = ""
    published: dict = field(default_factory=dict)

    def options(self, stage):
        """What is laid over the hparams file of a stage.

        Arguments
        ---------
        stage : str
            One of `STAGES`.

        Returns
        -------
        dict
        """
        return {**self.overrides, **(self.pretraining if stage == "pretraining" else {})}


def load_experiments():
    """All rows of the table.

    Returns
    -------
    dict of str to Experiment
        By name, in the order of the table.

    Example
    -------
    >>> load_experiments()["base-relposmha"].overrides
    {'attention_type': 'RelPosMHAXL', 'd_model': 576}
    """
    tree = YAML(typ="safe").load(TABLE_PATH)
    return {
        name: Experiment(
            name=name,
            num_parameters_wanted=tree["sizes"][row["size"]],
            **{"files": tree["files"], **row},
        )
        for name, row in tree["experiments"].items()
    }


def find_experiment(name):
    """One row of the table.

    Arguments
    ---------
    name : str

    Returns
    -------
    Experiment

    Raises
    ------
    UserError
        If there is none of this name: the closest one is given.

    Example
    -------
    >>> find_experiment("base-pom").published["clean"]
    [8.31, 0.31]
    """
    experiments = load_experiments()
    if name not in experiments:
        close = get_close_matches(name, experiments, n=1, cutoff=0.0)
        raise UserError(
            f"unknown experiment '{name}': did you mean {close[0]}? "
            "(`experiments list` shows all names)"
        )
    return experiments[name]


def format_figure(figure):
    """A published figure as text.

    Arguments
    ---------
    figure : list of float, optional
        WER in %, and half the width of its interval where there is one.

    Returns
    -------
    str

    Example
    -------
    >>> format_figure([8.31, 0.31]), format_figure([8.22]), format_figure(None)
    ('8.31 ±0.31', '8.22', '–')
    """
    if not figure:
        return "–"  # noqa: RUF001 - as in the tables of the publications
    return " ±".join(f"{value:.2f}" for value in figure)
