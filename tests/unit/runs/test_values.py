"""Typing of values given as text; run options are tested with the command line."""

import pytest

from speechbrain_pom.runs.values import parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2", -2),
        ("1.5", 1.5),
        (".inf", float("inf")),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("'10'", "10"),
        ('"a: b"', "a: b"),
        ("[1, [2, 3], x]", [1, [2, 3], "x"]),
        ("{a: 1, b: {c: 2}}", {"a": 1, "b": {"c": 2}}),
        ("(3, 4)", "(3, 4)"),
    ],
)
def test_values_are_typed_as_in_yaml(text, value):
    parsed = parse_value(text)
    assert parsed == value
    assert isinstance(parsed, type(value))


def test_references_are_tagged_nodes():
    assert parse_value("!ref <lr>").tag.value == "!ref"
    assert parse_value("!name:torch.nn.GELU").tag.value == "!name:torch.nn.GELU"
