"""Commands as documents show them: whether what they name exists, without running them."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from experiments import __main__ as experiments
from experiments.commands import build_commands
from experiments.downstream import __main__ as downstream
from experiments.downstream.protocols import find_protocol as find_downstream
from experiments.replica import __main__ as replica
from experiments.replica.protocols import find_protocol
from experiments.table import find_row
from speechbrain_pom.__main__ import COMMANDS, build_parser
from speechbrain_pom.attention import parse_spec
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.runs.sections import nested_overrides
from tests.helpers import ROOT

# A recipe and an hparams file of the reader, as the documents call them.
FOREIGN = ("train.py", "hparams/conformer.yaml")
# Files of SpeechBrain's LibriSpeech recipe, and those of the tests with the same keys.
LIKE = {"conformer_small": "conformer", "conformer_large": "conformer"}
LIKE |= {"branchformer_large": "branchformer"}
LIKE = {
    f"hparams/{name}.yaml": ROOT / f"tests/data/asr_recipe/{ours}.yaml"
    for name, ours in LIKE.items()
}


@pytest.fixture
def check_command(monkeypatch):
    """Function of a command line: raises when a file, target, option or spec does not exist."""
    monkeypatch.chdir(ROOT)
    return _check


def _check(line):
    words = shlex.split(line, comments=True)
    if not words:
        return
    if "|" in words:  # each program of a pipe
        place = words.index("|")
        _check(shlex.join(words[:place]))
        words = words[place + 1 :]
    program = Path(words[0]).name
    known = {
        "hf": _elsewhere,
        "make": _make,
        "python": _python,
        "torchrun": _torchrun,
        "ffmpeg": _elsewhere,
    }
    assert program in known, f"no check for {line!r}"
    known[program](words[1:])


def _elsewhere(words):
    """A program of others: its options are theirs."""


def _make(words):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {word for word in words if "=" not in word} <= targets, words


def _torchrun(words):
    args = get_args_parser().parse_args(words)  # exits for an unknown option of torchrun
    script = [args.training_script, *args.training_script_args]
    _python(["-m", *script] if args.module else script)


def _python(words):
    if words[0] != "-m":
        _script(words)
    elif words[1] == "pip":
        _pip(words[2:])
    elif words[1] == "pytest":
        assert all(Path(word).exists() for word in words[2:] if not word.startswith("-")), words
    elif words[1] == "experiments":
        args, unknown = experiments.build_parser().parse_known_args(words[2:])
        assert not unknown or args.action in ("show", "run"), words
        if args.action in ("show", "run"):
            build_commands(find_row(args.name), unknown, args.nproc)
    elif words[1] == "experiments.replica":
        for name in replica.build_parser().parse_args(words[2:]).names:
            find_protocol(name)
    elif words[1] == "experiments.downstream":
        find_downstream(downstream.build_parser().parse_args(words[2:]).name)
    else:
        assert words[1] == "speechbrain_pom", words
        _subcommand(words[2:])


def _script(words):
    script, arguments = Path(words[0]), words[1:]
    assert script.is_file(), script
    if not any(word.endswith(".yaml") for word in arguments):
        options = {word for word in arguments if word.startswith("--")}
        text = script.read_text()
        assert all(f'"{option}"' in text for option in options), words
    elif "--help" not in arguments:
        _overrides(arguments)
    else:
        assert Path(arguments[0]).is_file(), words


def _overrides(words):
    """An hparams file of ours with overrides: keys, kinds of values, attention specs."""
    overrides, tree = parse_command_line(words).overrides, read_tree(words[0])
    if "attention_type" not in tree:  # its encoder is loaded
        return
    num_layers = overrides.get("num_encoder_layers", tree["num_encoder_layers"])
    parse_spec(overrides.get("attention_type", tree["attention_type"]), num_layers)


def _foreign_overrides(words, yaml):
    """A file of SpeechBrain with overrides, by the file of the tests that has its keys."""
    tree = read_tree(LIKE[yaml])
    values = dict(zip(words[::2], words[1::2], strict=True))
    for option, value in values.items():
        assert option.startswith("--"), words
        is_spec = option.endswith("attention_type")
        assert is_spec or "." in option or option[2:] in tree, option
        if is_spec:
            parse_spec(value, tree["num_encoder_layers"])
    nested_overrides(tree, {option[2:]: value for option, value in values.items()})


def _pip(words):
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = set(re.findall(r"\w+", "".join(re.findall(r"\[(.*?)\]", " ".join(words)))))
    assert extras <= set(config["options.extras_require"]), words


def _subcommand(words):
    name = words[0]
    if name in ("run", "info") and LIKE.keys() & set(words):
        _foreign_overrides(words[2:] if name == "info" else words[3:], *LIKE.keys() & set(words))
        assert name == "info" or words[1] == FOREIGN[0], words
        return
    if name == "run":
        assert tuple(words[1:3]) == FOREIGN, words
        (option,) = [word for word in words if word.endswith("attention_type")]
        spec = words[words.index(option) + 1]
        parse_spec(spec, 12)
        return
    _, unknown = build_parser(name).parse_known_args(words)
    if COMMANDS[name].takes_overrides:
        yaml = [word for word in words if word.endswith(".yaml")]
        assert yaml or not unknown, words
        if yaml:
            _overrides([*yaml, *unknown])
    else:
        assert not unknown, words
