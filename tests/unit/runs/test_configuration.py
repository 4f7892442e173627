"""What a run computes, and which keys of its YAML have a part in that."""

import re

import pytest

from speechbrain_pom.runs.configuration import configuration, fixed_configuration, roles_of_keys
from speechbrain_pom.runs.experiment import load_experiment
from speechbrain_pom.runs.options import RunRequest, parse_command_line
from speechbrain_pom.utils.errors import UserError

TOY = """
seed: 1
output_folder: out
my_cache: /tmp
my_length: 3
number_of_epochs: 2
num_workers: 4
optimizer_step_limit: null
"""
ROLES = "_not_part_of_the_run: [my_cache]\n_may_change: [my_length]\n"


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY + ROLES, encoding="utf-8")
    return path


def load(path, **overrides):
    return load_experiment(RunRequest(path, overrides))


def test_the_yaml_says_what_each_key_is(toy):
    assert configuration(load(toy), 1) == {
        "seed": "1",
        "my_length": "3",
        "number_of_epochs": "2",
        "num_workers": "4",
        "optimizer_step_limit": "null",
        "processes": "1",
    }
    assert fixed_configuration(load(toy), 1) == {
        "seed": "1",
        "number_of_epochs": "2",
        "num_workers": "4",
        "processes": "1",
    }


def test_a_yaml_that_says_nothing_is_read_as_in_version_0_1(toy):
    toy.write_text(TOY, encoding="utf-8")
    fixed = fixed_configuration(load(toy), 1)
    assert fixed == {"seed": "1", "my_cache": "/tmp", "my_length": "3", "processes": "1"}


def test_one_list_is_enough(toy):
    toy.write_text(TOY + "_may_change: [my_length]\n", encoding="utf-8")
    assert "my_length" not in fixed_configuration(load(toy), 1)
    assert "num_workers" in fixed_configuration(load(toy), 1)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            "_may_change: [my_lenght]",
            "in _may_change: unknown option my_lenght: did you mean my",
        ),
        ("_may_change: my_length", "_may_change is a list of keys of the file, not 'my_length'"),
        ("_not_part_of_the_run: {my_cache: 1}", "_not_part_of_the_run is a list of keys of the f"),
        ("_not_part_of_the_run: [7]", "in _not_part_of_the_run: unknown option 7"),
    ],
)
def test_lists_that_cannot_be_meant_are_refused(toy, lists, message):
    toy.write_text(f"{TOY}{lists}\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        roles_of_keys(toy)
    assert str(caught.value).startswith(f"{toy}")
    assert message in str(caught.value)


def test_run_options_may_be_named(toy):
    toy.write_text(f"{TOY}_may_change: [grad_accumulation_factor]\n", encoding="utf-8")
    assert "grad_accumulation_factor" in roles_of_keys(toy).may_change


def test_the_lists_are_no_options(toy, capsys):
    for key in ("_may_change", "_not_part_of_the_run", "_added"):
        with pytest.raises(UserError, match=f"unknown option --{key}"):
            parse_command_line([str(toy), f"--{key}=[seed]"])
    with pytest.raises(SystemExit):
        parse_command_line([str(toy), "--help"])
    assert "_may_change" not in capsys.readouterr().out


ADDED = """
switch: False
chunk: [8, 32]
floor: high
part: !name:collections.Counter
    size: 3
    floor: !ref <floor>
_added: {switch: False, chunk: [8, 32], floor: high}
"""
BEFORE = """
part: !name:collections.Counter
    size: 3
"""


def test_keys_that_came_later_count_where_they_change_something(toy):
    """A run that was begun without them is the run of today's file with their values."""
    toy.write_text(TOY + ROLES + BEFORE, encoding="utf-8")
    before = configuration(load(toy), 1)
    toy.write_text(TOY + ROLES + ADDED, encoding="utf-8")
    assert configuration(load(toy), 1) == before
    changed = configuration(load(toy, chunk=[8, 16], floor="low"), 1)
    assert changed == {
        **before,
        "chunk": "[8, 16]",
        "floor": "low",
        "part": "!name:collections.Counter {size: 3, floor: low}",
    }


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("_added: [chunk]", "_added is a mapping of keys of the file to values"),
        ("_added: {chunck: 1}", "in _added: unknown option chunck: did you mean chunk?"),
    ],
)
def test_added_keys_that_cannot_be_meant_are_refused(toy, added, message):
    toy.write_text(f"{TOY}{ROLES}chunk: 1\n{added}\n", encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        configuration(load(toy), 1)
    assert str(caught.value).startswith(f"{toy}")
