"""`python -m experiments.downstream ACTION PROTOCOL`: encoders on downstream tasks."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.commands import format_command
from experiments.documents import bring_up_to_date
from experiments.downstream.protocols import (
    DATA_FOLDER,
    PROTOCOLS_PATH,
    find_protocol,
    plan_pretraining,
    plan_tasks,
    runs_folder,
)
from experiments.downstream.records import collect, record_path, recorded_run
from experiments.downstream.report import DOCUMENT, render, update_document
from experiments.records import RECORDS_FOLDER
from experiments.replica.protocols import SPEECH_VARIABLE, speech_folder
from experiments.replica.records import read_record, write_record
from experiments.replica.runs import run_chains
from speechbrain_pom.cli.parser import Parser
from speechbrain_pom.utils.errors import UserError, exit_on_user_error

EPILOG = """\
  python -m experiments.downstream run real --speech /path/to/recordings
  python -m experiments.downstream run real --tasks AN4 --upstreams "BEST-RQ PoM" log-mel --seeds 1
  python -m experiments.downstream report real

In a checkout. `run` pretrains the encoders that are wanted, then runs each task on each of them.
The same command resumes where it was stopped, and leaves out what the committed record has."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m experiments.downstream`."""
    parser = Parser(
        prog="python -m experiments.downstream",
        description="Evaluate encoders on downstream tasks, and report on it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    show = actions.add_parser("show", help="the commands of all runs")
    run = actions.add_parser("run", help="make all runs")
    report = actions.add_parser("report", help=f"write results and {DOCUMENT}")
    for action in (show, run, report):
        action.add_argument("name", metavar="PROTOCOL", help="real, ...")
        action.add_argument("--out", help="folder of the runs (default: results/downstream/NAME)")
        action.add_argument(
            "--protocols", default=PROTOCOLS_PATH, help="file with protocols of your own"
        )
    for action in (show, run):
        action.add_argument("--upstreams", nargs="+", metavar="UPSTREAM", help="only these")
        action.add_argument("--tasks", nargs="+", metavar="TASK", help="only these")
        action.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these")
    run.add_argument(
        "--speech", help=f"folder of the recordings (default: that of {SPEECH_VARIABLE})"
    )
    run.add_argument("--jobs", type=int, help="runs at a time (default: the protocol's)")
    run.add_argument("--again", action="store_true", help="also what the record has already")
    report.add_argument("--check", action="store_true", help=f"only compare {DOCUMENT}")
    return parser


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; return the exit code, as `python -m experiments.replica` does."""
    args = build_parser().parse_args(argv)
    protocol = find_protocol(args.name, args.protocols)
    return _ACTIONS[args.action](protocol, args.out or runs_folder(protocol), args)


def _show(protocol, folder, args):
    chains = plan_pretraining(protocol, folder, DATA_FOLDER, args.upstreams)
    chains += plan_tasks(protocol, folder, DATA_FOLDER, args.upstreams, args.tasks, args.seeds)
    print("\n".join(format_command(run.command) for chain in chains for run in chain))
    return 0


def _run(protocol, folder, args):
    data_folder = speech_folder(protocol, args.speech)
    chosen = (args.upstreams, args.tasks, args.seeds)
    chains = plan_tasks(protocol, folder, data_folder, *chosen)
    if not args.again:
        record = read_record(record_path(protocol, _records_folder(folder, args)))
        left = [chain for chain in chains if recorded_run(chain[0], record) is None]
        if len(left) < len(chains):
            print(f"{len(chains) - len(left)} of {len(chains)} runs are in the record: left out")
        chains = left
    upstreams = list(dict.fromkeys(chain[0].mixer for chain in chains))
    num_jobs = protocol.jobs if args.jobs is None else args.jobs
    log_folder = Path(folder, "logs")
    if upstreams:
        encoders = plan_pretraining(protocol, folder, data_folder, upstreams)
        code = run_chains(encoders, num_jobs, log_folder, _print) if encoders else 0
        if code == 0:
            code = run_chains(chains, num_jobs, log_folder, _print)
        if code:
            return code
    command = f"python -m experiments.downstream report {protocol.name}"
    print(f"all runs are finished; `{command}` writes the results")
    return 0


def _is_own(args):
    return Path(args.protocols) != PROTOCOLS_PATH


def _records_folder(folder, args):
    """Where the record is: that of a user's own protocols is beside the runs."""
    return folder if _is_own(args) else RECORDS_FOLDER


def _print(line):
    print(line, flush=True)


def _report(protocol, folder, args):
    if _is_own(args) and args.check:
        raise UserError("--check is about the protocols of the checkout: leave --protocols out")
    if not args.check:
        path = record_path(protocol, _records_folder(folder, args))
        record = collect(protocol, folder, read_record(path))
        write_record(record, path)
        print(f"{len(record['runs'])} runs: {path}")
        if record["missing"]:
            print(f"not finished: {'; '.join(record['missing'])}")
    if _is_own(args):
        print(f"\n{render(protocol, record)}")
        return 0
    command = f"python -m experiments.downstream report {protocol.name}"
    return bring_up_to_date(DOCUMENT, update_document, command, args.check)


_ACTIONS = {"show": _show, "run": _run, "report": _report}

if __name__ == "__main__":
    sys.exit(main())
