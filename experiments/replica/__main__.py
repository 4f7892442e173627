"""`python -m experiments.replica ACTION PROTOCOL`: the published experiment at a small scale."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.commands import format_command
from experiments.documents import bring_up_to_date
from experiments.records import RECORDS_FOLDER
from experiments.replica.figure import draw_replica
from experiments.replica.protocols import (
    KINDS,
    PROTOCOLS_PATH,
    SPEECH_VARIABLE,
    find_protocol,
    plan_runs,
    runs_folder,
    speech_folder,
)
from experiments.replica.records import (
    collect,
    left_to_run,
    read_record,
    record_path,
    write_record,
)
from experiments.replica.report import DOCUMENT, picture_paths, render_section, update_document
from experiments.replica.runs import run_chains
from speechbrain_pom.cli.cluster import add_part_arguments, part_of, submit
from speechbrain_pom.cli.parser import Parser
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.utils.errors import UserError, exit_on_user_error
from speechbrain_pom.utils.parts import WHOLE

EPILOG = """\
  python -m experiments.replica run small
  python -m experiments.replica report small
  python -m experiments.replica run real --speech /path/to/recordings
  python -m experiments.replica run study gains finetuning_rates --speech /path/to/recordings

In a checkout. `run` makes the mini corpus or finds the recordings; then it pretrains each mixer,
fine-tunes it, and trains it from scratch, with each seed. The same command resumes where it was
stopped, and leaves out what the committed record has already. What it shows and what it cannot:
docs/replica.md."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m experiments.replica`."""
    parser = Parser(
        prog="python -m experiments.replica",
        description="Run the scaled replica of the published experiment, and report on it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    action = actions.add_parser("show", help="the commands of all runs")
    _add_shared(action)
    _add_choice(action)
    action = actions.add_parser("run", help="make the corpus and all runs")
    _add_shared(action)
    _add_choice(action)
    action.add_argument(
        "--jobs",
        type=int,
        help="runs at a time, which share the cores (default: the protocol's)",
    )
    action.add_argument("--again", action="store_true", help="also what the record has already")
    add_part_arguments(action)
    action = actions.add_parser("report", help=f"write results, pictures and {DOCUMENT}")
    _add_shared(action)
    action.add_argument("--check", action="store_true", help=f"only compare {DOCUMENT}")
    return parser


def _add_shared(parser):
    parser.add_argument(
        "names", nargs="+", metavar="PROTOCOL", help="small, large, real, ...: one after the other"
    )
    parser.add_argument("--out", help="folder of corpus and runs (default: results/replica/NAME)")
    parser.add_argument(
        "--protocols",
        default=PROTOCOLS_PATH,
        help="file with protocols of your own; their report stays in --out",
    )


def _add_choice(parser):
    parser.add_argument(
        "--speech", help=f"folder of the recordings (default: that of {SPEECH_VARIABLE})"
    )
    parser.add_argument("--mixers", nargs="+", metavar="MIXER", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these")
    parser.add_argument(
        "--kinds", nargs="+", metavar="KIND", help=f"only these of {', '.join(KINDS)}"
    )


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; return the exit code.

    It is 1 if a run failed or `report --check` finds another document, and 128 + the number of the
    signal that stopped the runs. Protocols follow each other also if a run of one failed.
    """
    args = build_parser().parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    protocols = [find_protocol(name, args.protocols) for name in args.names]
    _check_alone(args)
    code = 0
    for protocol in protocols:
        folder = args.out or runs_folder(protocol)
        code = max(code, _ACTIONS[args.action](protocol, folder, args))
        if code > _STOPPED:
            break
    return code


def _check_alone(args):
    """Refuse options that are for one protocol, where there are several."""
    for option in ("out", "on"):
        value = getattr(args, option, None)
        if value is not None and len(args.names) > 1:
            raise UserError(
                f"--{option} {value} is for one protocol, not for {', '.join(args.names)}: give "
                "them one by one"
            )


def _show(protocol, folder, args):
    for chain in plan_runs(protocol, folder, args.mixers, args.seeds, kinds=args.kinds):
        print("\n".join(format_command(run.command) for run in chain))
    return 0


def _run(protocol, folder, args):
    chains = plan_runs(protocol, folder, args.mixers, args.seeds, kinds=args.kinds)
    if protocol.is_real:
        data_folder = speech_folder(protocol, args.speech)
    else:
        corpus = protocol.corpus
        data_folder = Path(folder, "corpus")
        make_mini_corpus(data_folder, corpus["duration_min"], corpus["seed"])
    if args.on is not None:
        return submit(args, folder, "experiments.replica")
    left = [True] * len(chains)
    if not args.again:
        record = read_record(record_path(protocol, _records_folder(folder, args)))
        left = left_to_run(chains, record)
    if num_recorded := left.count(False):
        _print(f"{num_recorded} of {len(chains)} chains of runs are in the record: left out")
    chains = plan_runs(protocol, folder, args.mixers, args.seeds, data_folder, args.kinds)
    part = part_of(args)
    chains = part.of([chain for chain, wanted in zip(chains, left, strict=True) if wanted])
    num_jobs = protocol.jobs if args.jobs is None else args.jobs
    code = run_chains(chains, num_jobs, Path(folder, "logs"), _print)
    if code == 0 and part == WHOLE:
        command = f"python -m experiments.replica report {protocol.name}"
        print(f"all runs are finished; `{command}` writes the results")
    return code


def _records_folder(folder, args):
    """Where the record is: that of a user's own protocols is beside the runs."""
    return folder if Path(args.protocols) != PROTOCOLS_PATH else RECORDS_FOLDER


def _print(line):
    print(line, flush=True)


def _report(protocol, folder, args):
    own = Path(args.protocols) != PROTOCOLS_PATH
    if own and args.check:
        raise UserError("--check is about the protocols of the checkout: leave --protocols out")
    if not args.check:
        path = record_path(protocol, _records_folder(folder, args))
        record = collect(protocol, folder, read_record(path))
        write_record(record, path)
        pictures = picture_paths(protocol, folder if own else Path(DOCUMENT).parent)
        draw_replica(record, protocol, pictures)
        print(f"{len(record['runs'])} runs: {path}, {pictures[0]}, {pictures[1]}")
        if record["missing"]:
            print(f"not finished: {'; '.join(record['missing'])}")
    if own:
        print(f"\n{render_section(protocol, record)}")
        return 0
    command = f"python -m experiments.replica report {protocol.name}"
    return bring_up_to_date(DOCUMENT, update_document, command, args.check)


_STOPPED = 128  # a code above it is that of a signal
_ACTIONS = {"show": _show, "run": _run, "report": _report}

if __name__ == "__main__":
    sys.exit(main())
