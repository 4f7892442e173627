"""`compare`: error rates and learning curves of several runs, and what their differences mean."""

import argparse
from pathlib import Path

from speechbrain_pom.reports.comparison import format_comparison, read_runs
from speechbrain_pom.reports.learning_curves import draw_together
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom compare results/experiments/base-*/1000/finetuning

For each test set and decoder: WER with bootstrap intervals, and for each pair of runs the
difference with its interval and p-value, paired by utterance. Runs of pretraining have learning
curves alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `compare`."""
    parser.epilog = EPILOG
    parser.add_argument("folders", metavar="RUN", nargs="+", help="output folder of a run")
    parser.add_argument(
        "--out", default="compare.png", help="picture of the curves (default: %(default)s)"
    )
    parser.add_argument(
        "--num_bootstrap", type=int, default=1000, help="trials (default: %(default)s)"
    )
    parser.add_argument(
        "--num_randomisations", type=int, default=10000, help="for p (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="for p (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Print the comparison, and draw the curves."""
    out = Path(args.out)
    if out.suffix != ".png" or not out.parent.is_dir():
        raise UserError(f"--out '{out}': give a name that ends in .png, in a folder that exists")
    for name in ("num_bootstrap", "num_randomisations"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}: give at least 1")
    runs = read_runs(args.folders)
    print(format_comparison(runs, args.num_bootstrap, args.num_randomisations, args.seed))
    if draw_together(runs, out):
        print(f"\nlearning curves: {out}")
    return 0
