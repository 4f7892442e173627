"""The protocols of downstream evaluation, and the commands of their runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ruamel.yaml import YAML

from experiments.commands import text_of
from experiments.replica import protocols as replica
from experiments.replica.protocols import SPEECH_VARIABLE, ReplicaRun, choose, run_folder
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.runs.values import RUN_OPTION_TYPES
from speechbrain_pom.utils.errors import UserError

PROTOCOLS_PATH = Path(__file__).parent / "protocols.yaml"
RUNS_FOLDER = "results/downstream"
LOG_MEL = "log-mel"
DATA_FOLDER = f"${SPEECH_VARIABLE}"  # as written in records, the same on every machine


@dataclass(frozen=True)
class Protocol:
    """What is evaluated on what.

    Arguments
    ---------
    name, about, hardware : str
    jobs : int
        Runs at a time.
    replica : str
        The replica's protocol of the pretraining.
    mixers, random : list of str
        Its mixers, and those that are also evaluated with random weights.
    objectives : dict of str to dict or None
        Name to `recipe`, `file` and `options`; None: the encoders of the replica's own runs.
    pretraining_seed : int
    seeds : list of int
        Of the downstream runs.
    files : list of str
        CSV files of the recordings.
    options : dict
        Values for keys of all tasks.
    tasks : dict of str to dict
        Name to `recipe` and values for its keys.
    """

    name: str
    about: str
    hardware: str
    jobs: int
    replica: str
    mixers: list
    random: list
    objectives: dict
    pretraining_seed: int
    seeds: list
    files: list
    options: dict
    tasks: dict

    @property
    def corpus(self) -> dict:
        """As a protocol of the replica says which recordings it needs."""
        return {"files": self.files}

    @property
    def upstreams(self) -> list[str]:
        """All that is evaluated: encoders by objective and mixer, random ones, features."""
        encoders = [f"{one} {mixer}" for one in self.objectives for mixer in self.mixers]
        return [*encoders, *(f"random {mixer}" for mixer in self.random), LOG_MEL]


def find_protocol(name: str, path: str | Path = PROTOCOLS_PATH) -> Protocol:
    """One protocol of a file; a `UserError` lists the names if there is no such protocol.

    >>> find_protocol("real").upstreams[-2:]
    ['random PoM', 'log-mel']
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file of protocols: '{path}'")
    tree = YAML(typ="safe").load(path)
    if name not in tree:
        raise UserError(f"unknown protocol '{name}': choose one of {', '.join(tree)}")
    return Protocol(name=name, **tree[name])


def runs_folder(protocol: Protocol) -> str:
    """Where the runs of a protocol go by default."""
    return f"{RUNS_FOLDER}/{protocol.name}"


def plan_pretraining(
    protocol: Protocol,
    folder: str | Path,
    data_folder: str | Path,
    upstreams: Sequence[str] | None = None,
) -> list[list[ReplicaRun]]:
    """The runs that make the encoders of some upstreams, each a chain of its own."""
    wanted = _encoders_of(protocol, choose("upstream", upstreams, protocol.upstreams, protocol))
    places = (protocol, folder, data_folder)
    return [[_pretraining_run(objective, mixer, *places)] for objective, mixer in wanted]


def _encoders_of(protocol, upstreams):
    """(objective, mixer) of what must be pretrained; random weights need an architecture alone,
    which is that of the first objective."""
    first = next(iter(protocol.objectives))
    found = {}
    for upstream in upstreams:
        objective, mixer = _split(protocol, upstream)
        if objective is not None:
            found[first if objective == "random" else objective, mixer] = None
    return list(found)


def _split(protocol, upstream):
    """Objective (or "random") and mixer of an upstream; None for features."""
    if upstream == LOG_MEL:
        return None, None
    names = (*protocol.objectives, "random")
    objective = next(name for name in names if upstream.startswith(f"{name} "))
    return objective, upstream[len(objective) + 1 :]


