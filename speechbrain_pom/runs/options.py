"""The command line of a recipe: `python train.py experiment.yaml [--key value ...]`.

SpeechBrain's own parser joins and splits the arguments at every `=`, accepts abbreviations
without using them, and leaves some run options untyped. Here values are kept verbatim, keys
are exact, and every value has the type of its option.
"""

import copy
import functools
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import HELP_TEXTS

from speechbrain_pom.runs.keys import find_path, unknown_key_message
from speechbrain_pom.runs.sections import ATTENTION, nested_overrides
from speechbrain_pom.runs.values import (
    DECLARATIONS,
    OF_THE_ARCHITECTURE,
    RUN_OPTION_TYPES,
    VALUES_OF_CASES,
    node_tag,
    parse_value,
    typed_run_option,
)
from speechbrain_pom.utils.errors import UserError, one_line


@dataclass(frozen=True)
class RunRequest:
    """What the command line asks for.

    Arguments
    ---------
    yaml_path : Path
        The experiment.
    overrides : dict
        Keys of the YAML that were given, with typed values; keys of sections in mappings.
    run_options : dict
        SpeechBrain's run options that were given (and no others), with typed values. A run
        option that is also a key of the YAML stands in both.
    command : tuple of str
        The program and its arguments.
    """

    yaml_path: Path
    overrides: dict = field(default_factory=dict)
    run_options: dict = field(default_factory=dict)
    command: tuple = ()


def read_tree(yaml_path: str | Path) -> dict:
    """The YAML file as a tree with its tags, nothing resolved or built.

    Example
    -------
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("lr: 0.1\\nname: !ref <lr>")
    >>> list(read_tree(file))
    ['lr', 'name']
    """
    path = Path(yaml_path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give the experiment's YAML file")
    if not path.is_file():
        raise UserError(f"no such experiment file: '{path}'")
    try:
        tree = copy.deepcopy(_parse(path.read_text(encoding="utf-8"), str(path)))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {one_line(error)}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path} has no keys: an experiment is a mapping of key: value")
    return tree


@functools.lru_cache(maxsize=32)
def _parse(text, name):
    """For a file that is read several times, as in a start, and for each row of a table."""
    stream = io.StringIO(text)
    stream.name = name  # for the messages of errors
    return YAML().load(stream)


def _split(arguments):
    """Pairs (key, text of the value or None) from `--key value`, `--key=value` and flags."""
    pairs, position = [], 0
    while position < len(arguments):
        argument = arguments[position]
        if not re.match(r"--\w", argument):
            previous = f" after --{pairs[-1][0]}" if pairs else ""
            raise UserError(
                f"unexpected argument '{argument}'{previous}: options are --key value, "
                "and a value with spaces needs quotes"
            )
        key, equals, value = argument[2:].partition("=")
        position += 1
        if not equals:
            value = None
            if position < len(arguments) and not arguments[position].startswith("--"):
                value = arguments[position]
                position += 1
        pairs.append((key, value))
    return pairs


def _check_given(key, value, seen):
    if key in seen:
        raise UserError(f"--{key} is given twice: '{seen[key]}' and '{value}'")
    if value == "":
        raise UserError(
            f"--{key} has an empty value (an unset shell variable?): leave it out or give null"
        )
    if value is None and RUN_OPTION_TYPES.get(key) is not bool:
        raise UserError(f"--{key} needs a value: --{key} VALUE or --{key}=VALUE")


def _check_kind(key, current, value, text):
    """A number stays a number and a switch a switch; references decide by themselves."""
    if value is None or node_tag(value):
        return
    if isinstance(current, bool):
        accepted, wanted = isinstance(value, bool), "True or False"
    elif isinstance(current, (int, float)):
        accepted = isinstance(value, (int, float)) and not isinstance(value, bool)
        wanted = "a number"
    else:
        return
    if not accepted:
        raise UserError(f"--{key} takes {wanted} (the YAML has {current}), not '{text}'")


