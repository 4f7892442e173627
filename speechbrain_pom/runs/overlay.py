"""Overrides of an experiment's YAML, whatever the file has where they lie."""

import io
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TextIO

from ruamel.yaml import YAML

from speechbrain_pom.runs.values import node_tag


def overlay(yaml_path: str | Path, overrides: Mapping) -> tuple[TextIO, dict]:
    """The YAML file as a stream, and the overrides that HyperPyYAML can lay over it.

    HyperPyYAML lays a mapping over a mapping key by key, under the tag that the file has there, and
    fails where the file has a single value or null. Here a mapping takes the place of a single
    value, and one with a tag of its own (`!new:`, `!name:`) that of everything. Both results belong
    to the caller: HyperPyYAML resolves references inside of overrides in place.

    Example
    -------
    >>> from hyperpyyaml import load_hyperpyyaml
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("lr: 0.1\\nrates: null")
    >>> load_hyperpyyaml(*overlay(file, {"lr": 0.5, "rates": {"head": 0.2}}))
    {'lr': 0.5, 'rates': {'head': 0.2}}
    """
    text, left = Path(yaml_path).read_text(encoding="utf-8"), deepcopy(overrides)
    stream = _NamedText(text)
    if any(isinstance(value, Mapping) for value in overrides.values()):  # or nothing is replaced
        tree = YAML().load(text)
        left = _replace(tree, left)
        if left != overrides:
            stream = _NamedText()
            YAML().dump(tree, stream)
            stream.seek(0)
    stream.name = str(yaml_path)
    return stream, left


class _NamedText(io.StringIO):
    """A text with the path of its file, from which HyperPyYAML finds `!include:` files."""

    name = ""


def _replace(tree, overrides):
    """Put what must take the place of a node into the tree; return the other overrides."""
    left = {}
    for key, value in overrides.items():
        if not isinstance(value, Mapping) or key not in tree:
            left[key] = value
        elif node_tag(value) or not isinstance(tree[key], Mapping):
            tree[key] = value
        else:
            left[key] = _replace(tree[key], value)
    return left
