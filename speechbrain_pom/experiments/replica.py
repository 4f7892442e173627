"""The scaled replica of the publication's experiment: its protocols, and the commands of its runs.

Each mixer is pretrained, fine-tuned from that, and fine-tuned from scratch, with each seed, by the
recipes themselves on a mini corpus.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from ruamel.yaml import YAML

from speechbrain_pom.errors import UserError
from speechbrain_pom.experiments.commands import build_commands
from speechbrain_pom.experiments.table import STAGES, Experiment

PROTOCOLS_PATH = Path(__file__).parent / "replica.yaml"
# Of one mixer and seed; "scratch" is fine-tuning without pretraining.
KINDS = (*STAGES, "scratch")
FILES = {"pretraining": "hparams/pom.yaml", "finetuning": "hparams/pom_ctc.yaml"}
RUNS_FOLDER = "results/replica"
TEST_SETS = ("test-clean", "test-other")


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
        `duration_min` and `seed` of the mini corpus.
    seeds : list of int
        Of the runs.
    options : dict
        Keys of both hparams files.
    pretraining, finetuning : dict
        Keys of one of them.
    mixers : dict of str to dict
        Label to attention_type, d_model and parameters (of the encoder, and of all that is
        pretrained).
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
    return {name: Protocol(name=name, **fields) for name, fields in tree.items()}


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


def plan_runs(protocol, folder=None, mixers=None, seeds=None):
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

    Returns
    -------
    list of list of ReplicaRun
        [pretraining, finetuning] and [scratch], seed by seed and mixer by mixer: what ends early
        has whole seeds.

    Raises
    ------
    UserError
        If a mixer or seed is not one of the protocol's, or this is no checkout.
    """
    folder = folder or runs_folder(protocol)
    mixers = _choose("mixer", mixers, list(protocol.mixers), protocol)
    seeds = _choose("seed", seeds, protocol.seeds, protocol)
    chains = []
    for seed in seeds:
        for mixer in mixers:
            runs = {
                kind: ReplicaRun(mixer, seed, kind, Path(folder, mixer, str(seed), kind), command)
                for kind, command in _commands(protocol, mixer, seed, str(folder)).items()
            }
            chains += [[runs[stage] for stage in STAGES], [runs["scratch"]]]
    return chains


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


def _commands(protocol, mixer, seed, folder):
    """Kind to the words of its command."""
    facts = protocol.mixers[mixer]
    experiment = Experiment(
        name=mixer,
        mixer=mixer,
        group="replica",
        size=protocol.name,
        num_parameters_wanted=facts["parameters"][1],
        files=FILES,
        parameters=facts["parameters"],
        overrides={
            "attention_type": facts["attention_type"],
            "d_model": facts["d_model"],
            **protocol.options,
        },
    )
    options = ["--seed", str(seed), "--data_folder", f"{folder}/corpus"]
    for stage in STAGES:
        for key, value in getattr(protocol, stage).items():
            options += [f"--{stage}.{key}", str(value)]
    commands = build_commands(experiment, options, num_processes=1, results_folder=folder)
    replaced = {"--pretrained": "null", "--output_folder": f"{folder}/{mixer}/{seed}/scratch"}
    words = list(commands["finetuning"])
    for option, value in replaced.items():
        words[words.index(option) + 1] = value
    return {kind: tuple(command) for kind, command in {**commands, "scratch": words}.items()}