def _sort_options(pairs, tree):
    values, run_options, seen = {}, {}, {}
    for key, text in pairs:
        if key == "demo":
            raise UserError("--demo is no option: the demo runs when --data_folder is left out")
        if key.split(".")[0] in tree.get(OF_THE_ARCHITECTURE, ()):
            raise UserError(_architecture_message(key, text))
        keys = [name for name in tree if name not in DECLARATIONS]
        is_key = key in keys or key == ATTENTION or key.split(".")[0] in keys
        if not is_key and key not in RUN_OPTION_TYPES:
            raise UserError(unknown_key_message(key, [*keys, *RUN_OPTION_TYPES]))
        _check_given(key, text, seen)
        seen[key] = text
        if key in RUN_OPTION_TYPES:
            run_options[key] = typed_run_option(key, True if text is None else text)
        if is_key:
            value = run_options[key] if key in run_options else parse_value(text)
            _check_kind(key, _current(key, tree), value, text)
            values[key] = value
    return nested_overrides(tree, values), run_options


def _architecture_message(key, text):
    return (
        f"--{key} is a key of the encoder's architecture, which comes from --pretrained; from "
        "scratch give --pretrained null --architecture hparams/pom.yaml "
        f"--architecture_overrides '{{{key}: {text}}}'"
    )


def _current(key, tree):
    """The value that a key has in the file, None where it is left to a default."""
    node = tree
    for step in find_path(key, tree):
        is_there = step in node if isinstance(node, dict) else True
        node = node[step] if is_there else None
    return node


def parse_command_line(argv: list[str] | None = None) -> RunRequest:
    """Read a recipe's command line: the YAML first, then `--key value` or `--key=value`.

    A key is a top-level key of the YAML, one inside of a section (`--Transformer.d_ffn`),
    `attention_type` for all encoders, or a run option of SpeechBrain, written in full.
    Boolean run options also work as flags (`--debug`). With `--help` the usage, the YAML's
    opening comment and all options are printed, and the program ends. `argv` are the arguments
    without the program; those of this process by default.

    Example
    -------
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("attention_type: PoM\\nlr: 0.001")
    >>> request = parse_command_line([str(file), "--attention_type=PoM(degree=3)", "--debug"])
    >>> request.overrides, request.run_options
    ({'attention_type': 'PoM(degree=3)'}, {'debug': True})
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    program = sys.argv[0]
    usage = f"usage: python {program} YAML [--key value ...]"
    wants_help = any(argument in ("-h", "--help") for argument in arguments)
    first = arguments[0] if arguments else None
    if wants_help and first.startswith("-"):
        print(f"{usage}\n\nWith a YAML, --help lists its options.")
        raise SystemExit(0)
    if first is None or first.startswith("-"):
        given = "nothing" if first is None else f"'{first}'"
        raise UserError(f"the first argument is the experiment's YAML, not {given}; {usage}")
    tree = read_tree(first)
    if wants_help:
        print(_help_text(usage, first, tree))
        raise SystemExit(0)
    overrides, run_options = _sort_options(_split(arguments[1:]), tree)
    return RunRequest(Path(first), overrides, run_options, (program, *arguments))


def _help_text(usage, yaml_path, tree):
    """Usage, the YAML's opening comment, its keys with their values, the run options."""
    comment = []
    for line in Path(yaml_path).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("#").removeprefix(" "))
    keys = [key for key in tree if key not in VALUES_OF_CASES and not key.startswith("_")]
    width = max(map(len, [*keys, *RUN_OPTION_TYPES])) + 2
    lines = [usage, "", *comment, "", f"Keys of {yaml_path}, with their values:"]
    lines += [f"  --{key:{width}}{_source_text(tree[key])}" for key in keys]
    lines += ["", "Run options of SpeechBrain:"]
    lines += [f"  --{name:{width}}{_first_sentence(name)}" for name in RUN_OPTION_TYPES]
    return "\n".join(line.rstrip() for line in lines)


def _first_sentence(name):
    return HELP_TEXTS.get(name, "A list of keys of `modules`.").split(". ")[0]


def _source_text(node):
    """A value in short, as it stands in the file."""
    tag = node_tag(node)
    if isinstance(node, dict):
        return f"{tag} {{{', '.join(map(str, node))}}}".strip()
    if isinstance(node, list):
        return f"{tag} [{', '.join(map(_source_text, node))}]".strip()
    value = node.value if tag else node
    return f"{tag} {'null' if value is None else value}".strip()
