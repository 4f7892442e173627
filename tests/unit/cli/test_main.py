"""The frame of the command line: help, version, bad calls."""

import sys

import pytest

import speechbrain_pom
from speechbrain_pom.__main__ import COMMANDS, main


def stopped(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return stop.value.code


def test_help_lists_every_command(capsys):
    assert stopped(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    assert stopped([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: ")
    assert f" {name} " in text


def test_version(capsys):
    assert stopped(["--version"]) == 0
    assert capsys.readouterr().out == f"speechbrain-pom {speechbrain_pom.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND ("),
        (["inf"], "argument COMMAND: invalid choice: 'inf'"),
        (["mini-corpus", "out", "--unknown", "1"], "unrecognized arguments: --unknown 1 ("),
        (["mini-corpus", "out", "--see", "1"], "unrecognized arguments: --see 1 ("),
    ],
)
def test_bad_calls_are_one_line(arguments, message, capsys):
    assert stopped(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.endswith(" --help shows the usage)\n")
    assert error.count("\n") == 1


def test_a_fault_of_a_command_keeps_its_traceback(monkeypatch, capsys):
    def faulty(args):
        raise ValueError("operands could not be broadcast together")

    monkeypatch.setattr("speechbrain_pom.cli.info.run", faulty)
    with pytest.raises(ValueError, match="could not be broadcast"):
        main(["info"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["experiments", "replica"])
def test_a_command_that_moved_names_the_new_one(name, capsys):
    assert stopped([name, "run", "small"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: '{name}' has moved: in a checkout, call python -m experiments")
    assert error.count("\n") == 1


def test_only_the_chosen_command_is_imported(monkeypatch):
    for command in COMMANDS.values():
        monkeypatch.delitem(sys.modules, command.module, raising=False)
    assert stopped(["run", "--help"]) == 0
    assert [c.module for c in COMMANDS.values() if c.module in sys.modules] == [
        "speechbrain_pom.cli.run"
    ]
