"""The commands of the tutorials work, one after the other, with smaller models than they name."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import soundfile
import torch

from tests.helpers import ROOT
from tests.helpers.recipes import BESTRQ, CTC, ENCODER

pytestmark = pytest.mark.slow
FOLDER = ROOT / "docs/tutorials"
TUTORIALS = sorted(path.stem for path in FOLDER.glob("*.md"))
# Data, their runs, devices, accounts and machines that a test does not have.
NOT_HERE = ("/path/to/", "/1000", " hf ", "hf://", "ORG/NAME", "ffmpeg", "--serve", "slurm")
PROGRAMS = ("python ", "torchrun ")
BLOCK = re.compile(r"^```(bash|sh|py)\n(.*?)^```$", re.M | re.S)
SMALLER = {
    "train_bestrq": {**BESTRQ, "number_of_epochs": 1},
    "train_ctc": {**CTC, "number_of_epochs": 1},
    "train_probe": {"number_of_epochs": 2},
}
# What the text is about, or what belongs to the demo.
KEPT = ("train_splits", "grad_accumulation_factor")
# What a tutorial finds when it begins, unless it makes it.
RUNS = {
    "results/demo/bestrq_pom": "bestrq",
    "results/demo/ctc_pom": "ctc",
    "results/demo/ctc_pom_streaming": "ctc",
}


def steps(name):
    """The files and commands of a tutorial in their order: (file name or None, text)."""
    for language, text in BLOCK.findall((FOLDER / f"{name}.md").read_text(encoding="utf-8")):
        if language == "py":
            yield re.match(r"# (\S+)\n", text)[1], text
        else:
            lines = text.splitlines()
            yield from ((None, line) for line in lines if line.startswith(PROGRAMS))


def runs_here(line):
    """Whether a command needs nothing that a test does not have."""
    return not any(part in f" {line} " for part in NOT_HERE)


def smaller(line):
    """The words of a command, with options that make its corpus or its model smaller."""
    words = shlex.split(line, comments=True)
    stage = next((name for name in SMALLER if f"/{name}.py" in line), None)
    options = {key: str(v) for key, v in SMALLER.get(stage, {}).items() if key not in KEPT}
    options = {"minutes": "2"} if "mini-corpus" in words else options
    if "--architecture" in words:
        options["architecture_overrides"] = str(ENCODER)
    for key, value in options.items():
        if f"--{key}" in words:
            words[words.index(f"--{key}") + 1] = value
        else:
            words += [f"--{key}", value]
    return words


@pytest.fixture
def folder(tmp_path, corpus, make_run):
    """Function of a tutorial: a folder as `speechbrain-pom init` makes it, and what it finds."""

    def make(name):
        text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
        for part in ("recipes", "hparams"):
            (tmp_path / part).symlink_to(ROOT / part)
        if "mini-corpus recordings" not in text:
            (tmp_path / "recordings").symlink_to(corpus)
        for run, stage in RUNS.items():
            if name != "pretrain" and f"--output_folder {run}\n" not in text:
                make_run(tmp_path / run, stage, **{**ENCODER, "num_encoder_layers": 4})
        soundfile.write(tmp_path / "speech.flac", 0.1 * torch.randn(32000).numpy(), 16000)
        return tmp_path

    return make


def run(programs, words, folder):
    """The completed process of a command line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    if words[0] == "python":
        return programs.run(words[1:], cwd=folder, env=environment)
    command = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.mark.parametrize("name", TUTORIALS)
def test_commands_of_a_tutorial(programs, folder, name):
    here, done = folder(name), 0
    for file, text in steps(name):
        if file:
            (here / file).write_text(text, encoding="utf-8")
        elif runs_here(text):
            result = run(programs, smaller(text), here)
            assert result.returncode == 0, f"{text}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
            done += 1
    assert done or name == "swap"  # whose recipe is another project's: test_asr_recipe.py
