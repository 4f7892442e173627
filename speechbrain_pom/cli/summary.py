"""`summary`: what runs have reached, and where their files are."""

import argparse

from speechbrain_pom.reports.encoders import format_encoders
from speechbrain_pom.reports.summary import summarize

EPILOG = """\
  python -m speechbrain_pom summary results/bestrq_pom/1000 results/ctc_pom/1000
  python -m speechbrain_pom summary --table results/mp3s/*/1986

It reads what the recipes write, also while they run, and changes nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `summary`."""
    parser.epilog = EPILOG
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="output folder of a run")
    parser.add_argument(
        "--table",
        action="store_true",
        help="the tests of all runs in one table: a row for each encoder, a column for each test",
    )


def run(args: argparse.Namespace) -> int:
    """Print the summaries of runs, or one table of their tests."""
    if args.table:
        print(format_encoders(args.folders))
        return 0
    print("\n\n".join(summarize(folder) for folder in args.folders))
    return 0
