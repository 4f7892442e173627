"""A row of the table as the two commands that run it from a checkout."""

import contextlib
import math
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.table import STAGES, Row
from speechbrain_pom.runs.keys import unknown_key_message
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.runs.values import RUN_OPTION_TYPES, node_tag
from speechbrain_pom.utils.errors import UserError

# The recipe of each hparams file
SCRIPTS = {
    "hparams/pom.yaml": "recipes/LibriSpeech/train_bestrq.py",
    "hparams/wav2vec2.yaml": "recipes/LibriSpeech/train_wav2vec2.py",
    "hparams/pom_ctc.yaml": "recipes/LibriSpeech/train_ctc.py",
}
RESULTS_FOLDER = "results/experiments"
_SET_HERE = ("output_folder", "pretrained")


def build_commands(
    row: Row,
    options: Sequence[str] = (),
    num_processes: int | None = None,
    results_folder: str | Path = RESULTS_FOLDER,
) -> dict[str, list[str]]:
    """The commands of a row, as typed in a checkout: stage to words.

    `options` are more `--key value`, for each stage whose hparams file has the key, or as
    `--pretraining.key value` or `--finetuning.key value` for one stage; they replace those of the
    row. Pretraining has as many processes as published, unless `num_processes` says otherwise:
    gradients are then accumulated so that a step takes as much audio, if no option changes that.
    Fine-tuning has one process. The runs go to `<results_folder>/<name>/<seed>/<stage>`.
    """
    check_checkout(row)
    num_processes = row.num_processes if num_processes is None else num_processes
    trees = {stage: read_tree(row.files[stage]) for stage in STAGES}
    known = {*RUN_OPTION_TYPES, *(key for tree in trees.values() for key in tree)}
    for key in row.options("pretraining"):
        if key not in known:
            raise UserError(unknown_key_message(key, sorted(known)))
    given = {stage: [] for stage in STAGES}
    for key, words in _split(options):
        for stage, name in _stages_of(key, trees):
            given[stage].append((name, [f"--{name}{words[0].partition(key)[2]}", *words[1:]]))
    folders = _output_folders(row, given, trees, results_folder)
    commands = {}
    for stage in STAGES:
        values = {**row_values(row, stage, trees[stage]), "output_folder": folders[stage]}
        if stage == "pretraining":
            values |= _batch_options(row, trees[stage], given[stage], num_processes)
        else:
            values["pretrained"] = folders["pretraining"]
        replaced = {name for name, _ in given[stage]}
        words = [row.files[stage]]
        for key, value in values.items():
            words += [] if key in replaced else [f"--{key}", text_of(value)]
        words += [word for _, group in given[stage] for word in group]
        parse_command_line(words)
        parallel = num_processes if stage == "pretraining" else 1
        commands[stage] = [*launcher(parallel), SCRIPTS[row.files[stage]], *words]
    return commands


def row_values(row: Row, stage: str, tree: dict) -> dict:
    """The values of a row for run options and for those keys that the file of a stage has."""
    known = {*tree, *RUN_OPTION_TYPES}
    return {key: value for key, value in row.options(stage).items() if key in known}


def text_of(value: object) -> str:
    """A value as it is typed after its option; None is `null`."""
    return "null" if value is None else str(value)


def format_command(words: Iterable[str]) -> str:
    """A command in one line, as typed in a shell.

    >>> print(format_command(["--attention_type", "PoM(2, 2, 'selective')"]))
    --attention_type "PoM(2, 2, 'selective')"
    """
    return " ".join(_quote(word) for word in words)


def launcher(num_processes: int) -> list[str]:
    """The words before the name of a recipe.

    >>> launcher(1), launcher(2)
    (['python'], ['torchrun', '--standalone', '--nproc-per-node=2'])
    """
    if num_processes == 1:
        return ["python"]
    return ["torchrun", "--standalone", f"--nproc-per-node={num_processes}"]


def check_checkout(row: Row) -> None:
    """Refuse a current folder without the recipes and hparams files of a row."""
    for path in [*map(SCRIPTS.get, row.files.values()), *row.files.values()]:
        if not Path(path).is_file():
            raise UserError(
                f"no {path} in '{Path.cwd()}': the experiments are run from a checkout of "
                "speechbrain-pom, so change to its folder"
            )


