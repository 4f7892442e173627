"""Run folders laid out as the recipes leave them, without the training; and quick programs."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.pretrained import describe_encoder

ROOT = Path(__file__).parents[1]
SIZE = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cnn_channels": 4}
YAMLS = {"bestrq": "pom.yaml", "ctc": "pom_ctc.yaml"}


def write_run(folder, stage="bestrq", seed=0, meta=None, **overrides):
    """A run's folder as the recipe leaves it, with random weights: its newest checkpoint."""
    overrides = {**SIZE, "seed": seed, "output_folder": str(folder), **overrides}
    if stage == "ctc":
        overrides = {"dnn_neurons": 16, **overrides}
    with open(ROOT / "hparams" / YAMLS[stage], encoding="utf-8") as stream:
        text = resolve_references(stream, overrides).getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    hparams = load_hyperpyyaml(text)
    feats = 5.0 + 3.0 * torch.randn(2, 50, 80)
    hparams["encoder"].features.normalise(feats, torch.tensor([50, 50]), epoch=1)
    if stage == "ctc":
        CharacterUnits().save(folder / "units")
    record = {"epoch": 1, "steps": 5, "valid": {"loss": 1.5, "accuracy": 0.5, "wer": 50.0}}
    (folder / "history.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    facts = {"optimizer_step": 5, "encoder": describe_encoder(hparams), "loss": 1.5}
    meta = {**facts, **({"wer": 50.0} if stage == "ctc" else {}), **(meta or {})}
    return hparams["checkpointer"].save_checkpoint(meta=meta).path


@pytest.fixture(scope="session")
def make_run():
    """`write_run`: a run's folder."""
    return write_run


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory):
    """A run of pretraining: folder with save/CKPT+..., hyperparams.yaml, history.jsonl."""
    folder = tmp_path_factory.mktemp("runs") / "bestrq"
    write_run(folder)
    return folder


@pytest.fixture(scope="session")
def finetuned_run(tmp_path_factory):
    """A run of fine-tuning, with its units besides."""
    folder = tmp_path_factory.mktemp("runs") / "ctc"
    write_run(folder, "ctc")
    return folder


class Programs:
    """Starts Python programs by `program_server.py`, which saves them the imports."""

    def __init__(self, folder):
        self._folder, self._numbers = folder, itertools.count()
        self._pipe, there = multiprocessing.Pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)  # read at the import of Triton, for its tests
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("program_server.py"), str(there.fileno())],
            pass_fds=[there.fileno()],
            env=environment,
        )
        there.close()

    def run(self, arguments, *, cwd=ROOT, env=None, stdin="", timeout_s=600):
        """Run what stands after `python` in a command line, to its end.

        Returns
        -------
        subprocess.CompletedProcess
            With stdout and stderr as text.
        """
        paths = [self._folder / f"{next(self._numbers)}" for _ in range(3)]
        paths[0].write_text(stdin, encoding="utf-8")
        writing = os.O_WRONLY | os.O_CREAT
        request = {
            "arguments": [str(part) for part in arguments],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd),
            "files": list(zip(map(str, paths), (os.O_RDONLY, writing, writing), strict=True)),
        }
        self._pipe.send(request)
        pid = self._pipe.recv()
        if not self._pipe.poll(timeout_s):
            os.kill(pid, signal.SIGKILL)
            self._pipe.recv()
            raise subprocess.TimeoutExpired(arguments, timeout_s)
        code = self._pipe.recv()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in paths[1:])
        return subprocess.CompletedProcess(arguments, code, stdout, stderr)

    def stop(self):
        """End the server."""
        self._pipe.close()
        self._server.wait()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """`Programs`: `programs.run(["script.py", "--option"])` instead of a new `python`."""
    server = Programs(tmp_path_factory.mktemp("programs"))
    yield server
    server.stop()
