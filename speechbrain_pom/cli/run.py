"""`run`: an unmodified SpeechBrain recipe, with the attention types of this package."""

import argparse
import os
import runpy
import sys

from speechbrain_pom.runs.overrides import verbatim_command_line
from speechbrain_pom.utils.errors import UserError, exit_on_user_error

EPILOG = """\
The recipe runs as `python SCRIPT YAML [overrides]` would run it, also on several processes:

  python -m speechbrain_pom run train.py hparams/conformer.yaml --attention_type PoM
  torchrun --nproc-per-node=2 -m speechbrain_pom run train.py hparams/conformer.yaml \\
      --attention_type "RelPosMHAXL*4 + PoM(degree=3)*8"

--attention_type reaches every encoder of the file; --Transformer.attention_type, as any key of a
section, is for that one. Overrides are --key value or --key=value, and their values arrive as they
are written."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `run`."""
    parser.epilog = EPILOG
    parser.add_argument("script", metavar="SCRIPT", help="the recipe, such as train.py")
    parser.add_argument("yaml", metavar="YAML", help="its hparams file")
    overrides = parser.add_argument(
        "overrides",
        metavar="...",
        nargs=argparse.REMAINDER,
        help="keys of the hparams file, and SpeechBrain's run options",
    )
    overrides.required = False  # else a missing YAML is reported as "YAML, ..."


def run(args: argparse.Namespace) -> int:
    """Run the recipe in this process; its exit code and its exceptions are left as they are."""
    with exit_on_user_error():
        _check_file(args.script, "recipe")
        _check_file(args.yaml, "hparams file")
    # What `python SCRIPT` sets: an absolute __file__, and modules beside the script first.
    script = os.path.abspath(args.script)
    sys.argv = [script, args.yaml, *args.overrides]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    with verbatim_command_line():
        runpy.run_path(script, run_name="__main__")
    return 0


def _check_file(path, what):
    if os.path.isdir(path):
        raise UserError(f"'{path}' is a folder: give the {what}, as in `run train.py train.yaml`")
    if not os.path.isfile(path):
        raise UserError(f"no such {what}: '{path}'")
