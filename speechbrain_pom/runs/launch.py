"""Start of a run: the process group under torchrun, and the output folder."""

import atexit
import gc
import importlib.metadata
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from copy import deepcopy
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import torch
from hyperpyyaml import resolve_references
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from speechbrain.utils.logger import setup_logging
from speechbrain.utils.quirks import log_applied_quirks

from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.report import effective_run_options
from speechbrain_pom.runs.values import typed_run_option
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

logger = logging.getLogger(__name__)


class Launch(NamedTuple):
    """This process among those of the run.

    Arguments
    ---------
    rank : int
        0 is the main process.
    world_size : int
        Number of processes, on all nodes.
    run_options : dict
        What SpeechBrain's `Brain` needs to know: `device` and `distributed_backend`; empty
        for a single process without torchrun.
    """

    rank: int
    world_size: int
    run_options: dict


def init_distributed(request):
    """Join the process group when torchrun started this process.

    With GPUs the backend is nccl and each process takes the GPU of its local rank; without
    (or with `--device cpu`) it is gloo, without asking. `device` and `distributed_backend` of
    the command line or the YAML are honoured, or refused.

    Arguments
    ---------
    request : RunRequest
        From `parse_command_line`.

    Returns
    -------
    Launch

    Raises
    ------
    UserError
        A process without a GPU of its own, nccl without GPUs, or one GPU for all processes.

    Example
    -------
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("seed: 1")
    >>> init_distributed(RunRequest(file))
    Launch(rank=0, world_size=1, run_options={})
    """
    # SpeechBrain's `Brain` takes these two variables as the sign of torchrun.
    if "RANK" not in os.environ or "LOCAL_RANK" not in os.environ:
        return Launch(0, 1, {})
    device, backend = _wanted(request, "device"), _wanted(request, "distributed_backend")
    local_rank = int(os.environ["LOCAL_RANK"])
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    num_gpus = 0 if device == "cpu" else torch.cuda.device_count()
    # Every process of the machine comes to the same verdict, so that the first one can print it.
    if num_gpus and num_local > num_gpus:
        raise UserError(
            f"{num_local} processes on this machine, but it has {num_gpus} GPUs: start torchrun "
            f"with --nproc-per-node={num_gpus}, or give --device cpu"
        )
    if backend == "nccl" and not num_gpus:
        raise UserError("--distributed_backend nccl needs GPUs: leave it out, gloo is then used")
    own_device = f"cuda:{local_rank}" if num_gpus else "cpu"
    if device not in (None, own_device.split(":")[0], own_device if num_local == 1 else None):
        raise UserError(
            f"--device {device} does not work under torchrun on this machine, where this process "
            f"runs on {own_device}: leave it out"
        )
    backend = backend or ("nccl" if num_gpus else "gloo")
    options = {"device": own_device, "distributed_backend": backend}
    ddp_init_group(options)
    atexit.register(leave_group)
    return Launch(torch.distributed.get_rank(), torch.distributed.get_world_size(), options)


def leave_group():
    """Leave the process group in good order, at the end of a program that has not failed.

    A thread of gloo that is not done with the last barrier when the interpreter goes down aborts
    the process ("terminate called without an active exception"), now and then. The group joins its
    threads when nothing holds it any more, wrapped models included. After an error it is left to
    the launcher, since other processes may be waiting in it.
    """
    if torch.distributed.is_initialized() and getattr(sys, "last_value", None) is None:
        gc.collect()
        torch.distributed.destroy_process_group()


def _wanted(request, name):
    value = request.run_options.get(name, read_tree(request.yaml_path).get(name))
    return None if value is None else typed_run_option(name, value)


def prepare_output_folder(experiment, script_path):
    """Create the run's folder with what documents it; called on every process.

    As SpeechBrain's `create_experiment_directory`: `hyperparams.yaml` (references resolved,
    overrides applied, so that it loads to the same experiment), a copy of the recipe,
    `env.log`, and `log.txt` with everything that is logged from now on, exceptions included.
    Files that would not change are not written.

    Arguments
    ---------
    experiment : Experiment
        With the key `output_folder`.
    script_path : str or Path
        The recipe: its `__file__`.

    Returns
    -------
    Path
        The output folder.

    Raises
    ------
    UserError
        No `output_folder`, it is a file, or it cannot be written.
    """
    if experiment.hparams.get("output_folder") is None:
        raise UserError(f"{experiment.yaml_path} has no output_folder: give one")
    folder = Path(experiment.hparams["output_folder"])
    run_on_main(_fill_output_folder, args=[experiment, folder, Path(script_path)])
    return folder


def _environment():
    """As SpeechBrain describes it, but with the packages of this process.

    SpeechBrain lists those of the first pip in PATH, and takes seconds for it.
    """
    found = {each.name: each.version for each in importlib.metadata.distributions()}
    git = ["git", "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        revision = f"Git revision:\n{commit}"
    except (OSError, subprocess.CalledProcessError):
        revision = "Could not get git revision"
    parts = (
        "SpeechBrain system description",
        f"Python version:\n{sys.version}",
        "\n".join(
            ["Packages:", *(f"{name}=={found[name]}" for name in sorted(found, key=str.lower))]
        ),
        revision,
        f"CUDA version:\n{torch.version.cuda or torch.version.hip}"
        if torch.cuda.is_available()
        else "CUDA not available",
    )
    return "\n==============================\n".join(parts)


def _fill_output_folder(experiment, folder, script_path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if folder.is_file() else error.strerror
        raise UserError(
            f"cannot write to the output folder '{folder}' ({reason}): "
            "give another one with --output_folder"
        ) from error
    log_config = effective_run_options(experiment)["log_config"] or DEFAULT_LOG_CONFIG
    if not Path(log_config).is_file():
        raise UserError(f"--log_config: no such file: '{log_config}'")
    _write_if_changed(folder / "hyperparams.yaml", resolved_yaml(experiment))
    _write_if_changed(folder / "env.log", _environment())
    _write_if_changed(folder / script_path.name, script_path.read_text(encoding="utf-8"))
    setup_logging(log_config, {"handlers": {"file_handler": {"filename": str(folder / "log.txt")}}})
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # thousands of lines on fonts
    sys.excepthook = _log_exception
    log_applied_quirks()
    logger.info("Experiment folder: %s", folder)


def _write_if_changed(path, text):
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text)


def resolved_yaml(experiment):
    """The experiment as one YAML text: overrides applied, references resolved.

    Arguments
    ---------
    experiment : Experiment

    Returns
    -------
    str
        It opens with the command; HyperPyYAML loads it to the same values.

    Example
    -------
    >>> from speechbrain_pom.runs.experiment import load_experiment
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("lr: 0.1\\nhead_lr: !ref <lr>")
    >>> print(resolved_yaml(load_experiment(RunRequest(file, {"lr": 0.5}))).split("disable\\n")[1])
    lr: 0.5
    head_lr: 0.5
    <BLANKLINE>
    """
    with open(experiment.yaml_path, encoding="utf-8") as stream:
        resolved = resolve_references(stream, deepcopy(experiment.overrides))
    text = StringIO()
    command = " ".join(shlex.join(experiment.command).splitlines())
    print(f"# Command: {command}", file=text)
    print(f"# Resolved from {experiment.yaml_path.resolve()}", file=text)
    print("# yamllint disable", file=text)
    shutil.copyfileobj(resolved, text)
    return text.getvalue()


def _log_exception(kind, error, traceback):
    logger.error("Exception:", exc_info=(kind, error, traceback))
