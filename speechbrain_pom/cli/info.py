"""`info`: the attention types; or what an hparams file builds, part by part, layer by layer."""

import inspect
import json
from itertools import groupby

from speechbrain_pom.attention import attention_types
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.encoder.describe import GROUPS, describe_models
from speechbrain_pom.runs.building import build_models
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom info
  python -m speechbrain_pom info hparams/conformer.yaml --attention_type "PoM(degree=3)"

Overrides are those of `run`, keys of sections such as --Transformer.attention_type included; run
options of SpeechBrain change nothing. All that is shown was built."""


def add_arguments(parser):
    """Add the arguments of `info`; overrides are collected by the caller.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    parser.usage = f"{parser.prog} [--help] [--json] [YAML [--key value ...]]"
    parser.add_argument("yaml", metavar="YAML", nargs="?", help="an hparams file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args):
    """Print the attention types, or the models of an hparams file.

    Arguments
    ---------
    args : argparse.Namespace
        With yaml (or None), json and overrides.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        For a bad call; see `build_models`.
    """
    if args.yaml is None:
        if args.overrides:
            raise UserError(f"{args.overrides[0]}: overrides come after the YAML that they are for")
        report, text = {"attention_types": list_types()}, format_types
    else:
        report, text = model_report(args.yaml, args.overrides), format_models
    print(json.dumps(report, indent=2, default=str) if args.json else text(report))
    return 0


def list_types():
    """The attention types with their options.

    Returns
    -------
    list of dict
        name, description, builtin (SpeechBrain's own), options (list of name and, unless the
        option is required, default).
    """
    types = []
    for name, description in attention_types().items():
        builtin = name in BUILTIN_TYPES
        options = [] if builtin else _options(get_type(name))
        types.append(
            {"name": name, "description": description, "builtin": builtin, "options": options}
        )
    return types


def _options(kind):
    parameters = inspect.signature(kind.factory).parameters
    defaults = ((name, parameters[name].default) for name in kind.option_names)
    required = inspect.Parameter.empty
    return [
        {"name": name} if default is required else {"name": name, "default": default}
        for name, default in defaults
    ]


def format_types(report):
    """The attention types as text.

    Arguments
    ---------
    report : dict
        attention_types from `list_types`.

    Returns
    -------
    str
    """
    types = report["attention_types"]
    width = max(len(kind["name"]) for kind in types) + 2
    lines = ["attention types (attention_type: a name, with options, or per layer, bottom first:"]
    lines += ["RelPosMHAXL*4 + PoM(degree=3)*8 for 12 layers)", ""]
    for kind in types:
        lines.append(f"  {kind['name']:{width}}{kind['description']}")
        options = ", ".join(
            f"{option['name']}={option['default']!r}" if "default" in option else option["name"]
            for option in kind["options"]
        )
        if options:
            lines.append(f"  {'':{width}}options: {options}")
    return "\n".join(lines)


def model_report(yaml_path, overrides=()):
    """What an hparams file builds.

    Arguments
    ---------
    yaml_path : str
        The hparams file.
    overrides : list of str
        As on a recipe's command line.

    Returns
    -------
    dict
        yaml, left_out (name and reason of what needs a package that is not installed), and what
        `describe_models` gives: all of what was built, nothing of what the file asks for.

    Raises
    ------
    ValueError
        When it cannot be built, builds no parameters, or an override is wrong.
    """
    request = parse_command_line([yaml_path, *overrides])
    hparams, left_out = build_models(request.yaml_path, request.overrides)
    summary = describe_models(hparams)
    if not summary["parts"]:
        raise UserError(f"{yaml_path}: none of its keys builds a torch module with parameters")
    left_out = [{"name": name, "reason": reason} for name, reason in left_out.items()]
    return {"yaml": yaml_path, "left_out": left_out, **summary}


def format_models(report):
    """A model report as text.

    Arguments
    ---------
    report : dict
        From `model_report`.

    Returns
    -------
    str
    """
    lines = [f"{report['yaml']}"]
    lines += [f"not built: {part['name']} {part['reason']}" for part in report["left_out"]]
    rows = [("part", "class", "parameters", "trainable", "frozen")]
    for part in report["parts"]:
        rows.append((part["name"], part["class"], *_sizes(part)))
    rows.append(("total", "", *_sizes(report)))
    lines += ["", *_table(rows, left_columns=2)]
    for encoder in report["encoders"]:
        lines += ["", *_format_encoder(encoder)]
    return "\n".join(lines)


def _sizes(entry):
    sizes = (entry["parameters"], entry["trainable"], entry["parameters"] - entry["trainable"])
    return tuple(f"{size:,}" for size in sizes)


def _format_encoder(encoder):
    """Lines for one encoder: its mixers, and the parameters of its layers; equal layers share."""
    layers = encoder["layers"]
    mixers = ", ".join(
        f"{span} {mixer}" for span, mixer in _runs([layer["mixer"] for layer in layers])
    )
    groups = [group for group in GROUPS if any(layer["parameters"][group] for layer in layers)]
    rows = [("layers", *groups, "total", "(parameters per layer)")]
    for span, sizes in _runs([layer["parameters"] for layer in layers]):
        values = [sizes[group] for group in groups]
        rows.append((span, *(f"{value:,}" for value in (*values, sum(values))), ""))
    return [
        f"{encoder['name']}: {encoder['class']}, {len(layers)} layers",
        f"layers {mixers}",
        *_table(rows, left_columns=1),
    ]


def _runs(values):
    """Runs of equal values as ("first-last", value), counted from 0."""
    runs, first = [], 0
    for value, group in groupby(values):
        last = first + len(list(group)) - 1
        runs.append((f"{first}-{last}" if last > first else f"{first}", value))
        first = last + 1
    return runs


def _table(rows, left_columns):
    """Rows of text as aligned lines; the first columns to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            f"{cell:{'<' if column < left_columns else '>'}{widths[column]}}"
            for column, cell in enumerate(row)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
