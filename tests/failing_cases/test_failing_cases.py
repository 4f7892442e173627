"""Each guarantee's tests fail on the behaviour of today: all are recorded, the quick ones run."""

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from behaviours import load_behaviours

HERE = Path(__file__).parent
TESTS = HERE.parent
BEHAVIOURS = load_behaviours()  # importing them changes nothing
QUICK = [case.name for case in BEHAVIOURS.values() if case.quick_tests]
RUN_QUICK = """
import json, behaviours, run
cases = behaviours.load_behaviours().values()
print(json.dumps(run.run_cases(cases, with_slow=False, report=lambda line: None)))
"""


@functools.cache
def functions_in(path):
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_guarantee_has_behaviours():
    assert {case.guarantee for case in BEHAVIOURS.values()} == set(range(1, 17))


@pytest.mark.parametrize("case", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_a_behaviour_says_what_it_is_and_names_tests_that_exist(case):
    assert case.description.endswith(".")
    assert "\n" not in case.description
    for test in case.tests:
        path, name = test.split("::")
        assert name in functions_in(path), test


@pytest.fixture(scope="module")
def outcomes():
    """What became of the quick tests, each behaviour in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", RUN_QUICK],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_the_tests_of_the_guarantee_notice(outcomes, name):
    assert outcomes[name].keys() == set(BEHAVIOURS[name].quick_tests)
    for test, outcome in outcomes[name].items():
        assert outcome["outcome"] == "failed", (test, outcome)


def test_the_record_shows_each_test_fail():
    record = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    assert record["behaviours"].keys() == BEHAVIOURS.keys(), "run tests/failing_cases/run.py"
    for name, case in BEHAVIOURS.items():
        entry = record["behaviours"][name]
        assert (entry["guarantee"], entry["description"]) == (case.guarantee, case.description)
        assert entry["tests"].keys() == set(case.tests)
        for test, outcome in entry["tests"].items():
            assert (outcome["without"], outcome["with"]) == ("passed", "failed"), test
            assert outcome["failure"], test
