"""Commands of the recipes as a user types them, on a corpus of two minutes, with tiny models."""

import json
import os
import subprocess
import sys

import torch
import yaml

from speechbrain_pom.runs.options import read_tree
from tests.helpers import ROOT

PYTHON = [sys.executable]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

ENCODER = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cnn_channels": 4}
COMMON = {
    "train_splits": "[train-clean-100]",
    "number_of_epochs": 2,
    "optimizer_step_limit": "null",
    "precision": "fp32",
    "eval_precision": "fp32",
    "grad_accumulation_factor": 2,
    "num_workers": 0,
    "device": "cpu",
}
BESTRQ = {
    **ENCODER,
    **COMMON,
    "lr": 0.01,
    "n_warmup_steps": 8,
    "max_batch_duration_s": 10,
    "valid_batch_duration_s": 60,
    "num_buckets": 3,
    "min_duration_s": 0,
    "mask_scope": "utterance",
    "cb_vocab": 16,
}
WAV2VEC2 = {
    **ENCODER,
    **COMMON,
    "data_layout": "librispeech",
    "optimizer_step_limit": None,  # the YAML's, by which its schedule ends
    "n_schedule_steps": 40,
    "n_warmup_steps": 8,
    "lr": 0.01,
    "max_batch_duration_s": 10,
    "valid_batch_duration_s": 60,
    "num_buckets": 3,
    "min_duration_s": 0,
    "layerdrop_prob": 0.3,
    "num_codes": 8,
    "code_size": 4,
    "target_size": 8,
    "num_negatives": 10,
}
CTC = {
    **COMMON,
    "dnn_neurons": 16,
    "lr": 0.01,
    "lr_encoder": 0.005,
    "batch_size": 2,
    "sorting": "random",
    "beam_size": 4,
    "num_bootstrap": 20,
}
STAGES = {"bestrq": BESTRQ, "wav2vec2": WAV2VEC2, "ctc": CTC}
YAMLS = {"bestrq": "pom.yaml", "wav2vec2": "wav2vec2.yaml", "ctc": "pom_ctc.yaml"}

# Runs a recipe, but dies at the start of one batch.
KILLED = """
import os, runpy, signal, sys
from speechbrain_pom.training.brain import ExactBrain
script, epoch, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sys.argv[:4] = [script]
sys.path.insert(0, os.path.dirname(script))
def die(self, *_):
    if (self.epoch, self.step) == (epoch, batch):
        os.kill(os.getpid(), signal.SIGKILL)
ExactBrain.on_fit_batch_start = die
runpy.run_path(script, run_name="__main__")
"""

# Runs one command line after the other, each as the program would be started.
MANY_CALLS = """
import contextlib, io, json, os, runpy, sys
results = []
for command in json.load(sys.stdin):
    sys.argv = command
    sys.path[0] = os.path.dirname(command[0])
    stderr, code = io.StringIO(), 0
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        try:
            runpy.run_path(command[0], run_name="__main__")
        except SystemExit as error:
            code = error.code
        except BaseException as error:
            code = repr(error)
    results.append((code, stderr.getvalue()))
print(json.dumps(results), file=sys.__stdout__)
"""

_session = {}  # the programs of the session


def use(programs):
    """Let the functions of this file start recipes by the fixture `programs`."""
    _session["programs"] = programs


def arguments(stage, **options):
    """The recipe, its YAML and the options of a tiny run; None leaves one of them out."""
    yaml = options.pop("yaml", f"hparams/{YAMLS[stage]}")
    command = [f"recipes/LibriSpeech/train_{stage}.py", yaml]
    if stage == "ctc" and options.get("pretrained") == "null":
        options = with_architecture(options)
    for key, value in {**STAGES[stage], **options}.items():
        if value is not None:
            command += [f"--{key}", str(value)]
    return [*command, "--noprogressbar"]


def with_architecture(options):
    """Options of fine-tuning from scratch, with the keys of the model where they belong."""
    keys = read_tree(ROOT / "hparams/pom_ctc.yaml")["_of_the_architecture"]
    model = {**ENCODER, **{key: value for key, value in options.items() if key in keys}}
    given = {"architecture": "hparams/pom.yaml", "architecture_overrides": json.dumps(model)}
    return {**given, **{key: value for key, value in options.items() if key not in keys}}


def run(command, stdin="", forked=True, curves=False, **environment):
    """Run a Python program from the repository's root, with one thread.

    By default in a process that is forked and need not import everything, and which draws no
    curves unless asked; torchrun, and one run of each recipe, are started as a user starts them.
    """
    python, *rest = [str(part) for part in command]
    assert python == sys.executable
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    if forked and rest[:2] != TORCHRUN[1:3]:
        how = {"cwd": ROOT, "env": environment, "stdin": stdin, "curves": curves}
        return _session["programs"].run(rest, **how)
    return subprocess.run(
        [python, *rest],
        cwd=ROOT,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=600,
    )


def train(stage, output_folder, forked=True, launcher=PYTHON, **options):
    """Run a recipe that is expected to work; return all that it printed."""
    command = [*launcher, *arguments(stage, output_folder=output_folder, **options)]
    result = run(command, forked=forked)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout + result.stderr


def train_until_killed(stage, output_folder, epoch, batch, **options):
    """Run a recipe that is killed (SIGKILL) at the start of a batch."""
    launcher = [sys.executable, "-c", KILLED]
    script, *rest = arguments(stage, output_folder=output_folder, **options)
    result = run([*launcher, script, epoch, batch, *rest])
    assert result.returncode == -9, result.stdout[-3000:] + result.stderr[-3000:]


def call_all(commands):
    """Run command lines one after the other in one process: exit code and stderr of each."""
    result = run([sys.executable, "-c", MANY_CALLS], stdin=json.dumps(commands))
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def check_refusal(code, stderr, *parts):
    """Exit code 2, and one line at the end that has all these parts."""
    assert code == 2, stderr
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, stderr
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == errors[0]
    for part in parts:
        assert part in errors[0]


def history(folder):
    """The records of history.jsonl."""
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def without_machine_figures(records):
    """Records without what depends on the speed and memory of the machine."""
    machine = ("audio_s_per_s", "peak_memory_mib")
    return [
        {**record, "train": {k: v for k, v in record["train"].items() if k not in machine}}
        for record in records
    ]


def newest_checkpoint(folder):
    """The newest checkpoint of a run, and its meta data."""
    checkpoints = {
        path: yaml.safe_load((path / "CKPT.yaml").read_text())
        for path in (folder / "save").glob("CKPT+*")
    }
    return max(checkpoints.items(), key=lambda item: item[1]["unixtime"])


def tensors(folder, *names):
    """All tensors and numbers in files of the newest checkpoint, by their path."""
    checkpoint, _ = newest_checkpoint(folder)
    flat = {}
    for name in names:
        state = torch.load(checkpoint / f"{name}.ckpt", weights_only=True)
        _flatten(state, name, flat)
    return flat


def _flatten(value, path, flat):
    if isinstance(value, dict):
        for key, inner in value.items():
            _flatten(inner, f"{path}.{key}", flat)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            _flatten(inner, f"{path}.{index}", flat)
    else:
        flat[path] = value


def differing(first, second):
    """The paths whose values are not equal, bit by bit."""
    assert first.keys() == second.keys()
    assert any(isinstance(value, torch.Tensor) for value in first.values())
    return [
        key
        for key, value in first.items()
        if not (
            torch.equal(value, second[key])
            if isinstance(value, torch.Tensor)
            else value == second[key]
        )
    ]
