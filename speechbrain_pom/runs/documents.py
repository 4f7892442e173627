"""What documents a run in its folder: its YAML, its recipe, its environment, its log."""

import functools
import importlib.metadata
import logging
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from io import StringIO
from pathlib import Path

import torch
from hyperpyyaml import resolve_references
from speechbrain.core import DEFAULT_LOG_CONFIG
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import setup_logging
from speechbrain.utils.quirks import log_applied_quirks

from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.overlay import overlay
from speechbrain_pom.runs.report import effective_run_options
from speechbrain_pom.utils.errors import UserError, undo_if_refused
from speechbrain_pom.utils.files import write_atomically

logger = logging.getLogger(__name__)


def prepare_output_folder(experiment: Experiment, script_path: str | Path) -> Path:
    """Create the run's folder with what documents it; called on every process.

    As SpeechBrain's `create_experiment_directory`: `hyperparams.yaml` (references resolved,
    overrides applied, so that it loads to the same experiment), a copy of the recipe,
    `env.log`, and `log.txt` with everything that is logged from now on, exceptions included.
    Files that would not change are not written, and if the recipe refuses the call before it
    trains, those of the run that was there come back.
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
    packages = (each.metadata for each in importlib.metadata.distributions())  # read at each use
    found = {each["Name"]: each["Version"] for each in packages}
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


def git_revision(folder: Path) -> str | None:
    """The commit of the code that a run was made with, from its env.log; None if none was noted."""
    log = folder / "env.log"
    environment = log.read_text(encoding="utf-8") if log.is_file() else ""
    found = re.search(r"Git revision:\n(\w+)", environment)
    return found[1] if found else None


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
    """Write a document; what stood there comes back if the call is refused later."""
    former = path.read_text(encoding="utf-8") if path.is_file() else None
    if former == text:
        return
    if former is not None:
        undo_if_refused(functools.partial(write_atomically, path, former))
    write_atomically(path, text)


def resolved_yaml(experiment: Experiment) -> str:
    """The experiment as one YAML text, headed by its command: overrides and references resolved.

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
    resolved = resolve_references(*overlay(experiment.yaml_path, experiment.overrides))
    text = StringIO()
    command = " ".join(shlex.join(experiment.command).splitlines())
    print(f"# Command: {command}", file=text)
    print(f"# Resolved from {experiment.yaml_path.resolve()}", file=text)
    print("# yamllint disable", file=text)
    shutil.copyfileobj(resolved, text)
    return text.getvalue()


def _log_exception(kind, error, traceback):
    logger.error("Exception:", exc_info=(kind, error, traceback))
