"""The short form of kill_and_resume.py, and that its comparison can fail."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("kill_and_resume.py")


def load_script():
    spec = importlib.util.spec_from_file_location("kill_and_resume", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["ctc", "wav2vec2"])
def test_two_processes_of_which_one_is_killed(tmp_path, stage):
    """In wav2vec 2.0 each of them drops layers of its own."""
    record_path = tmp_path / "record.json"
    command = [sys.executable, SCRIPT, f"--stage={stage}", "--kills=1", "--processes=2"]
    command.append("--epochs=2")
    result = subprocess.run(
        [*command, f"--out={record_path}"], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads(record_path.read_text())
    assert record["equal"] is True
    assert record["values_compared"] > 100


@pytest.mark.slow
def test_two_kills_change_nothing(tmp_path):
    record_path, runs = tmp_path / "record.json", tmp_path / "runs"
    command = [sys.executable, SCRIPT, "--kills=2", "--epochs=4", f"--folder={runs}"]
    result = subprocess.run(
        [*command, f"--out={record_path}"], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stdout + result.stderr
    record = json.loads(record_path.read_text())
    assert record["equal"] is True
    assert record["kills"]["in_saves"] + record["kills"]["in_steps"] == 2
    assert record["values_compared"] > 100

    # What must be noticed: one changed weight, one epoch that is there twice.
    script = load_script()
    assert script.compare_runs(runs / "straight", runs / "killed")[1] == []
    history = runs / "killed" / "history.jsonl"
    lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join([*lines, lines[-1]]))
    newest = max((runs / "killed").glob("save/CKPT+*"), key=script.saved_at)
    weights = torch.load(newest / "linear.ckpt", weights_only=True)
    weights["w.weight"][0, 0] += 1e-6
    torch.save(weights, newest / "linear.ckpt")
    different = script.compare_runs(runs / "straight", runs / "killed")[1]
    assert different == ["linear.w.weight", "history.jsonl"]
    shutil.rmtree(runs)
