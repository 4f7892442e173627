"""The protocols of the scaled replica, and the commands of their runs.

The recipes pretrain each mixer, fine-tune it, and train it from scratch, with each seed, on a mini
corpus or on recordings of people.
"""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML

from experiments.commands import build_commands, row_values, text_of
from experiments.table import STAGES, Row
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.utils.errors import UserError

PROTOCOLS_PATH = Path(__file__).parent / "protocols.yaml"
# The runs of one mixer and seed; "scratch" is fine-tuning without pretraining.
KINDS = (*STAGES, "scratch")
FILES = {"pretraining": "hparams/pom.yaml", "finetuning": "hparams/pom_ctc.yaml"}
RUNS_FOLDER = "results/replica"
SPEECH_VARIABLE = "SPEECHBRAIN_POM_SPEECH"
# What a mixer of a protocol, or a cell of its grid, may change.
_PARTS = ("options", "pretraining", "finetuning")


@dataclass(frozen=True)
class Protocol:
    """What the runs of a replica have in common, and its mixers.

    Arguments
    ---------
    name : str
    hardware : str
        What it is made for.
    jobs : int
        Runs at a time.
    corpus : dict
        `duration_min` and `seed` of the mini corpus; or `files`, the CSV files of recordings that
        must be in the folder that `speech_folder` gives.
    seeds : list of int
        The seeds of the runs.
    options : dict
        Values for keys of both hparams files.
    pretraining, finetuning : dict
        Values for keys of one of them.
    mixers : dict of str to dict
        Label to attention_type, d_model, parameters (of the encoder, and of everything that is
        pretrained), and optionally options, pretraining and finetuning of its own, and other_size
        (set where it differs in size from PoM on purpose).
    kinds : list of str
        Which of `KINDS` are run.
    test_sets : list of str
        If empty, runs are compared on the validation data, and no test set is read.
    grid : dict of str to dict
        Label to options, pretraining and finetuning: each mixer is run with each of them.
    choice : dict of str to str
        Mixer to the label of `grid`, in the protocol `tuned_by`, that it is run with.
    tuned_by : str
        The protocol whose runs the choice is based on.
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
    def is_real(self) -> bool:
        """Whether it needs recordings of people."""
        return "files" in self.corpus

    @property
    def only_pretrains(self) -> bool:
        """Whether nothing is fine-tuned, so that there are no error rates."""
        return list(self.kinds) == ["pretraining"]


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
    def label(self) -> str:
        """Mixer, seed and kind for a reader."""
        return f"{self.mixer}, seed {self.seed}, {self.kind}"


def load_protocols(path: str | Path = PROTOCOLS_PATH) -> dict[str, Protocol]:
    """All protocols of a file by name.

    >>> load_protocols()["small"].seeds
    [1, 2, 3]
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file of protocols: '{path}'")
    tree = YAML(typ="safe").load(path)
    found = {}
    for name in tree:
        fields = _fields(tree, name)
        found[name] = Protocol(name=name, **{**fields, "mixers": _spread(fields)})
    return {name: _with_choice(protocol, found) for name, protocol in found.items()}


def _fields(tree, name):
    """The fields of a protocol, over those of the one that it is `like`; parts key by key."""
    fields = dict(tree[name])
    if (like := fields.pop("like", None)) is None:
        return fields
    base = _fields(tree, like)
    parts = {part: {**base.get(part, {}), **fields.get(part, {})} for part in _PARTS}
    return {**base, **fields, **parts}


def _spread(fields):
    """The mixers of a protocol; with a grid, each of them with each cell."""
    if not fields.get("grid"):
        return fields["mixers"]
    return {
        f"{mixer}, {label}": _overlaid(settings, cell)
        for mixer, settings in fields["mixers"].items()
        for label, cell in fields["grid"].items()
    }


def _with_choice(protocol, protocols):
    if not protocol.choice:
        return protocol
    grid = protocols[protocol.tuned_by].grid
    mixers = {
        mixer: _overlaid(settings, grid[protocol.choice[mixer]])
        for mixer, settings in protocol.mixers.items()
        if mixer in protocol.choice
    }
    return replace(protocol, mixers=mixers)


def _overlaid(settings, cell):
    parts = {part: {**settings.get(part, {}), **cell.get(part, {})} for part in _PARTS}
    return {**settings, **parts}


def speech_folder(protocol: Protocol, given: str | None = None) -> str:
    """The folder of recordings: `given`, or that of SPEECHBRAIN_POM_SPEECH, if it is complete."""
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


def find_protocol(name: str, path: str | Path = PROTOCOLS_PATH) -> Protocol:
    """One protocol of a file; a `UserError` lists the names if there is no such protocol.

    >>> find_protocol("large").hardware
    'one GPU'
    """
    protocols = load_protocols(path)
    if name not in protocols:
        raise UserError(f"unknown protocol '{name}': choose one of {', '.join(protocols)}")
    return protocols[name]


def runs_folder(protocol: Protocol) -> str:
    """Where the runs of a protocol go by default.

    >>> runs_folder(find_protocol("small"))
    'results/replica/small'
    """
    return f"{RUNS_FOLDER}/{protocol.name}"


