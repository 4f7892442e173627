"""Declared metrics: their checks, texts, the best of several, and their way through a folder."""

import ast
import json
import math
import re

import pytest

from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.objectives.bestrq import METRICS as BESTRQ
from speechbrain_pom.probe.metrics import PROBE_METRICS
from speechbrain_pom.runs.metrics import (
    Metric,
    TaskMetrics,
    read_metrics,
    store_metrics,
)
from speechbrain_pom.runs.record import RUN_FILE
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT

LOSS = Metric("loss", "nats", better="lower")
SCORE = Metric("score", "share", better="higher")
# Where names of metrics may stand: with the tasks that log them, and in the table of 0.1.
OF_TASKS = ("objectives/", "ctc/", "probe/", "downstream/", "training/", "runs/legacy_metrics.py")
EXCEPT = {"loss"}  # of any training, as SpeechBrain's Brain has it


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [
        (LOSS, 1.23456, "1.235 nats"),
        (SCORE, 0.25, "25.0 %"),
        (Metric("wer", "%"), 12.345, "12.35 %"),
        (Metric("codes_in_use", "count"), 171, "171"),
        (Metric("ratio", digits=1), 0.25, "0.2"),
        (LOSS, math.nan, "nan nats"),
    ],
)
def test_texts(metric, value, text):
    assert metric.format(value) == text


def test_what_follows_from_the_unit_and_the_direction():
    assert (SCORE.label, SCORE.axis, SCORE.summary) == ("score", "zero", "course")
    codes = Metric("codes_in_use", "count")
    assert (codes.label, codes.axis, codes.summary) == ("codes in use", "linear", "none")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"better": "low"}, r"metric 'x': better = 'low': give one of \('lower', 'higher', None\)"),
        ({"axis": "square"}, "metric 'x': axis = 'square': give one of"),
        ({"parts": ()}, r"metric 'x': parts = \(\): give some of \('train', 'valid', 'epoch', 'te"),
        ({"parts": ("valid", "dev")}, "metric 'x': parts = .*: give some of"),
    ],
)
def test_wrong_declarations(wrong, message):
    with pytest.raises(UserError, match=message):
        Metric("x", **wrong)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"best": "wer"},
            "mine chooses checkpoints by 'wer', which is no metric of its",
        ),
        ({"best": "size"}, "mine chooses checkpoints by 'size', which has no direction: give its"),
        ({"use": "last"}, "mine: use = 'last': give 'best' or 'newest'"),
    ],
)
def test_wrong_tasks(options, message):
    with pytest.raises(UserError, match=message):
        TaskMetrics("mine", (LOSS, Metric("size")), **options)
    with pytest.raises(UserError, match="mine declares the metric 'loss' of train twice"):
        TaskMetrics("mine", (LOSS, LOSS))


def test_the_best_has_a_direction_and_is_finite():
    stats = [{"loss": 2.0, "score": 0.1}, {"loss": 1.0, "score": 0.2}, {"loss": math.nan}]
    stats[2]["score"] = math.inf
    lower, higher = (TaskMetrics("t", (LOSS, SCORE), best=name) for name in ("loss", "score"))
    assert (lower.best_of(stats), lower.checkpoint_key()) == (1, {"min_key": "loss"})
    assert (higher.best_of(stats), higher.checkpoint_key()) == (1, {"max_key": "score"})
    assert higher.best_of(stats[:1]) == 0
    assert lower.best_of([{"score": 1.0}, {"loss": math.nan}]) is None


def test_results_are_found_at_any_depth():
    found = {"wer": 8.0, "wer_low": 7.5, "wer_high": 8.5, "num_words": 9}
    results = {"test-clean": {"no_lm": found, "lm": {"wer": 6.0}}, "task": "x", "weights": [1.0]}
    tests = dict(CTC_METRICS.find_results(results))
    assert list(tests) == [("test-clean", "without LM"), ("test-clean", "with LM")]
    assert CTC_METRICS.format_results(found) == "WER 8.00 ±0.50 % (7.50 to 8.50), words 9"
    assert CTC_METRICS.format_results({"wer": 6.0}) == "WER 6.00 %"


@pytest.mark.parametrize("task", [CTC_METRICS, PROBE_METRICS])
def test_what_is_stored_is_read(tmp_path, task):
    store_metrics(tmp_path, task)
    assert read_metrics(tmp_path) == task
    written = (tmp_path / RUN_FILE).stat().st_mtime_ns
    store_metrics(tmp_path, task)
    assert (tmp_path / RUN_FILE).stat().st_mtime_ns == written


def test_what_a_later_version_adds_to_metrics_is_passed_over(tmp_path):
    store_metrics(tmp_path, CTC_METRICS)
    stored = json.loads((tmp_path / RUN_FILE).read_text())
    stored["metrics"]["metrics"][0]["colour"] = "red"
    (tmp_path / RUN_FILE).write_text(json.dumps(stored))
    assert read_metrics(tmp_path) == CTC_METRICS


@pytest.mark.parametrize(
    ("logged", "task", "best", "use"),
    [
        (("loss", "accuracy"), "BEST-RQ", "loss", "newest"),
        (("loss", "wer"), "CTC", "wer", "best"),
        (("loss", "error_rate"), "probe", "error_rate", "best"),
        ((), "", "loss", "newest"),
    ],
)
def test_runs_of_0_1_are_known_by_what_they_logged(tmp_path, logged, task, best, use):
    found = read_metrics(tmp_path, logged)
    assert (found.task, found.best, found.use) == (task, best, use)
    assert found == read_metrics(None, logged)


def test_names_of_metrics_stand_with_their_tasks_alone():
    """Curves, summaries, cards and comparisons know what is declared, and no name."""
    declared = (*CTC_METRICS.metrics, *PROBE_METRICS.metrics, *BESTRQ)
    names = {metric.name for metric in declared if metric.unit != "count"} - EXCEPT
    package = ROOT / "speechbrain_pom"
    checked = 0
    for path in sorted(package.rglob("*.py")):
        place = path.relative_to(package).as_posix()
        if place.startswith(OF_TASKS):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if _has_doc(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = set(re.findall(r"\w+", node.value)) if node.value not in docs else set()
                assert not (words & names), f"{place}:{node.lineno}: {words & names}"
        checked += 1
    assert checked > 50


def _has_doc(node):
    return isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
