"""The table of effective options that opens a run."""

from pathlib import Path

import torch
from speechbrain.utils.distributed import infer_device, is_distributed_initialized
from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.values import RUN_OPTION_TYPES

# Always in the table, as they decide what a step is and what survives a crash.
_SHOWN_RUN_OPTIONS = {
    "precision",
    "eval_precision",
    "grad_accumulation_factor",
    "max_grad_norm",
    "optimizer_step_limit",
    "ckpt_interval_minutes",
    "ckpt_interval_steps",
}


def describe(experiment: Experiment, computed: dict | None = None) -> str:
    """The effective options with their sources, to be printed once before training.

    What the command line or the demo changed comes first, then the YAML's plain values in
    their order, the run options that matter, the device, the number of processes, and what the
    recipe has computed (such as the batch in seconds of audio).

    Example
    -------
    >>> from speechbrain_pom.runs.experiment import load_experiment
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("seed: 1\\nprecision: bf16")
    >>> experiment = load_experiment(RunRequest(file, {"seed": 7}))
    >>> print(describe(experiment, {"batch": "60 s of audio"}).splitlines()[1].split())
    ['seed', '7', 'command', 'line']
    """
    rows = [
        (key, value, experiment.sources[key])
        for key, value in experiment.hparams.items()
        if key not in RUN_OPTION_TYPES and not key.startswith("_") and _is_plain(value)
    ]
    effective = effective_run_options(experiment)
    rows += [
        (name, effective[name], source)
        for name, source in experiment.sources.items()
        if name in RUN_OPTION_TYPES and (name in _SHOWN_RUN_OPTIONS or source != "default")
    ]
    if effective["device"] is None:
        rows.append(("device", infer_device(), "detected"))
    processes = torch.distributed.get_world_size() if is_distributed_initialized() else 1
    rows.append(("processes", processes, "torchrun" if processes > 1 else "default"))
    rows += [(key, value, "computed") for key, value in (computed or {}).items()]
    rows.sort(key=lambda row: {"command line": 0, "demo": 1}.get(row[2], 2))
    table = [(key, "null" if value is None else str(value), source) for key, value, source in rows]
    key_width, value_width = (max(len(row[column]) for row in table) for column in (0, 1))
    lines = [f"{key:{key_width}}  {value:{value_width}}  {source}" for key, value, source in table]
    return "\n  ".join([f"options of {experiment.yaml_path}:", *lines])


def effective_run_options(experiment: Experiment) -> dict:
    """All run options as SpeechBrain's `Brain` will see them: command line, YAML, default.

    Example
    -------
    >>> from speechbrain_pom.runs.experiment import load_experiment
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("precision: bf16")
    >>> options = effective_run_options(load_experiment(RunRequest(file, {}, {"debug": True})))
    >>> options["precision"], options["debug"], options["max_grad_norm"]
    ('bf16', True, 5.0)
    """
    defaults = RunOptions()
    layers = (experiment.run_opts, experiment.hparams)
    return {
        name: next((layer[name] for layer in layers if name in layer), defaults[name])
        for name in RUN_OPTION_TYPES
    }


def _is_plain(value):
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str, Path))
