#!/usr/bin/env python3
"""Show for each guarantee that its tests fail on the behaviour of today's SpeechBrain.

    python tests/failing_cases/run.py
    python tests/failing_cases/run.py --only left_padding
    python tests/failing_cases/run.py --new

Each test is run as the package is, where it has to pass, and with each behaviour that it should
notice (`mutations_*.py`), where it has to fail in its own body. A full run writes
`results.json`, and `--new` adds the behaviours that it lacks, each with its own date and commit.
The exit code is 0 if all is so, else 1.
"""

import argparse
import importlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import date
from importlib.metadata import version
from pathlib import Path

import behaviours
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# What the tests import of other packages takes a second or two: here once, before the forks.
PRELOADED = ("confidence_intervals", "matplotlib.backends.backend_agg", "torch._dynamo")
LIMIT_S = 600  # of one call of pytest: above it, something hangs
RESULTS = HERE / "results.json"


class Outcomes:
    """A pytest plugin that notes what became of each test function."""

    def __init__(self):
        self.tests = {}

    def pytest_runtest_setup(self, item):
        """Leave out the other parameters of what has failed."""
        if self.tests.get(_name(item.nodeid), {}).get("outcome") == "failed":
            pytest.skip("it has failed with other parameters")

    def pytest_runtest_logreport(self, report):
        name = _name(report.nodeid)
        before = self.tests.get(name, {"outcome": "passed"})
        # Of a parametrised test the first failure counts.
        if before["outcome"] in ("failed", "broken") or (report.passed and name in self.tests):
            return
        self.tests[name] = before if report.passed else self._describe(report)

    def _describe(self, report):
        crash = getattr(report.longrepr, "reprcrash", None)
        if crash is None:
            return {"outcome": "skipped" if report.skipped else "broken"}
        # What fails in a fixture, or in the code that puts a behaviour back, shows nothing.
        in_body = report.when == "call" and Path(crash.path).resolve().parent != HERE
        outcome = "failed" if in_body else "broken"
        return {"outcome": outcome, "failure": first_line(crash.message)}


