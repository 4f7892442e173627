"""Keys of an hparams file: the closest name for an unknown one, and keys inside of sections."""

import pydoc
import re
from collections.abc import Iterable
from copy import deepcopy
from difflib import get_close_matches

from speechbrain_pom.attention.hosts import arguments_of
from speechbrain_pom.runs.values import node_tag
from speechbrain_pom.utils.errors import UserError


def unknown_key_message(key: str, known: Iterable[str], prefix: str = "--") -> str:
    """The message for an unknown key, with the closest known one; `prefix` stands before keys.

    Example
    -------
    >>> unknown_key_message("d_modle", ["d_model", "degree"])
    'unknown option --d_modle: did you mean --d_model? (--help lists all)'
    >>> unknown_key_message("x", ["d_model", "degree"])
    'unknown option --x (--help lists all)'
    """
    known = list(known)
    # A prefix counts as close: SpeechBrain silently ignores what looks like an abbreviation.
    close = get_close_matches(key.replace("-", "_"), known, n=1, cutoff=0.6)
    close = close or [name for name in known if name.startswith(key)][:1]
    hint = f": did you mean {prefix}{close[0]}?" if close else ""
    return f"unknown option {prefix}{key}{hint} (--help lists all)"


def located(node: object) -> object:
    """The class or function that a tagged node of an hparams file calls or names, or None.

    Example
    -------
    >>> from ruamel.yaml import YAML
    >>> located(YAML().load("!new:collections.Counter {a: 1}"))
    <class 'collections.Counter'>
    """
    kind, _, name = node_tag(node).partition(":")
    if kind not in ("!new", "!name", "!apply"):
        return None
    try:
        return pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return None


def referred_key(node: object) -> str | None:
    """The top-level key that a node of an hparams file is nothing but a reference to.

    Example
    -------
    >>> from ruamel.yaml import YAML
    >>> referred_key(YAML().load("!ref <lr>")), referred_key(YAML().load("!ref <lr>/2"))
    ('lr', None)
    """
    text = node.value if node_tag(node) in ("!ref", "!copy") else ""
    match = re.fullmatch(r"<([^<>\[\].]+)>", text)
    return match.group(1) if match else None


def find_path(key: str, tree: dict) -> tuple:
    """Where a key of the command line stands in an hparams file: keys and positions from the top.

    It is a top-level key, or one inside of sections, with dots: `Transformer.attention_type`. It
    may be missing there, if the section's class takes an argument of this name, or if the file has
    an empty mapping in its place, which takes any. Items of lists are counted from 0; arguments
    that stand in a list go by their names as well.

    Example
    -------
    >>> from ruamel.yaml import YAML
    >>> find_path("layer.bias", YAML().load("layer: !new:torch.nn.Linear [3, 2, True]"))
    ('layer', 2)
    """
    first, *rest = key.split(".")
    if key in tree or not rest:
        return (key,)
    if first not in tree:
        raise UserError(unknown_key_message(key, [".".join([name, *rest]) for name in tree]))
    path, node = (first,), tree[first]
    for position, part in enumerate(rest):
        if isinstance(node, dict) and not node and not node_tag(node):  # keys of another file
            return (*path, ".".join(rest[position:]))
        is_last = position == len(rest) - 1
        step = _step(node, part, is_last)
        if step is None:
            raise UserError(_no_such_key(key, ".".join(map(str, path)), node, rest[position:]))
        path, node = (*path, step), None if is_last else node[step]
    return path


def _step(node, part, is_last):
    """The key or position of a part of a dotted key, or None."""
    if isinstance(node, dict) and part in node:
        return part
    target = located(node)
    arguments, takes_others = ({}, False) if target is None else arguments_of(target)
    if isinstance(node, dict):
        return part if is_last and (part in arguments or takes_others) else None
    if not isinstance(node, list):
        return None
    position = (
        list(arguments).index(part)
        if part in arguments
        else int(part, 10)
        if part.isdecimal()
        else -1
    )
    return position if 0 <= position < len(node) else None


def _no_such_key(key, section, node, rest):
    """The message for a dotted key that leads nowhere."""
    if node_tag(node) in ("!ref", "!copy"):
        referred = ".".join([node.value.strip("<>"), *rest])
        return f"--{key}: {section} is {node_tag(node)} {node.value}: give --{referred}"
    target = located(node)
    names = [
        *(node if isinstance(node, dict) else ()),
        *(arguments_of(target)[0] if target else ()),
    ]
    if isinstance(node, list) and rest[0] in names:
        return (
            f"--{key}: the arguments of {section} stand in a list without {rest[0]}: write them "
            "into the file as key: value"
        )
    return unknown_key_message(".".join(rest), names, prefix=f"--{section}.")


def check_apart(keys: Iterable[str]) -> None:
    """Refuse a section and a key inside of it on one command line.

    Example
    -------
    >>> check_apart(["Transformer.d_ffn", "Transformer.nhead"])
    """
    keys = sorted(keys)
    for section in keys:
        for key in keys:
            if key.startswith(f"{section}."):
                raise UserError(f"--{section} and --{key} are both given: put them into one")


def put(overrides: dict, tree: dict, path: tuple, value: object) -> None:
    """Set one place (from `find_path`) of nested overrides for HyperPyYAML, in place.

    Example
    -------
    >>> overrides = {}
    >>> put(overrides, {"a": {"b": 1}, "c": [4, 5, 6]}, ("a", "b"), 2)
    >>> put(overrides, {"a": {"b": 1}, "c": [4, 5, 6]}, ("c", 1), 7)
    >>> overrides
    {'a': {'b': 2}, 'c': [4, 7, 6]}
    """
    target, node = overrides, tree
    for step in path[:-1]:
        node = node[step]
        if isinstance(target, dict) and step not in target:
            # HyperPyYAML merges mappings, but a list takes the place of another.
            target[step] = deepcopy(node) if isinstance(node, list) else {}
        target = target[step]
    target[path[-1]] = value
