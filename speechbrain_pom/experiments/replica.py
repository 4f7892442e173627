"""The scaled replica of the publication's experiment: its protocols, and the commands of its runs.

Each mixer is pretrained, fine-tuned from that, and fine-tuned from scratch, with each seed, by the
recipes themselves, on a mini corpus or on recordings of people.
"""

import os
import re
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML

from speechbrain_pom.experiments.commands import build_commands, text_of
from speechbrain_pom.experiments.table import STAGES, Experiment
from speechbrain_pom.utils.errors import UserError

PROTOCOLS_PATH = Path(__file__).parent / "replica.yaml"
# Of one mixer and seed; "scratch" is fine-tuning without pretraining.
KINDS = (*STAGES, "scratch")
FILES = {"pretraining": "hparams/pom.yaml", "finetuning": "hparams/pom_ctc.yaml"}
RUNS_FOLDER = "results/replica"
SPEECH_VARIABLE = "SPEECHBRAIN_POM_SPEECH"
# What a mixer of a protocol, or a cell of its grid, may change.
_PARTS = ("options", "pretraining", "finetuning")


@dataclass(frozen=True)
class Protocol:
    """What all runs of a replica have in common, and its mixers.

    Arguments
    ---------
    name : str
    hardware : str
        What it is made for, in words.
    jobs : int
        Runs side by side.
    corpus : dict
        `duration_min` and `seed` of the mini corpus; or `files`, the CSV files of recordings that
        must be in the folder that `speech_folder` gives.
    seeds : list of int
        Of the runs.
    options : dict
        Keys of both hparams files.
    pretraining, finetuning : dict
        Keys of one of them.
    mixers : dict of str to dict
        Label to attention_type, d_model, parameters (of the encoder, and of all that is
        pretrained), and perhaps options, pretraining and finetuning of its own, and other_size
        (where it is not as large as PoM on purpose).
    kinds : list of str
        Which of `KINDS` are run.
    test_sets : list of str
        Empty: runs are compared on the validation data, and no test set is touched.
    grid : dict of str to dict
        Label to options, pretraining and finetuning: each mixer is run with each of them.
    choice : dict of str to str
        Mixer to the label of `grid`, in the protocol `tuned_by`, that it is run with.
    tuned_by : str
        The protocol whose runs the choice was made from.
    about : str
        A sentence for the report.
    """

    name: str
    hardware: str
    jobs: int
    corpus: dict
    seeds: list
    options: dict
    pretraining: dict
    finetuning: dict
    mixers: dict
    kinds: list = field(default_factory=lambda: list(KINDS))
    test_sets: list = field(default_factory=lambda: ["test-clean", "test-other"])
    grid: dict = field(default_factory=dict)
    choice: dict = field(default_factory=dict)
    tuned_by: str = ""
    about: str = ""

    @property
    def is_real(self):
        """Whether it runs on recordings of people."""
        return "files" in self.corpus


@dataclass(frozen=True)
class ReplicaRun:
    """One run of a recipe.

    Arguments
    ---------
    mixer : str
        Its label.
    seed : int
    kind : str
        One of `KINDS`.
    folder : pathlib.Path
        Where it writes.
    command : tuple of str
        As typed in a checkout.
    """

    mixer: str
    seed: int
    kind: str
    folder: Path
    command: tuple

    @property
    def label(self):
        """Mixer, seed and kind in words."""
        return f"{self.mixer}, seed {self.seed}, {self.kind}"


