"""The attention types, and what an hparams file builds, part by part and layer by layer."""

import inspect
from collections.abc import Sequence
from itertools import groupby

from speechbrain_pom.attention import attention_types
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.encoder.chunks import describe_training, trained_chunks
from speechbrain_pom.encoder.describe import GROUPS, describe_models
from speechbrain_pom.runs.building import build_models
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.utils.errors import UserError


def list_types() -> list[dict]:
    """The attention types: name, description, builtin (SpeechBrain's own), options.

    An option has a name and, unless it is required, a default.
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


def format_types(report: dict) -> str:
    """The `attention_types` of a report as text."""
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


def model_report(yaml_path: str, overrides: Sequence[str] = ()) -> dict:
    """What an hparams file builds, with overrides as on a recipe's command line.

    The report has yaml, left_out (name and reason of what needs a package that is not installed),
    trained_with_chunks (see `trained_chunks`) and what `describe_models` gives about everything
    that was built.
    """
    request = parse_command_line([yaml_path, *overrides])
    hparams, left_out = build_models(request.yaml_path, request.overrides)
    summary = describe_models(hparams)
    if not summary["parts"]:
        raise UserError(f"{yaml_path}: none of its keys builds a torch module with parameters")
    left_out = [{"name": name, "reason": reason} for name, reason in left_out.items()]
    chunks = trained_chunks({**read_tree(request.yaml_path), **request.overrides})
    return {"yaml": yaml_path, "left_out": left_out, "trained_with_chunks": chunks, **summary}


def format_models(report: dict) -> str:
    """A report of `model_report` as text."""
    lines = [f"{report['yaml']}"]
    lines += [f"not built: {part['name']} {part['reason']}" for part in report["left_out"]]
    if report["trained_with_chunks"]:
        lines.append(f"trained with chunks: {describe_training(report['trained_with_chunks'])}")
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
    """Lines about one encoder: mixers and parameters of its layers; equal layers share a line."""
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
        f"streaming {encoder['streaming']}",
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
