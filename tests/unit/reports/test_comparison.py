"""Runs side by side."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from speechbrain_pom.reports.comparison import format_comparison, read_runs, short_labels
from speechbrain_pom.reports.learning_curves import draw_together
from speechbrain_pom.runs.metrics import Metric, TaskMetrics

REFERENCES = ["ONE TWO THREE FOUR"] * 40
ONE_WRONG = ["ONE TWO THREE TEN"] * 40


def test_rates_and_differences(tested_run):
    half = ONE_WRONG[:20] + REFERENCES[20:]
    folders = [
        tested_run(name, predictions, REFERENCES)
        for name, predictions in (("pom", half), ("mamba", ONE_WRONG), ("none", ["" for _ in half]))
    ]
    text = format_comparison(read_runs(folders), num_bootstrap=50, num_randomisations=500, seed=3)
    assert text.startswith("test-clean, without LM, 40 utterances\n")
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line[:1] == "|"}
    assert "| 12.50 " in rows["pom"]
    assert "| 25.00   | 25.00 to 25.00 " in rows["mamba"]
    results = json.loads((folders[0] / "results.json").read_text())["test-clean"]["no_lm"]
    assert f"{results['cer']:.2f}" in rows["pom"]
    assert re.search(r"\| -12\.50 .* \| 0\.0020 \| 20 +\| 0 ", rows["pom - mamba"])
    assert {"pom - none", "mamba - none"} <= rows.keys()
    assert "50 bootstrap trials" in text
    assert "500 random exchanges of the errors of utterances, seed 3" in text


def test_tests_with_chunks_are_compared_each_by_itself(tested_run):
    """After those with the full context, and under their own names."""
    folders = [tested_run(name, ONE_WRONG, REFERENCES) for name in ("pom", "mamba")]
    for folder, name in ((folders[0], "chunk8"), (folders[1], "chunk16_left4")):
        report = (folder / "wer_test-clean_no_lm.txt").read_text()
        for label in (name, "chunk32"):
            (folder / f"wer_test-clean_{label}_no_lm.txt").write_text(report)
        path = folder / "results.json"
        results = json.loads(path.read_text())
        results["test-clean"]["chunk32"] = {"no_lm": results["test-clean"]["no_lm"]}
        path.write_text(json.dumps(results))
    runs = read_runs(folders)
    assert ("test-clean", "chunk32", "without LM") in runs[0].results
    text = format_comparison(runs, num_bootstrap=20, num_randomisations=20)
    titles = [line for line in text.splitlines() if line.endswith("40 utterances")]
    assert [title.split(", ")[1:-1] for title in titles] == [
        ["without LM"],
        ["chunk32", "without LM"],
        ["chunk8", "without LM"],
        ["chunk16_left4", "without LM"],
    ]
    assert text.count("| pom - mamba |") == 2


def test_runs_with_other_utterances_are_refused(tested_run):
    folders = [tested_run("a", ONE_WRONG, REFERENCES), tested_run("b", ["ONE"], ["ONE"])]
    message = "a and b cannot be compared on test-clean: not the same utterances: 40 and 1"
    with pytest.raises(ValueError, match=message):
        format_comparison(read_runs(folders))


def test_pretraining_has_curves_alone(tested_run):
    folder = tested_run("a", ONE_WRONG, REFERENCES)
    for file in [*folder.glob("*t-clean*"), folder / "results.json"]:
        file.unlink()
    (run,) = read_runs([folder])
    assert format_comparison([run]) == "No error rates: none of these runs has been tested."
    assert len(run.history) == 2


def test_folders_of_no_run_are_refused(tested_run, tmp_path):
    folder = tested_run("a", ONE_WRONG, REFERENCES)
    with pytest.raises(ValueError, match="no such folder: '/nowhere': give the output folder of a"):
        read_runs([folder, "/nowhere"])
    with pytest.raises(ValueError, match="is given twice: a run has no difference to itself"):
        read_runs([folder, f"{folder}/../ctc"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds neither an epoch nor a test of a run: give the"):
        read_runs([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (["r/pom/1/ctc", "r/mamba/1/ctc"], ["pom", "mamba"]),
        (["r/pom/1", "r/pom/2"], ["1", "2"]),
        (["r/pom/1/ctc", "r/mamba/2/ctc"], ["pom/1", "mamba/2"]),
        (["r/pom", "r/pom/best"], ["pom", "pom/best"]),
        (["r/pom"], ["r/pom"]),
    ],
)
def test_labels(paths, labels):
    assert short_labels([Path(path) for path in paths]) == labels


def test_curves(tested_run, tmp_path):
    runs = read_runs(
        [tested_run("a", ONE_WRONG, REFERENCES), tested_run("b", ONE_WRONG, REFERENCES)]
    )
    runs[0].history[0]["valid"]["loss"] = float("nan")
    path = tmp_path / "both.png"
    assert draw_together(runs, path)
    both = path.read_bytes()
    assert both[1:4] == b"PNG"
    assert draw_together(runs[:1], path)
    assert path.read_bytes() != both


def test_runs_of_one_task_share_panels(tested_run, tmp_path, monkeypatch):
    """The loss of another objective is not drawn over that of CTC."""
    panels = {}
    monkeypatch.setattr(
        Figure,
        "savefig",
        lambda figure, *_, **__: panels.update(
            {axes.get_title(): [line.get_label() for line in axes.lines] for axes in figure.axes}
        ),
    )
    runs = read_runs([tested_run(name, ONE_WRONG, REFERENCES) for name in "ab"])
    own = TaskMetrics("mine", (Metric("loss", better="higher"),))
    draw_together([*runs, replace(runs[1], label="c", task=own)], tmp_path / "all.png")
    assert panels == {
        "CTC: loss, training": ["a", "b"],
        "CTC: loss, validation": ["a", "b"],
        "CTC: greedy WER, validation": ["a", "b"],
        "mine: loss, training": ["c"],
        "mine: loss, validation": ["c"],
    }


def test_nothing_to_draw(tmp_path):
    assert not draw_together([], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