def load_protocols(path=PROTOCOLS_PATH):
    """All protocols of a file.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    dict of str to Protocol

    Raises
    ------
    UserError
        If there is no such file.

    Example
    -------
    >>> load_protocols()["small"].seeds
    [1, 2, 3]
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file of protocols: '{path}'")
    tree = YAML(typ="safe").load(path)
    found = {}
    for name in tree:
        fields = _said(tree, name)
        found[name] = Protocol(name=name, **{**fields, "mixers": _spread(fields)})
    return {name: _with_choice(protocol, found) for name, protocol in found.items()}


def _said(tree, name):
    """The fields of a protocol, with those of the one that it is like; parts key by key."""
    fields = dict(tree[name])
    if (like := fields.pop("like", None)) is None:
        return fields
    base = _said(tree, like)
    parts = {part: {**base.get(part, {}), **fields.get(part, {})} for part in _PARTS}
    return {**base, **fields, **parts}


def _spread(fields):
    """The mixers of a protocol; with a grid, each of them once for each of its cells."""
    if not fields.get("grid"):
        return fields["mixers"]
    return {
        f"{mixer}, {label}": _overlaid(facts, cell)
        for mixer, facts in fields["mixers"].items()
        for label, cell in fields["grid"].items()
    }


def _with_choice(protocol, protocols):
    if not protocol.choice:
        return protocol
    grid = protocols[protocol.tuned_by].grid
    mixers = {
        mixer: _overlaid(facts, grid[protocol.choice[mixer]])
        for mixer, facts in protocol.mixers.items()
        if mixer in protocol.choice
    }
    return replace(protocol, mixers=mixers)


def _overlaid(facts, cell):
    parts = {part: {**facts.get(part, {}), **cell.get(part, {})} for part in _PARTS}
    return {**facts, **parts}


def speech_folder(protocol, given=None):
    """The recordings of people that a protocol is run on.

    Arguments
    ---------
    protocol : Protocol
    given : str, optional
        The folder; that of the environment variable SPEECHBRAIN_POM_SPEECH by default.

    Returns
    -------
    str

    Raises
    ------
    UserError
        If no folder is given, or it lacks a file of the protocol.
    """
    folder = given or os.environ.get(SPEECH_VARIABLE)
    if not folder:
        raise UserError(
            f"protocol {protocol.name} needs recordings ({', '.join(protocol.corpus['files'])}): "
            f"give their folder by --speech or the environment variable {SPEECH_VARIABLE}"
        )
    for name in protocol.corpus["files"]:
        if not Path(folder, name).is_file():
            raise UserError(
                f"'{folder}' has no {name}, which protocol {protocol.name} needs: give another "
                "folder by --speech"
            )
    return str(folder)


def find_protocol(name, path=PROTOCOLS_PATH):
    """One protocol.

    Arguments
    ---------
    name : str
    path : str or pathlib.Path
        The file that has it.

    Returns
    -------
    Protocol

    Raises
    ------
    UserError
        If there is none of this name: those that exist are given.

    Example
    -------
    >>> find_protocol("large").hardware
    'one GPU'
    """
    protocols = load_protocols(path)
    if name not in protocols:
        raise UserError(f"unknown protocol '{name}': choose one of {', '.join(protocols)}")
    return protocols[name]


def runs_folder(protocol):
    """Where the runs of a protocol go unless told otherwise.

    Arguments
    ---------
    protocol : Protocol

    Returns
    -------
    str

    Example
    -------
    >>> runs_folder(find_protocol("small"))
    'results/replica/small'
    """
    return f"{RUNS_FOLDER}/{protocol.name}"


def plan_runs(protocol, folder=None, mixers=None, seeds=None, data_folder=None):
    """The runs of a protocol, in chains whose runs come one after the other.

    Arguments
    ---------
    protocol : Protocol
    folder : str, optional
        For the corpus, `<folder>/corpus`, and the runs, `<folder>/<mixer>/<seed>/<kind>`; that of
        `runs_folder` by default.
    mixers : list of str, optional
        Some of the protocol's; all by default.
    seeds : list of int, optional
        Likewise.
    data_folder : str, optional
        The corpus; `<folder>/corpus` by default, or the environment variable by its name where
        the protocol needs recordings.

    Returns
    -------
    list of list of ReplicaRun
        [pretraining, finetuning] and [scratch], as far as the protocol has them, seed by seed and
        mixer by mixer: what ends early has whole seeds.

    Raises
    ------
    UserError
        If a mixer or seed is not one of the protocol's, or this is no checkout.
    """
    folder = folder or runs_folder(protocol)
    data_folder = data_folder or default_data_folder(protocol, folder)
    mixers = _choose("mixer", mixers, list(protocol.mixers), protocol)
    seeds = _choose("seed", seeds, protocol.seeds, protocol)
    chains = []
    for seed in seeds:
        for mixer in mixers:
            commands = _commands(protocol, mixer, seed, str(folder), str(data_folder))
            runs = {
                kind: ReplicaRun(mixer, seed, kind, _run_folder(folder, mixer, seed, kind), command)
                for kind, command in commands.items()
                if kind in protocol.kinds
            }
            chains += [
                chain
                for kinds in (STAGES, KINDS[len(STAGES) :])
                if (chain := [runs[kind] for kind in kinds if kind in runs])
            ]
    return chains


def default_data_folder(protocol, folder):
    """The data of a protocol, in words that are the same on every machine.

    Arguments
    ---------
    protocol : Protocol
    folder : str
        Of the runs.

    Returns
    -------
    str

    Example
    -------
    >>> default_data_folder(find_protocol("small"), "out"), find_protocol("real").is_real
    ('out/corpus', True)
    """
    return f"${SPEECH_VARIABLE}" if protocol.is_real else f"{folder}/corpus"


def _run_folder(folder, mixer, seed, kind):
    """Its path has no characters that a shell or a file system takes amiss."""
    return Path(folder, re.sub(r"[^\w.-]+", "_", mixer), str(seed), kind)


def _choose(what, given, known, protocol):
    for value in given or ():
        if value not in known:
            close = get_close_matches(str(value), [str(one) for one in known], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(
                f"{what} '{value}' is not of protocol {protocol.name}: {hint}it has "
                f"{', '.join(map(str, known))}"
            )
    return [value for value in known if value in given] if given else known


def _commands(protocol, mixer, seed, folder, data_folder):
    """Kind to the words of its command."""
    facts = protocol.mixers[mixer]
    parts = {part: {**getattr(protocol, part), **facts.get(part, {})} for part in _PARTS}
    if not protocol.test_sets:
        parts["finetuning"] |= {"test_csv": None, "test_splits": []}
    experiment = Experiment(
        name=_run_folder("", mixer, "", "").name,
        mixer=mixer,
        group="replica",
        size=protocol.name,
        num_parameters_wanted=facts["parameters"][1],
        files=FILES,
        parameters=facts["parameters"],
        overrides={
            "attention_type": facts["attention_type"],
            "d_model": facts["d_model"],
            **parts["options"],
        },
    )
    options = ["--seed", str(seed), "--data_folder", data_folder]
    for stage in STAGES:
        for key, value in parts[stage].items():
            options += [f"--{stage}.{key}", text_of(value)]
    commands = build_commands(experiment, options, num_processes=1, results_folder=folder)
    scratch = str(_run_folder(folder, mixer, seed, "scratch"))
    replaced = {"--pretrained": "null", "--output_folder": scratch}
    words = list(commands["finetuning"])
    for option, value in replaced.items():
        words[words.index(option) + 1] = value
    return {kind: tuple(command) for kind, command in {**commands, "scratch": words}.items()}