def _name(nodeid):
    """FILE::FUNCTION under tests/."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def first_line(message):
    """What failed, in one line and without addresses and folders of this machine."""
    lines = [line.strip() for line in message.splitlines() if line.strip(": ")]
    line = lines[0] if lines else message
    # A message of the test stands before what it asserts.
    asserted = [index for index, text in enumerate(lines) if text.startswith("assert ")]
    if asserted:
        line = " ".join(lines[asserted[-1] : asserted[-1] + 2])
        line = f"{lines[0]}: {line}" if asserted[-1] else line
    line = re.sub(r" at 0x[0-9a-f]+", "", line.replace(f"{ROOT}/", ""))
    line = re.sub(r"/[^\s'\"]*?/pytest-\d+/[^\s'\"/]*", "TMP", line)
    return line if len(line) <= 160 else line[:157] + "..."


def call_pytest(tests, behaviour=None):
    """Run tests in a new process, perhaps with a behaviour.

    Forked, as importing everything again would take longer than most tests.

    Returns
    -------
    dict of str to dict
        Outcome of each test function.
    """
    with tempfile.TemporaryDirectory() as folder:
        result, log = Path(folder, "result.json"), Path(folder, "log.txt")
        pid = os.fork()
        if pid == 0:
            _become_pytest(tests, behaviour, result, log)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code not in (0, 1):
            return {test: {"outcome": "broken", "failure": f"pytest: {code}"} for test in tests}
        found = json.loads(result.read_text(encoding="utf-8"))
    missing = {"outcome": "broken", "failure": "there is no such test"}
    return {test: found.get(test, missing) for test in tests}


def _become_pytest(tests, behaviour, result, log):
    code = 3
    try:
        signal.alarm(LIMIT_S)
        stream = os.open(log, os.O_WRONLY | os.O_CREAT)
        for number in (1, 2):
            os.dup2(stream, number)
        os.chdir(ROOT)
        outcomes = Outcomes()
        # Half of the time of a small test goes into these.
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        arguments = ["-p", "no:unraisableexception"]
        arguments += [f"--rootdir={ROOT}", "-p", "no:cacheprovider"]
        arguments += [f"--behaviour={behaviour}"] if behaviour else []
        arguments += [f"tests/{test}" for test in tests]
        code = pytest.main(arguments, plugins=[behaviours, outcomes])
        result.write_text(json.dumps(outcomes.tests), encoding="utf-8")
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run_cases(cases, with_slow=True, report=print):
    """Run the tests of behaviours with them.

    Arguments
    ---------
    cases : iterable of behaviours.Behaviour
    with_slow : bool
        Run also tests that train with recipes.
    report : callable
        Gets one line per behaviour, and one per test.

    Returns
    -------
    dict of str to dict
        For each behaviour the outcome of each test.
    """
    for name in PRELOADED:
        importlib.import_module(name)
    outcomes = {}
    for case in cases:
        tests = case.tests if with_slow else case.quick_tests
        if not tests:
            continue
        start = time.monotonic()
        outcomes[case.name] = call_pytest(tests, case.name)
        noticed = sum(test["outcome"] == "failed" for test in outcomes[case.name].values())
        seconds = time.monotonic() - start
        report(
            f"{case.guarantee:2} {case.name:40} {noticed} of {len(tests)} tests fail"
            f" ({seconds:.1f} s)"
        )
        for name, test in outcomes[case.name].items():
            report(f"   {test['outcome']}: {name}: {test.get('failure', '')}")
    return outcomes


def _git(*arguments):
    result = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return result.stdout.strip()


def make_record(cases, plain, outcomes):
    """What is kept of a full run."""
    changed = _git("status", "--porcelain", "-uno", "--", "speechbrain_pom", "recipes", "tests")
    return {
        "command": "python tests/failing_cases/run.py",
        "date": date.today().isoformat(),
        "commit": _git("rev-parse", "HEAD") + ("+changes" if changed else ""),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "speechbrain", "pytest")},
        },
        "behaviours": {
            case.name: {
                "guarantee": case.guarantee,
                "description": case.description,
                "tests": {
                    test: {
                        "without": plain[test]["outcome"],
                        "with": outcomes[case.name][test]["outcome"],
                        "failure": outcomes[case.name][test].get("failure"),
                    }
                    for test in case.tests
                },
            }
            for case in cases
        },
    }


def with_new(record, new):
    """A record with the behaviours of another run added, in the order of the guarantees."""
    facts = {key: new[key] for key in ("date", "commit")}
    added = {name: {**entry, **facts} for name, entry in new["behaviours"].items()}
    merged = {**record["behaviours"], **added}
    ordered = {name: merged[name] for name in behaviours.load_behaviours()}
    return {**record, "behaviours": ordered}


def unrecorded(cases, record):
    """The behaviours that a record lacks, or has with other tests or another description."""

    def known(case):
        entry = record["behaviours"].get(case.name, {})
        tests = set(entry.get("tests", ()))
        return entry.get("description") == case.description and tests == set(case.tests)

    return [case for case in cases if not known(case)]


def main():
    """Run all behaviours, or some."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="one behaviour; nothing is written")
    parser.add_argument(
        "--quick", action="store_true", help="no tests that train with recipes; nothing is written"
    )
    parser.add_argument("--new", action="store_true", help="add what results.json lacks to it")
    options = parser.parse_args()
    known = behaviours.load_behaviours()
    if options.only and options.only not in known:
        parser.error(f"no behaviour {options.only!r}: choose one of {', '.join(known)}")
    cases = [known[options.only]] if options.only else list(known.values())
    record = json.loads(RESULTS.read_text(encoding="utf-8")) if options.new else None
    if options.new:
        cases = unrecorded(cases, record)
    outcomes = run_cases(cases, with_slow=not options.quick)
    tests = list(dict.fromkeys(test for found in outcomes.values() for test in found))
    print(f"   {len(tests)} tests as the package is ...", flush=True)
    plain = call_pytest(tests)
    for test in tests:
        if plain[test]["outcome"] != "passed":
            print(f"   {plain[test]['outcome']}: {test}: {plain[test].get('failure', '')}")
    good = all(test["outcome"] == "passed" for test in plain.values()) and all(
        test["outcome"] == "failed" for found in outcomes.values() for test in found.values()
    )
    print("every behaviour is noticed" if good else "NOT every behaviour is noticed")
    if not (options.only or options.quick):
        new = make_record(cases, plain, outcomes)
        record = with_new(record, new) if options.new else new
        RESULTS.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"  # read when PyTorch is imported
    sys.stdout.reconfigure(line_buffering=True)
    sys.exit(main())