def plan_runs(
    protocol: Protocol,
    folder: str | Path | None = None,
    mixers: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data_folder: str | Path | None = None,
    kinds: Sequence[str] | None = None,
) -> list[list[ReplicaRun]]:
    """The runs of a protocol, in chains whose runs follow each other.

    The chains are [pretraining, finetuning] and [scratch], as far as the protocol has them. They
    come seed by seed and mixer by mixer, so that interrupted work has whole seeds. Mixers that
    differ in fine-tuning alone share the pretraining of the first of them, and its chain. The runs
    go to `<folder>/<mixer>/<seed>/<kind>`; `mixers`, `seeds` and `kinds` choose some of the
    protocol's.
    """
    folder = folder or runs_folder(protocol)
    data_folder = data_folder or default_data_folder(protocol, folder)
    mixers = choose("mixer", mixers, list(protocol.mixers), protocol)
    seeds = choose("seed", seeds, protocol.seeds, protocol)
    kinds = choose("kind", kinds, list(protocol.kinds), protocol)
    chains = []
    for seed in seeds:
        chains_of = {}
        for mixer in mixers:
            runs = _runs(protocol, mixer, seed, str(folder), str(data_folder))
            first = runs["pretraining"].mixer
            if first not in chains_of:
                chains.append(chains_of.setdefault(first, []))
            wanted = [runs[kind] for kind in STAGES if kind in kinds]
            chains_of[first] += [run for run in wanted if run not in chains_of[first]]
            if "scratch" in kinds:
                chains.append([runs["scratch"]])
    return [chain for chain in chains if chain]


def pretrained_as(protocol: Protocol, mixer: str) -> str:
    """The first mixer of a protocol that is pretrained as this one is.

    >>> pretrained_as(find_protocol("finetuning_rates"), "PoM, head x2")
    'PoM, as it is'
    """
    wanted = _of_pretraining(protocol, mixer)
    return next(one for one in protocol.mixers if _of_pretraining(protocol, one) == wanted)


def _of_pretraining(protocol, mixer):
    settings = protocol.mixers[mixer]
    own = {part: settings.get(part, {}) for part in ("options", "pretraining")}
    return settings["attention_type"], settings["d_model"], own


def default_data_folder(protocol: Protocol, folder: str | Path) -> str:
    """The data of a protocol, written the same way on every machine.

    >>> default_data_folder(find_protocol("small"), "out"), find_protocol("real").is_real
    ('out/corpus', True)
    """
    return f"${SPEECH_VARIABLE}" if protocol.is_real else f"{folder}/corpus"


def run_folder(folder: str | Path, mixer: str, seed: int | str, kind: str) -> Path:
    """A path without characters that are special to a shell or a file system."""
    return Path(folder, re.sub(r"[^\w.-]+", "_", mixer), str(seed), kind)


def choose(what: str, given: Sequence | None, known: list, protocol) -> list:
    """Those of the known values that are given, all if none is; a `UserError` for another one."""
    for value in given or ():
        if value not in known:
            close = get_close_matches(str(value), [str(one) for one in known], n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? " if close else ""
            raise UserError(
                f"{what} '{value}' is not of protocol {protocol.name}: {hint}it has "
                f"{', '.join(map(str, known))}"
            )
    return [value for value in known if value in given] if given else known


def _runs(protocol, mixer, seed, folder, data_folder):
    """The run of each kind; that of the pretraining may be another mixer's too."""
    mixers = dict.fromkeys(KINDS, mixer) | {"pretraining": pretrained_as(protocol, mixer)}
    folders = {kind: run_folder(folder, mixers[kind], seed, kind) for kind in KINDS}
    commands = _commands(protocol, mixer, seed, folders, folder, data_folder)
    return {
        kind: ReplicaRun(mixers[kind], seed, kind, folders[kind], tuple(commands[kind]))
        for kind in KINDS
    }


def _commands(protocol, mixer, seed, folders, folder, data_folder):
    """The words of the command of each kind, which writes to its folder of `folders`."""
    settings = protocol.mixers[mixer]
    parts = {part: {**getattr(protocol, part), **settings.get(part, {})} for part in _PARTS}
    if not protocol.test_sets:
        parts["finetuning"] |= {"test_csv": None, "test_splits": []}
    row = Row(
        name=run_folder("", mixer, "", "").name,
        mixer=mixer,
        group="replica",
        size=protocol.name,
        num_parameters_wanted=settings["parameters"][1],
        files=FILES,
        parameters=settings["parameters"],
        overrides={
            "attention_type": settings["attention_type"],
            "d_model": settings["d_model"],
            **parts["options"],
        },
    )
    options = ["--seed", str(seed), "--data_folder", data_folder]
    for stage in STAGES:
        for key, value in parts[stage].items():
            options += [f"--{stage}.{key}", text_of(value)]
    commands = build_commands(row, options, num_processes=1, results_folder=folder)
    words = [*commands["finetuning"], "--architecture", FILES["pretraining"]]
    words += ["--architecture_overrides", json.dumps(_model_values(row))]
    commands["scratch"] = words
    for kind, pretrained in (("finetuning", str(folders["pretraining"])), ("scratch", "null")):
        _set_option(commands[kind], "--pretrained", pretrained)
    for kind, command in commands.items():
        _set_option(command, "--output_folder", str(folders[kind]))
    return commands


def _set_option(words, option, value):
    words[words.index(option) + 1] = value


def _model_values(row):
    """The values of a row for what fine-tuning takes from the pretraining: the model."""
    pretraining, finetuning = (
        row_values(row, stage, read_tree(row.files[stage])) for stage in STAGES
    )
    return {key: value for key, value in pretraining.items() if key not in finetuning}
