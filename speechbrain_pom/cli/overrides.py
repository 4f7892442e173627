"""SpeechBrain's command line, with values kept as they were given.

SpeechBrain 1.1 joins the options that are no run options of its own into a YAML text, after
splitting them at every `=`, and reads quotes, `#` and `: ` of a value as YAML. It also accepts
abbreviations of its run options, which then count as not given, and leaves the type of some out.
"""

import json
from contextlib import contextmanager

from speechbrain.utils.run_opts import RunOptions

from speechbrain_pom.errors import UserError, exit_on_user_error
from speechbrain_pom.training.options import RUN_OPTION_TYPES, parse_value


def overrides_to_yaml(arguments):
    """The overrides of an hparams file as YAML text, each value as the user wrote it.

    Arguments
    ---------
    arguments : list of str
        `--key value`, `--key=value`, or `--key` for null. Several values after a key are joined
        with spaces, as SpeechBrain does.

    Returns
    -------
    str
        One line per key. Numbers, booleans, null, flow lists and mappings, and HyperPyYAML's tags
        stay YAML; anything else is a quoted string.

    Raises
    ------
    UserError
        For a value without a key.

    Example
    -------
    >>> print(overrides_to_yaml(["--attention_type", "PoM(degree=3)", "--lr=1e-3"]))
    attention_type: "PoM(degree=3)"
    lr: 1e-3
    """
    values = []
    for argument in arguments:
        if argument.startswith("--"):
            key, equals, value = argument[2:].partition("=")
            values.append((key, [value] if equals else []))
        elif values:
            values[-1][1].append(argument)
        else:
            raise UserError(f"unexpected argument {argument!r}: overrides are --key value")
    return "\n".join(f"{key}: {_yaml_text(texts)}" for key, texts in values)


def _yaml_text(texts):
    if not texts:
        return "null"
    text = " ".join(texts)
    value = parse_value(text)
    # A JSON string is a double-quoted YAML scalar.
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else text


@contextmanager
def verbatim_command_line():
    """Context manager: `speechbrain.parse_arguments` keeps values, and takes no abbreviations.

    Inside, an option that is not exactly one of SpeechBrain's run options is an override of the
    hparams file, and `--optimizer_step_limit` is a number. Two functions of SpeechBrain's
    `RunOptions` are replaced for the time; `sys.argv` stays as it is.

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
        return parser

    RunOptions._create_parser = staticmethod(create_exact_parser)
    RunOptions._convert_to_yaml = staticmethod(exit_on_user_error()(overrides_to_yaml))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(RunOptions, name, original)
