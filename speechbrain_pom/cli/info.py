"""`info`: the attention types; or what an hparams file builds, part by part, layer by layer."""

import argparse
import json

from speechbrain_pom.reports.models import format_models, format_types, list_types, model_report
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom info
  python -m speechbrain_pom info hparams/conformer.yaml --attention_type "PoM(degree=3)"

Overrides are those of `run`, keys of sections such as --Transformer.attention_type included; run
options of SpeechBrain change nothing. All that is shown was built."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `info`; overrides are collected by the caller."""
    parser.epilog = EPILOG
    parser.usage = f"{parser.prog} [--help] [--json] [YAML [--key value ...]]"
    parser.add_argument("yaml", metavar="YAML", nargs="?", help="an hparams file")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the attention types, or the models of an hparams file."""
    if args.yaml is None:
        if args.overrides:
            raise UserError(f"{args.overrides[0]}: overrides come after the YAML that they are for")
        report, text = {"attention_types": list_types()}, format_types
    else:
        report, text = model_report(args.yaml, args.overrides), format_models
    print(json.dumps(report, indent=2, default=str) if args.json else text(report))
    return 0
