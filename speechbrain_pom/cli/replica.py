"""`replica`: the publication's experiment at a size that can be run here, with all mixers."""

from pathlib import Path

from speechbrain_pom.data.mini_corpus import make_mini_corpus
from speechbrain_pom.errors import UserError, exit_on_user_error
from speechbrain_pom.experiments.commands import format_command
from speechbrain_pom.experiments.records import RECORDS_FOLDER
from speechbrain_pom.experiments.replica import (
    PROTOCOLS_PATH,
    find_protocol,
    plan_runs,
    runs_folder,
)
from speechbrain_pom.experiments.replica_figure import draw_replica
from speechbrain_pom.experiments.replica_records import collect, record_path, write_record
from speechbrain_pom.experiments.replica_report import (
    DOCUMENT,
    picture_paths,
    render,
    update_document,
)
from speechbrain_pom.experiments.replica_runs import run_chains

EPILOG = """\
  python -m speechbrain_pom replica run small
  python -m speechbrain_pom replica report small

In a checkout. `run` makes the mini corpus, then pretrains each mixer, fine-tunes it, and fine-tunes
it from scratch, with each seed; the same command goes on where it was stopped. What it shows and
what it cannot: docs/replica.md."""


def add_arguments(parser):
    """Add the arguments of `replica`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
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
        help="runs side by side, which share the cores (default: the protocol's)",
    )
    action = actions.add_parser("report", help=f"write results, pictures and {DOCUMENT}")
    _add_shared(action)
    action.add_argument(
        "--check", action="store_true", help=f"only see whether {DOCUMENT} is right"
    )


def _add_shared(parser):
    parser.add_argument("name", metavar="PROTOCOL", help="small or large")
    parser.add_argument("--out", help="folder of corpus and runs (default: results/replica/NAME)")
    parser.add_argument(
        "--protocols",
        default=PROTOCOLS_PATH,
        help="file of one's own protocols; their report stays in --out",
    )


def _add_choice(parser):
    parser.add_argument("--mixers", nargs="+", metavar="MIXER", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="only these")


def run(args):
    """Do what `args.action` says.

    Arguments
    ---------
    args : argparse.Namespace
        With action and the arguments of the action.

    Returns
    -------
    int
        0; 1 if a run failed or `report --check` finds another document; 128 + number of a signal.

    Raises
    ------
    SystemExit
        With code 2 and one line, for a bad call.
    """
    with exit_on_user_error():
        protocol = find_protocol(args.name, args.protocols)
        folder = args.out or runs_folder(protocol)
        if args.action == "report":
            return _report(protocol, folder, args)
        chains = plan_runs(protocol, folder, args.mixers, args.seeds)
    if args.action == "show":
        for chain in chains:
            print("\n".join(format_command(run.command) for run in chain))
        return 0
    return _run(protocol, folder, chains, args.jobs)


def _run(protocol, folder, chains, num_jobs):
    num_jobs = protocol.jobs if num_jobs is None else num_jobs
    with exit_on_user_error():
        corpus = protocol.corpus
        make_mini_corpus(Path(folder, "corpus"), corpus["duration_min"], corpus["seed"])
        code = run_chains(chains, num_jobs, Path(folder, "logs"), _show)
    if code == 0:
        print(f"all runs are finished; `replica report {protocol.name}` writes the results")
    return code


def _show(line):
    print(line, flush=True)


def _report(protocol, folder, args):
    own = Path(args.protocols) != PROTOCOLS_PATH
    if own and args.check:
        raise UserError("--check is about the package's protocols: leave --protocols out")
    if not args.check:
        record = collect(protocol, folder)
        path = record_path(protocol, folder if own else RECORDS_FOLDER)
        write_record(record, path)
        pictures = picture_paths(protocol, folder if own else Path(DOCUMENT).parent)
        draw_replica(record, protocol.mixers, pictures)
        print(f"{len(record['runs'])} runs: {path}, {pictures[0]}, {pictures[1]}")
        if record["missing"]:
            print(f"not finished: {'; '.join(record['missing'])}")
    if own:
        print(f"\n{render(protocol, record)}")
        return 0
    current = update_document(check=args.check)
    if args.check and not current:
        print(f"{DOCUMENT} is not what the records say: run `replica report {protocol.name}`")
        return 1
    print(f"{DOCUMENT}: {'nothing to change' if current else 'written'}")
    return 0
