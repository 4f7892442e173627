"""Imports point one way, and `import speechbrain_pom` loads no more than attention types need."""

import ast
import json
import subprocess
import sys

import pytest

import speechbrain_pom
from tests.helpers import ROOT

# A package imports those of the floors below it; packages of one floor do not know each other.
FLOORS = [
    {"utils", "_version"},
    {"ops", "data"},
    {"nnet"},
    {"attention"},
    {"runs"},
    {"encoder", "training"},
    {"objectives", "ctc", "probe"},
    {"downstream"},
    {"inference"},
    {"hf", "deploy"},
    {"reports"},
    {"cli"},
    {"__main__", "experiments"},
]


def floor_of(package):
    return next((floor for floor, names in enumerate(FLOORS) if package in names), None)


def imported_packages(source):
    """The packages of the project that a module's text imports, at its top or later."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "experiments":
                yield top
            elif top == "speechbrain_pom":
                yield rest.partition(".")[0] or top


def arrows_up(place, source):
    """Imports of a module, by its path in the package without ".py", that do not point down."""
    own = place.partition("/")[0]
    floor = floor_of(own)
    for package in set(imported_packages(source)) - {own}:
        below = floor_of(package)
        if floor is None or below is None or below >= floor:
            yield f"{place} -> {package}"


def modules():
    package = ROOT / "speechbrain_pom"
    for path in package.rglob("*.py"):
        if path != package / "__init__.py":  # it imports what it shows; nothing imports it
            yield path.relative_to(package).with_suffix("").as_posix(), path.read_text("utf-8")
    for path in (ROOT / "experiments").rglob("*.py"):
        yield path.relative_to(ROOT).with_suffix("").as_posix(), path.read_text("utf-8")


def test_imports_point_one_way():
    found = {arrow for place, source in modules() for arrow in arrows_up(place, source)}
    assert found == set()


@pytest.mark.parametrize(
    ("place", "source", "expected"),
    [
        ("ops/blocks", "from speechbrain_pom.nnet import Mamba", ["ops/blocks -> nnet"]),
        ("ctc/text", "def f():\n    import speechbrain_pom.probe.tasks", ["ctc/text -> probe"]),
        ("cli/info", "from speechbrain_pom import __version__", ["cli/info -> __version__"]),
        ("reports/a", "import experiments.table", ["reports/a -> experiments"]),
        ("newcomer/a", "import speechbrain_pom.utils.files", ["newcomer/a -> utils"]),
        ("reports/a", "from speechbrain_pom.ctc import scoring\nimport torch", []),
    ],
)
def test_arrows_up_are_found(place, source, expected):
    assert list(arrows_up(place, source)) == expected


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in (ROOT / "speechbrain_pom").glob("*/__init__.py")}
    assert packages <= set().union(*FLOORS)


LOADED = """
import json, sys
import speechbrain
before = set(sys.modules)
import speechbrain_pom
after = set(sys.modules)
load = speechbrain_pom.load_encoder
print(json.dumps([sorted(after - before), sorted(set(sys.modules) - after)]))
"""


def test_the_import_leaves_out_what_attention_types_do_not_need():
    """SpeechBrain itself imports sentencepiece; ours would be on top of it."""
    command = [sys.executable, "-c", LOADED]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    at_once, later = json.loads(printed.splitlines()[-1])
    heavy = {
        "soundfile",
        "sentencepiece",
        "safetensors",
        "matplotlib",
        "tqdm",
        "transformers",
        "onnx",
    }
    assert heavy & set(at_once) == set()
    assert not [name for name in at_once if name.startswith("speechbrain_pom.inference")]
    assert "speechbrain_pom.attention" in at_once
    assert "soundfile" in later  # and this can fail


def test_names_that_are_imported_late_are_public():
    assert set(speechbrain_pom.__all__) <= set(dir(speechbrain_pom))
    with pytest.raises(AttributeError, match="'speechbrain_pom' has no attribute 'load_decoder'"):
        _ = speechbrain_pom.load_decoder
