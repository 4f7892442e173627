"""A replica of one mixer and one seed through the real recipes, at a tiny size; and its report."""

import json
import sys

import pytest
import yaml

COMMAND = [sys.executable, "-m", "experiments.replica"]


@pytest.mark.slow
def test_runs_and_report(recipes, tmp_path):
    shared = {
        **recipes.ENCODER,
        "train_splits": "[train-clean-100]",
        "num_workers": 0,
        "device": "cpu",
    }
    del shared["d_model"]  # of the mixer
    stages = {
        name: {key: value for key, value in options.items() if key not in {*shared, "d_model"}}
        for name, options in (("pretraining", recipes.BESTRQ), ("finetuning", recipes.CTC))
    }
    for options in stages.values():
        options |= {"number_of_epochs": 1, "optimizer_step_limit": 3}
    protocol = {
        "hardware": "any",
        "jobs": 2,
        "corpus": {"duration_min": 2.0, "seed": 0},
        "seeds": [5],
        "options": shared,
        **stages,
        "mixers": {"PoM": {"attention_type": "PoM", "d_model": 16, "parameters": [1, 1]}},
    }
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"tiny": protocol}))
    own = ["tiny", "--protocols", tmp_path / "own.yaml", "--out", tmp_path / "runs"]

    result = recipes.run([*COMMAND, "run", *own])
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert result.stdout.count(": finished in") == 3

    report = recipes.run([*COMMAND, "report", *own])
    assert report.returncode == 0, report.stderr[-3000:]
    assert "| PoM   | test-clean | " in report.stdout
    record = json.loads((tmp_path / "runs/replica_tiny.json").read_text())
    assert record["missing"] == []
    assert [run["kind"] for run in record["runs"]] == ["pretraining", "finetuning", "scratch"]
    assert {run["num_steps"] for run in record["runs"]} == {3}
    for run in record["runs"]:
        assert run["peak_memory_mib"] > 0
        assert run["machine"] == 0
    for run in record["runs"][1:]:
        folder = tmp_path / "runs/PoM/5" / run["kind"]
        results = json.loads((folder / "results.json").read_text())
        assert run["results"] == {split: found["no_lm"] for split, found in results.items()}
        num_edits = sum(run["edits"]["test-clean"])
        num_words = sum(record["utterances"]["test-clean"].values())
        assert run["results"]["test-clean"]["wer"] == pytest.approx(100 * num_edits / num_words)
    assert str(tmp_path) not in json.dumps(record)

    again = recipes.run([*COMMAND, "run", *own])
    assert again.returncode == 0
    assert "2 of 2 chains of runs are in the record: left out\n" in again.stdout
    again = recipes.run([*COMMAND, "run", *own, "--again"])
    assert again.returncode == 0
    assert again.stdout.count(": was finished") == 3
