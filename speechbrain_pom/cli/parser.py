"""The parser behind every command line of the project."""

import argparse
from typing import NoReturn

from speechbrain_pom.utils.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, and which accepts no abbreviated options.

    Arguments
    ---------
    **options
        Options of argparse.

    Example
    -------
    >>> Parser(prog="x").parse_args(["--n"])
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: unrecognized arguments: --n (x --help shows the usage)
    """

    def __init__(self, **options):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as a `UserError`."""
        raise UserError(f"{message} ({self.prog} --help shows the usage)")


def add_job_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --jobs and --device, for commands that work on many audio files."""
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with the model and one CPU thread, or as many as the environment "
        "variable OMP_NUM_THREADS says (default: %(default)s)",
    )
    parser.add_argument("--device", help="such as cuda:1 (default: cuda if there is one, or cpu)")
    parser.add_argument(
        "--batch_s",
        type=float,
        metavar="S",
        help="several files at a time, of so many seconds together, for GPUs (default: one file)",
    )
