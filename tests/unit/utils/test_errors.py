"""A bad call is one line on stderr and exit code 2."""

import errno

import pytest

from speechbrain_pom.utils.errors import (
    UserError,
    exit_on_user_error,
    one_line,
    undo_if_refused,
)


def test_bad_call_is_one_line_and_code_2(capsys):
    with pytest.raises(SystemExit) as exit_info, exit_on_user_error():
        raise UserError("no such folder:\n   '/nowhere'")
    assert exit_info.value.code == 2
    assert capsys.readouterr() == ("", "error: no such folder: '/nowhere'\n")


def test_works_as_a_decorator(capsys):
    @exit_on_user_error()
    def main():
        raise UserError("unknown option --lrr")

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: unknown option --lrr\n"


def test_only_the_first_process_prints(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as exit_info, exit_on_user_error():
        raise UserError("bad")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_other_errors_keep_their_traceback(kind, capsys):
    """A `ValueError` of NumPy in the preparation is an error of the program, not of the call."""
    with pytest.raises(kind, match="out of memory"), exit_on_user_error():
        raise kind("out of memory")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyError("Override 'a' not found"), "Override 'a' not found"),
        (ValueError("The structure differs: ", {"a": 1}), "The structure differs: {'a': 1}"),
        (AssertionError(), "AssertionError"),
        (PermissionError(errno.EACCES, "denied", "x"), f"[Errno {errno.EACCES}] denied: 'x'"),
    ],
)
def test_one_line_of_each_kind_of_error(error, line):
    assert one_line(error) == line


@pytest.mark.parametrize(("kind", "code"), [(None, None), (UserError, 2), (RuntimeError, None)])
def test_a_refused_call_is_undone_from_the_end(kind, code):
    """Only a refused one, and only its own steps."""
    undone = []

    def call(*numbers, error=None):
        with exit_on_user_error():
            for number in numbers:
                undo_if_refused(lambda number=number: undone.append(number))
            if error is not None:
                raise error("no")

    if kind is None:
        call(1, 2)
    else:
        with pytest.raises((SystemExit, RuntimeError)):
            call(1, 2, error=kind)
    assert undone == ([2, 1] if code == 2 else [])
    with pytest.raises(SystemExit):
        call(3, error=UserError)
    assert undone == ([2, 1, 3] if code == 2 else [3])
