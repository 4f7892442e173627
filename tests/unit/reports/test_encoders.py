"""The table of encoders by tests: rows, columns, means over seeds, and what it refuses."""

import json

import pytest

from speechbrain_pom.downstream.answers import write_answers
from speechbrain_pom.downstream.metrics import CLASSIFICATION_METRICS, VERIFICATION_METRICS
from speechbrain_pom.probe import ClassificationScores
from speechbrain_pom.reports.encoders import encoder_labels, format_encoders
from speechbrain_pom.runs.metrics import store_metrics
from speechbrain_pom.utils.errors import UserError


@pytest.fixture
def write(tmp_path):
    """Function of a name, answers (or an equal error rate) and keys: a run's folder."""

    def write(name, figures, **keys):
        folder = tmp_path / name
        folder.mkdir()
        if isinstance(figures, str):  # one letter for each answer, of which A is right
            scores = ClassificationScores()
            scores.append([f"u{i}" for i in range(len(figures))], list(figures), "A" * len(figures))
            write_answers(folder / "answers_words.csv", scores.answers())
            results, task = {"words": scores.summary(50)}, CLASSIFICATION_METRICS
        else:
            eer = {"eer": figures, "eer_low": figures - 1, "eer_high": figures + 2}
            results, task = {"pairs": eer}, VERIFICATION_METRICS
        store_metrics(folder, task)
        stored = {"head": "mean", **results}
        (folder / "results.json").write_text(json.dumps(stored if figures else {}))
        (folder / "history.jsonl").write_text('{"epoch": 1, "steps": 1, "valid": {"loss": 1.0}}\n')
        lines = {"upstream": "pretrained", "freeze": True, "pretrained": "runs/pom/1", **keys}
        text = "\n".join(f"{key}: {value}" for key, value in lines.items())
        (folder / "hyperparams.yaml").write_text(text)
        return str(folder)

    return write


def cells(text):
    return [
        [cell.strip() for cell in line.strip("| ").split(" | ")]
        for line in text.splitlines()
        if line.startswith("|")
    ]


def test_seeds_share_a_cell(write):
    folders = [
        write("a", "AAAB"),
        write("b", "AABB"),
        write("c", "AABB", pretrained="runs/mamba/1"),
        write("d", 10.0, pretrained="runs/mamba/1"),
        write("e", 20.0, pretrained="runs/mamba/1"),
        write("f", "ABBB", pretrained="runs/mamba/1", upstream="random"),
        write("g", "ABBB", upstream="log_mel", pretrained="null"),
        write("h", "AAAA", freeze="False"),
    ]
    text = format_encoders(folders, 50)
    rows = cells(text)
    assert rows[0] == [
        "encoder",
        "words, mean: accuracy (%)",
        "pairs, mean: equal error rate (%)",
    ]
    table = {row[0]: row[1:] for row in rows[2:]}
    assert list(table) == ["pom", "mamba", "random, as mamba", "log-mel", "pom, fine-tuned"]
    assert table["pom"][0].startswith("62.50 (")
    assert table["mamba"][1] == "15.00 (14.00 to 17.00)"
    assert table["pom, fine-tuned"][0].startswith("**100.00** (100.00")
    assert text.endswith("Seeds in a cell: 1 or 2.")


def test_one_encoder_has_its_path(write):
    assert encoder_labels([write("a", "AAAB")]) == ["runs/pom/1"]


def test_runs_that_cannot_share_a_cell(write):
    with pytest.raises(UserError, match="were tested on other utterances"):
        format_encoders([write("a", "AAAB"), write("b", "AAA")])
    with pytest.raises(UserError, match="none of these runs has been tested"):
        format_encoders([write("c", 0)])
