"""Put the behaviour of today's SpeechBrain back into the package, one failure at a time.

A pytest plugin: with `-p behaviours --behaviour NAME` (this folder in PYTHONPATH) the package
behaves as NAME says, and the tests of its guarantee have to fail. Each behaviour is a function that
replaces names of the package, where possible by SpeechBrain's own code; its docstring is what
happens today. `sitecustomize.py` carries it into the processes that tests start.
"""

import importlib
import inspect
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

VARIABLE = "BEHAVIOUR_PUT_BACK"  # for processes that tests start
BEHAVIOURS = {}
MODULES = (
    "mutations_data",
    "mutations_models",
    "mutations_runs",
    "mutations_wav2vec2",
    "mutations_streams",
)


@dataclass(frozen=True)
class Behaviour:
    """What is put back, and the tests that must then fail."""

    name: str
    guarantee: int
    quick_tests: tuple  # FILE::FUNCTION under tests/
    slow_tests: tuple  # those that train with recipes
    put_back: object

    @property
    def tests(self):
        """All tests that must fail."""
        return self.quick_tests + self.slow_tests

    @property
    def description(self):
        """What SpeechBrain does, in one line."""
        return inspect.getdoc(self.put_back)


def mutation(guarantee, *tests, slow=()):
    """Register a function that puts a behaviour back, with the tests that must notice it."""

    def register(put_back):
        name = put_back.__name__
        BEHAVIOURS[name] = Behaviour(name, guarantee, tests, slow, put_back)
        return put_back

    return register


def load_behaviours():
    """All behaviours by name, in the order of the guarantees."""
    for module in MODULES:
        importlib.import_module(module)
    return dict(sorted(BEHAVIOURS.items(), key=lambda item: item[1].guarantee))


def replace(module_name, name, make):
    """Replace a function or class in every module of the package that has it under its name.

    `make` gets the original and returns what stands in its place. Modules that are imported later
    take what is there then.
    """
    original = getattr(importlib.import_module(f"speechbrain_pom.{module_name}"), name)
    new = make(original)
    for key, module in list(sys.modules.items()):
        if key.partition(".")[0] == "speechbrain_pom" and getattr(module, name, None) is original:
            setattr(module, name, new)


def put_back(name):
    """Let the package behave as today, in this process and in those that it starts."""
    load_behaviours()[name].put_back()
    os.environ[VARIABLE] = name
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))


def pytest_addoption(parser):
    """The option that chooses a behaviour."""
    parser.addoption("--behaviour", help="what to put back: see the modules mutations_*.py")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config):
    """Before any conftest.py or test module takes names out of the package."""
    name = early_config.known_args_namespace.behaviour
    if name:
        put_back(name)