def _pretraining_run(objective, mixer, protocol, folder, data_folder):
    base = replica.find_protocol(protocol.replica)
    if mixer not in base.mixers:
        raise UserError(
            f"mixer '{mixer}' is not of the replica's protocol {base.name}: it has "
            f"{', '.join(base.mixers)}"
        )
    seed, target = protocol.pretraining_seed, _encoder_folder(protocol, objective, mixer, folder)
    if _is_of_replica(protocol, objective):
        ((run,),) = replica.plan_runs(base, None, [mixer], [seed], data_folder, ["pretraining"])
        command = run.command
    else:
        command = _pretraining_command(protocol, objective, base, mixer, target, data_folder)
    return ReplicaRun(f"{objective} {mixer}", seed, "pretraining", target, command)


def _is_of_replica(protocol, objective):
    """Whether the encoders are those of the replica's own runs."""
    return protocol.objectives[objective] is None


def _encoder_folder(protocol, objective, mixer, folder):
    name = f"{objective} {mixer}"
    if _is_of_replica(protocol, objective):
        folder, name = replica.runs_folder(replica.find_protocol(protocol.replica)), mixer
    return run_folder(folder, name, protocol.pretraining_seed, "pretraining")


def _pretraining_command(protocol, objective, base, mixer, target, data_folder):
    """The settings of the replica's protocol, as far as the recipe has such keys."""
    settings, how = base.mixers[mixer], protocol.objectives[objective]
    known = {*read_tree(how["file"]), *RUN_OPTION_TYPES}
    values = {
        "seed": protocol.pretraining_seed,
        "data_folder": data_folder,
        "output_folder": target,
        "attention_type": settings["attention_type"],
        "d_model": settings["d_model"],
        **base.options,
        **base.pretraining,
        **settings.get("options", {}),
        **settings.get("pretraining", {}),
        **how["options"],
    }
    values = {key: value for key, value in values.items() if key in known}
    return _command(how["recipe"], how["file"], values)


def _command(recipe, file, values):
    words = [word for key, value in values.items() for word in (f"--{key}", text_of(value))]
    parse_command_line([file, *words])
    return ("python", recipe, file, *words)


def plan_tasks(
    protocol: Protocol,
    folder: str | Path,
    data_folder: str | Path,
    upstreams: Sequence[str] | None = None,
    tasks: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> list[list[ReplicaRun]]:
    """The downstream runs, each a chain of its own, seed by seed and task by task.

    They go to `<folder>/<upstream>/<seed>/<task>`; the rest chooses some of the protocol's.
    """
    upstreams = choose("upstream", upstreams, protocol.upstreams, protocol)
    tasks = choose("task", tasks, list(protocol.tasks), protocol)
    seeds = choose("seed", seeds, protocol.seeds, protocol)
    chains = []
    for seed in seeds:
        for task in tasks:
            for upstream in upstreams:
                target = run_folder(folder, upstream, seed, task)
                place = (protocol, upstream, task, seed, str(folder), str(data_folder))
                command = _task_command(*place, target)
                chains.append([ReplicaRun(upstream, seed, task, target, command)])
    return chains


def _task_command(protocol, upstream, task, seed, folder, data_folder, target):
    objective, mixer = _split(protocol, upstream)
    settings = dict(protocol.tasks[task])
    recipe = settings.pop("recipe")
    pretrained = None
    if objective is not None:
        source = next(iter(protocol.objectives)) if objective == "random" else objective
        pretrained = _encoder_folder(protocol, source, mixer, folder)
    kinds = {None: "log_mel", "random": "random"}
    values = {
        "seed": seed,
        "data_folder": data_folder,
        "output_folder": target,
        "upstream": kinds.get(objective, "pretrained"),
        "pretrained": pretrained,
        **protocol.options,
        **settings,
    }
    return _command(f"recipes/MP3S/train_{recipe}.py", f"hparams/mp3s_{recipe}.yaml", values)
