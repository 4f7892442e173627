"""A row of the table as the two commands that run it from a checkout."""

import contextlib
import math
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

from speechbrain_pom.experiments.table import STAGES
from speechbrain_pom.runs.keys import unknown_key_message
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.runs.values import RUN_OPTION_TYPES, node_tag
from speechbrain_pom.utils.errors import UserError

SCRIPTS = {
    "pretraining": "recipes/LibriSpeech/train_bestrq.py",
    "finetuning": "recipes/LibriSpeech/train_ctc.py",
}
RESULTS_FOLDER = "results/experiments"
# Of the published pretraining; the hparams file has what each of them takes.
PUBLISHED_PROCESSES = 2
_SET_HERE = ("output_folder", "pretrained")


def build_commands(experiment, options=(), num_processes=2, results_folder=RESULTS_FOLDER):
    """The commands of a row, as typed in a checkout.

    Arguments
    ---------
    experiment : speechbrain_pom.experiments.table.Experiment
    options : list of str
        More `--key value`, for each stage whose hparams file has the key; as
        `--pretraining.key value` or `--finetuning.key value` for one of them. They replace those
        of the row.
    num_processes : int
        Of the pretraining. Gradients are accumulated so that a step takes as much audio as the
        published one, unless `options` say how. Fine-tuning has one process.
    results_folder : str
        The runs go to `<results_folder>/<name>/<seed>/<stage>`.

    Returns
    -------
    dict of str to list of str
        Stage to words.

    Raises
    ------
    UserError
        If this is no checkout, or an option is unknown, of a wrong kind, or of both stages where
        they mean different things.
    """
    check_checkout(experiment)
    trees = {stage: read_tree(experiment.files[stage]) for stage in STAGES}
    given = {stage: [] for stage in STAGES}
    for key, words in _split(options):
        for stage, name in _stages_of(key, trees):
            given[stage].append((name, [f"--{name}{words[0].partition(key)[2]}", *words[1:]]))
    folders = _output_folders(experiment, given, trees, results_folder)
    commands = {}
    for stage in STAGES:
        row = {**experiment.options(stage), "output_folder": folders[stage]}
        if stage == "pretraining":
            row |= _batch_options(trees[stage], given[stage], num_processes)
        else:
            row["pretrained"] = folders["pretraining"]
        replaced = {name for name, _ in given[stage]}
        words = [experiment.files[stage]]
        for key, value in row.items():
            words += [] if key in replaced else [f"--{key}", text_of(value)]
        words += [word for _, group in given[stage] for word in group]
        parse_command_line(words)
        parallel = num_processes if stage == "pretraining" else 1
        commands[stage] = [*launcher(parallel), SCRIPTS[stage], *words]
    return commands


def text_of(value):
    """A value as it stands behind its option.

    Arguments
    ---------
    value : object

    Returns
    -------
    str

    Example
    -------
    >>> text_of(None), text_of(0.5)
    ('null', '0.5')
    """
    return "null" if value is None else str(value)


def format_command(words):
    """A command in one line, as one would type it in a shell.

    Arguments
    ---------
    words : list of str

    Returns
    -------
    str

    Example
    -------
    >>> print(format_command(["--attention_type", "PoM(2, 2, 'selective')"]))
    --attention_type "PoM(2, 2, 'selective')"
    """
    return " ".join(_quote(word) for word in words)


def launcher(num_processes):
    """What stands before a recipe.

    Arguments
    ---------
    num_processes : int

    Returns
    -------
    list of str

    Example
    -------
    >>> launcher(1), launcher(2)
    (['python'], ['torchrun', '--standalone', '--nproc-per-node=2'])
    """
    if num_processes == 1:
        return ["python"]
    return ["torchrun", "--standalone", f"--nproc-per-node={num_processes}"]


def check_checkout(experiment):
    """See whether the recipes and hparams files of a row are in the current folder.

    Arguments
    ---------
    experiment : speechbrain_pom.experiments.table.Experiment

    Raises
    ------
    UserError
        If one of them is not.
    """
    for path in [*SCRIPTS.values(), *experiment.files.values()]:
        if not Path(path).is_file():
            raise UserError(
                f"no {path} in '{Path.cwd()}': the experiments are run from a checkout of "
                "speechbrain-pom, so change to its folder"
            )


def output_folder(command):
    """Where a command of `build_commands` writes.

    Arguments
    ---------
    command : list of str

    Returns
    -------
    pathlib.Path
    """
    return Path(command[command.index("--output_folder") + 1])


def run_command(command):
    """Run a command of `build_commands` with this Python, to its end.

    Ctrl-C in a terminal reaches the recipe by itself, and SIGTERM is passed on: it saves, and
    this waits for it.

    Arguments
    ---------
    command : list of str

    Returns
    -------
    int
        Its exit code.
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
    """In double quotes where that suffices: specs have single quotes inside.

    A word that is the name of an environment variable stays one.
    """
    quoted = shlex.quote(word)
    if quoted == word or (re.search(r'["$`\\!]', word) and not re.fullmatch(r"\$\w+", word)):
        return quoted
    return f'"{word}"'


def _split(options):
    """Pairs of a key and its words, as they were given."""
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
    """(stage, key of its file) of each stage that an option is for."""
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
    """A value of an hparams file, comparable, with its tag."""
    return (node_tag(node), getattr(node, "value", node)) if node_tag(node) else node


def _output_folders(experiment, given, trees, results_folder):
    """Folders of the stages, which lie together under the row's name and the seed."""
    seeds = set()
    for stage in STAGES:
        words = [word for _, group in given[stage] for word in group]
        overrides = parse_command_line([experiment.files[stage], *words]).overrides
        seeds.add(str(overrides.get("seed", trees[stage]["seed"])))
    if len(seeds) > 1:
        raise UserError(f"two seeds ({', '.join(sorted(seeds))}): give --seed for both stages")
    folder = f"{results_folder}/{experiment.name}/{seeds.pop()}"
    return {stage: f"{folder}/{stage}" for stage in STAGES}


def _batch_options(tree, given, num_processes):
    """Keys that make an optimizer step of any number of processes take the published audio."""
    keys = ("max_batch_duration_s", "grad_accumulation_factor")
    if num_processes == PUBLISHED_PROCESSES or {name for name, _ in given} & set(keys):
        return {}
    duration_s, factor = (tree[key] for key in keys)
    step_s = PUBLISHED_PROCESSES * duration_s * factor
    factor = math.ceil(step_s / (duration_s * num_processes))
    options = {"grad_accumulation_factor": factor}
    if step_s / (factor * num_processes) != duration_s:
        options["max_batch_duration_s"] = round(step_s / (factor * num_processes), 3)
    return options