def output_folder(command: list[str]) -> Path:
    """Where a command of `build_commands` writes."""
    return Path(command[command.index("--output_folder") + 1])


def run_command(command: list[str]) -> int:
    """Run a command of `build_commands` with this Python to its end; return its exit code.

    Ctrl-C in a terminal reaches the recipe by itself, and SIGTERM is passed on: the recipe saves
    its state, and this function waits for it.
    """
    programs = {"python": [], "torchrun": ["-m", "torch.distributed.run"]}
    processes = []

    def pass_on(number, _frame):
        for process in processes if number == signal.SIGTERM else ():
            process.send_signal(number)

    former = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        words = [sys.executable, *programs[command[0]], *command[1:]]
        processes.append(subprocess.Popen(words))
        while processes[0].poll() is None:
            # A signal that came while another thread ran does not wake this one.
            with contextlib.suppress(subprocess.TimeoutExpired):
                processes[0].wait(timeout=0.5)
        return processes[0].returncode
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _quote(word):
    """A word quoted for a shell, in double quotes where that suffices: specs contain single ones.

    `$NAME` stays an environment variable.
    """
    quoted = shlex.quote(word)
    if quoted == word or (re.search(r'["$`\\!]', word) and not re.fullmatch(r"\$\w+", word)):
        return quoted
    return f'"{word}"'


def _split(options):
    """Pairs of a key and its words, as given."""
    groups = []
    for word in options:
        if word.startswith("--"):
            groups.append((word[2:].partition("=")[0], [word]))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise UserError(f"unexpected argument '{word}': what follows the name is --key value")
    return groups


def _stages_of(key, trees):
    """(stage, key of its file) of each stage that an option applies to."""
    prefix, dot, name = key.partition(".")
    if dot and prefix in STAGES:
        stages = [prefix]
    else:
        name = key
        stages = [stage for stage in STAGES if key in trees[stage] or key in RUN_OPTION_TYPES]
    if name in _SET_HERE:
        raise UserError(f"--{key} follows from the experiment: choose another --results_folder")
    if not stages or not all(name in trees[s] or name in RUN_OPTION_TYPES for s in stages):
        known = {key for stage in stages or STAGES for key in trees[stage]}
        raise UserError(unknown_key_message(name, [*sorted(known), *RUN_OPTION_TYPES]))
    values = [_plain(trees[stage][name]) for stage in stages if name in trees[stage]]
    if len(values) == 2 and values[0] != values[1]:
        raise UserError(
            f"--{name} is {values[0]} in pretraining and {values[1]} in fine-tuning: give "
            f"--pretraining.{name} or --finetuning.{name}"
        )
    return [(stage, name) for stage in stages]


def _plain(node):
    """A value of an hparams file with its tag, comparable."""
    return (node_tag(node), getattr(node, "value", node)) if node_tag(node) else node


def _output_folders(row, given, trees, results_folder):
    """Output folders of the stages, in one folder of the row's name and the seed."""
    seeds = set()
    for stage in STAGES:
        words = [word for _, group in given[stage] for word in group]
        overrides = parse_command_line([row.files[stage], *words]).overrides
        seeds.add(str(overrides.get("seed", trees[stage]["seed"])))
    if len(seeds) > 1:
        raise UserError(f"two seeds ({', '.join(sorted(seeds))}): give --seed for both stages")
    folder = f"{results_folder}/{row.name}/{seeds.pop()}"
    return {stage: f"{folder}/{stage}" for stage in STAGES}


def _batch_options(row, tree, given, num_processes):
    """Options with which a step of any number of processes takes as much audio as published."""
    keys = ("max_batch_duration_s", "grad_accumulation_factor")
    if num_processes == row.num_processes or {name for name, _ in given} & set(keys):
        return {}
    duration_s, factor = (tree[key] for key in keys)
    step_s = row.num_processes * duration_s * factor
    factor = math.ceil(step_s / (duration_s * num_processes))
    options = {"grad_accumulation_factor": factor}
    if step_s / (factor * num_processes) != duration_s:
        options["max_batch_duration_s"] = round(step_s / (factor * num_processes), 3)
    return options
