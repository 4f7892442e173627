"""SpeechBrain's command line, with values kept as given.

SpeechBrain 1.1 joins the options that are no run options of its own into a YAML text, after
splitting them at every `=`, and reads quotes, `#` and `: ` of a value as YAML. It also accepts
abbreviations of its run options, which then count as not given, and leaves the type of some out.
"""

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO

from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import DoubleQuotedScalarString
from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.runs.options import RUN_OPTION_TYPES, parse_value, read_tree
from speechbrain_pom.runs.sections import nested_overrides
from speechbrain_pom.utils.errors import UserError, exit_on_user_error


def overrides_to_yaml(arguments: list[str], tree: dict | None = None) -> str:
    """The overrides of an hparams file as YAML text, each value as the user wrote it.

    Arguments are `--key value`, `--key=value`, or `--key` for null. Several values after a key are
    joined with spaces, as SpeechBrain does. With the tree of the file (`read_tree`), a key may be
    inside sections (`--Transformer.d_ffn`), and `--attention_type` reaches every encoder.
    Numbers, booleans, null, flow lists and mappings, and HyperPyYAML's tags stay YAML; anything
    else is a quoted string.

    >>> print(overrides_to_yaml(["--attention_type", "PoM(degree=3)", "--lr=0.1"]))
    attention_type: "PoM(degree=3)"
    lr: 0.1
    >>> print(overrides_to_yaml(["--model.size=3"], {"model": {"size": 2, "depth": 4}}))
    model:
      size: 3
    """
    texts = {}
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            if key in texts:
                raise UserError(f"--{key} is given twice: write it once")
            texts[key] = [value] if equals else []
        elif texts:
            texts[key].append(argument)
        else:
            raise UserError(f"unexpected argument {argument!r}: overrides are --key value")
    values = {key: _value(parts) for key, parts in texts.items()}
    return _dump(values if tree is None else nested_overrides(tree, values))


def _value(parts):
    value = parse_value(" ".join(parts)) if parts else None
    return DoubleQuotedScalarString(value) if isinstance(value, str) else value


def _dump(overrides):
    yaml, stream = YAML(), StringIO()
    yaml.width = float("inf")  # a long value stays on its line
    yaml.dump(overrides, stream)
    return stream.getvalue().strip() if overrides else ""


@contextmanager
def verbatim_command_line() -> Iterator[None]:
    """Context manager: `speechbrain.parse_arguments` keeps values, and takes no abbreviations.

    Inside, an option that is not exactly one of SpeechBrain's run options is an override of the
    hparams file (see `overrides_to_yaml`), and `--optimizer_step_limit` is a number. Two functions
    of SpeechBrain's `RunOptions` are replaced for the time; `sys.argv` stays as it is.

    Example
    -------
    >>> import speechbrain
    >>> with verbatim_command_line():
    ...     _, _, overrides = speechbrain.parse_arguments(["x.yaml", "--spec=PoM(degree=3)"])
    >>> overrides
    'spec: "PoM(degree=3)"'
    """
    originals = {name: vars(RunOptions)[name] for name in ("_create_parser", "_convert_to_yaml")}
    create_parser = RunOptions._create_parser

    def create_exact_parser():
        parser = create_parser()
        parser.allow_abbrev = False
        for action in parser._actions:
            if RUN_OPTION_TYPES.get(action.dest) == (int | None):
                action.type = int
        parser.parse_known_args = functools.partial(_parse_known_args, parser.parse_known_args)
        return parser

    RunOptions._create_parser = staticmethod(create_exact_parser)
    RunOptions._convert_to_yaml = staticmethod(lambda text: text)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(RunOptions, name, original)


@exit_on_user_error()
def _parse_known_args(original, arguments):
    """SpeechBrain's run options, and what is left as YAML text for the file among them."""
    options, overrides = original(arguments)
    # A file that is missing is for the recipe to report.
    tree = read_tree(options.param_file) if os.path.isfile(options.param_file) else None
    return options, overrides_to_yaml(overrides, tree)
