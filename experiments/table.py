"""The experiments of `table.yaml`."""

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML

from speechbrain_pom.utils.errors import UserError

TABLE_PATH = Path(__file__).parent / "table.yaml"
STAGES = ("pretraining", "finetuning")
# Columns of error rates: name to (test set, decoder in results.json, heading).
WER_COLUMNS = {
    "clean": ("test-clean", "no_lm", "clean"),
    "clean_lm": ("test-clean", "lm", "clean + LM"),
    "other": ("test-other", "no_lm", "other"),
    "other_lm": ("test-other", "lm", "other + LM"),
}
# Columns of published results of frozen encoders (MP3S), whose runs have their own recipes.
DOWNSTREAM_COLUMNS = {"welsh": "Welsh WER", "slurp": "SLURP accuracy"}


@dataclass(frozen=True)
class Row:
    """A row of the table: one experiment.

    Arguments
    ---------
    name : str
        Lower case, with hyphens.
    mixer : str
        Description of the mixer.
    group : str
        The table that it belongs to: base, large, ablation, hybrid or wav2vec2.
    size : str
        base, large or wav2vec2.
    num_parameters_wanted : int
        Published number of parameters of this size: 95 M, 315 M or 155 M.
    files : dict of str to str
        Stage to hparams file, relative to a checkout.
    parameters : list of int
        Of the encoder, and of everything that is pretrained.
    overrides : dict
        Values for keys of both files; a file that lacks a key is left alone.
    pretraining : dict
        Values for keys of the first file only.
    outside : str
        Why the number of parameters is not within 3 % of the size; empty if it is.
    published : dict
        Name in `WER_COLUMNS` to [WER in %, half width of its interval] (or the WER alone), or in
        `DOWNSTREAM_COLUMNS`, and source; empty where nothing is published.
    num_processes : int
        Of the published pretraining.
    pretraining_utterances : int, optional
        By which the corpus of pretraining is recognised: those of LibriSpeech. None where they are
        not published.

    Example
    -------
    >>> find_row("base-relposmha").options("finetuning")
    {'attention_type': 'RelPosMHAXL', 'd_model': 576}
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
    num_processes: int = 2
    pretraining_utterances: int | None = 281241

    def options(self, stage: str) -> dict:
        """The values that override the hparams file of a stage."""
        return {**self.overrides, **(self.pretraining if stage == "pretraining" else {})}


def load_table() -> dict[str, Row]:
    """All rows by name, in the order of the table."""
    tree = YAML(typ="safe").load(TABLE_PATH)
    return {
        name: Row(
            name=name,
            num_parameters_wanted=tree["sizes"][row["size"]],
            **{"files": tree["files"], **row},
        )
        for name, row in tree["experiments"].items()
    }


def find_row(name: str) -> Row:
    """One row; a `UserError` names the closest one if there is none of this name."""
    rows = load_table()
    if name not in rows:
        close = get_close_matches(name, rows, n=1, cutoff=0.0)
        raise UserError(
            f"unknown experiment '{name}': did you mean {close[0]}? "
            "(`python -m experiments list` shows all names)"
        )
    return rows[name]


def format_wer(published: list[float] | None) -> str:
    """A published WER in %, with half the width of its interval where that is known.

    >>> format_wer([8.31, 0.31]), format_wer([8.22]), format_wer(None)
    ('8.31 ±0.31', '8.22', '–')
    """
    if not published:
        return "–"  # noqa: RUF001 - as in the tables of the publications
    return " ±".join(f"{value:.2f}" for value in published)
