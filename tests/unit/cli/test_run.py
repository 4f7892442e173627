"""`run` starts a script as `python SCRIPT` would."""

import json
import subprocess
import sys

import pytest

from speechbrain_pom.__main__ import main

SCRIPT = """\
import json, sys
import neighbour
facts = {
    "name": __name__, "file": __file__, "argv": sys.argv, "path0": sys.path[0],
    "main": sys.modules["__main__"].__dict__ is globals(), "neighbour": neighbour.VALUE,
}
print(json.dumps(facts))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe" / "neighbour.py").write_text("VALUE = 7\n")
    (tmp_path / "recipe" / "train.py").write_text(SCRIPT)
    (tmp_path / "x.yaml").write_text("a: 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["speechbrain-pom"])
    monkeypatch.setattr(sys, "path", ["elsewhere", *sys.path])
    monkeypatch.delitem(sys.modules, "neighbour", raising=False)
    return tmp_path


def test_script_sees_what_python_gives_it(folder, capsys):
    arguments = ["--a=PoM(degree=3)", "--help", "--", "b c", "--json"]
    assert main(["run", "recipe/train.py", "x.yaml", *arguments]) == 0
    seen = json.loads(capsys.readouterr().out)
    command = [sys.executable, "recipe/train.py", "x.yaml", *arguments]
    expected = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    expected["argv"][0] = str(folder / "recipe" / "train.py")
    assert seen == expected
    assert seen["main"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.py", "x.yaml"], "no such recipe: 'nothing.py'"),
        (["recipe", "x.yaml"], "'recipe' is a folder: give the recipe, as in `run train.py"),
        (["recipe/train.py", "y.yaml"], "no such hparams file: 'y.yaml'"),
        (["recipe/train.py", "--a=1"], "the following arguments are required: YAML ("),
        (["recipe/train.py"], "the following arguments are required: YAML ("),
        ([], "the following arguments are required: SCRIPT, YAML ("),
    ],
)
def test_bad_calls(folder, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["run", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("code", ["3", "0", "'a message'"])
def test_exit_codes_pass_through(folder, code):
    (folder / "stop.py").write_text(f"import sys\nsys.exit({code})\n")
    with pytest.raises(SystemExit) as stop:
        main(["run", "stop.py", "x.yaml"])
    assert repr(stop.value.code) == code


def test_exceptions_pass_through(folder):
    """Also those that would be a bad call in our own code."""
    (folder / "fail.py").write_text("raise ValueError('the loss is not finite')\n")
    with pytest.raises(ValueError, match="the loss is not finite"):
        main(["run", "fail.py", "x.yaml"])
