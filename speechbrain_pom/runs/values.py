"""Values of the command line and of run options, typed."""

import re
import typing

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import HELP_TEXTS, RunOptions

from speechbrain_pom.utils.errors import UserError

# The fields that SpeechBrain's own command line has; it fills in the others itself.
_LIST_OPTIONS = {"jit_module_keys", "compile_module_keys"}
RUN_OPTION_TYPES = {
    name: hint
    for name, hint in typing.get_type_hints(RunOptions).items()
    if name in HELP_TEXTS or name in _LIST_OPTIONS
}
# Mappings of a YAML that hold values for its other keys.
STREAMING = "when_streaming"
VALUES_OF_CASES = ("demo", "corpora", STREAMING)
# Lists of keys in a YAML that are no options; see `speechbrain_pom.runs.configuration`.
NOT_PART_OF_THE_RUN = "_not_part_of_the_run"
MAY_CHANGE = "_may_change"
# Keys of another file, from which the model comes: refused as options, in a line that says so.
OF_THE_ARCHITECTURE = "_of_the_architecture"
# Keys that came after the first runs of a file, with the values that stand for what was before.
ADDED = "_added"
DECLARATIONS = (NOT_PART_OF_THE_RUN, MAY_CHANGE, OF_THE_ARCHITECTURE, ADDED)
_TAG = re.compile(r"!(ref|copy|(new|name|module|apply|applyref|include):\S+)(\s|$)")


def node_tag(node: object) -> str:
    """The HyperPyYAML tag of a value that was read with its tag; empty for plain values.

    Example
    -------
    >>> node_tag(parse_value("!ref <lr>")), node_tag(0.1)
    ('!ref', '')
    """
    return getattr(getattr(node, "tag", None), "value", None) or ""


def parse_value(text: str) -> object:
    """One value of the command line, typed as in a YAML file (YAML 1.2), otherwise verbatim.

    Numbers, booleans and null are recognised; so are flow lists and mappings (`[1, 2]`),
    values in quotes (always a string) and HyperPyYAML's tags (`!ref <key>`). Anything else is
    a string, exactly as given: paths with `=`, `#`, `:` or spaces, and attention specs.

    Example
    -------
    >>> parse_value("1e-3"), parse_value("PoM(degree=3)"), parse_value("'10'")
    (0.001, 'PoM(degree=3)', '10')
    >>> parse_value("/data/a: b #1"), parse_value("[1, 2]")
    ('/data/a: b #1', [1, 2])
    """
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if quoted or text[:1] in ("[", "{") or _TAG.match(text):
        try:
            value = YAML().load(text)
        except (YAMLError, ValueError):
            return text
        return str(value) if quoted else value
    if not re.fullmatch(r"[-+~.\w]+", text):
        return text
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except (YAMLError, ValueError):
        return text
    # Dates stay strings: `2024-01-31` on a command line is the name of a folder.
    return value if value is None or isinstance(value, (bool, int, float)) else text


def typed_run_option(name: str, value: object) -> object:
    """A value of a SpeechBrain run option (text, or from a YAML), checked against its annotation.

    Example
    -------
    >>> typed_run_option("max_grad_norm", "10"), typed_run_option("device", "cuda:1")
    (10.0, 'cuda:1')
    """
    hint = RUN_OPTION_TYPES[name]
    optional = type(None) in typing.get_args(hint)
    if optional:
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    typed = parse_value(value) if isinstance(value, str) else value
    if optional and typed is None:
        return None
    choices = typing.get_args(hint) if typing.get_origin(hint) is typing.Literal else ()
    if choices:
        accepted, wanted = value in choices, "one of " + ", ".join(choices)
    elif typing.get_origin(hint) is list:
        typed = [typed] if isinstance(typed, str) else typed
        accepted = isinstance(typed, list) and all(isinstance(item, str) for item in typed)
        wanted = "a list of names, such as [encoder, head]"
    elif hint is str:
        typed, accepted, wanted = value, isinstance(value, str), "a string"
    elif hint is bool:
        accepted, wanted = isinstance(typed, bool), "True or False"
    else:
        allowed = (int, float) if hint is float else int
        accepted = isinstance(typed, allowed) and not isinstance(typed, bool)
        wanted = "a number" if hint is float else "a whole number"
    if not accepted:
        raise UserError(f"--{name} takes {wanted}" + (" or null" * optional) + f", not '{value}'")
    return hint(typed) if hint in (int, float) else typed
