"""`replica`: the publication's experiment at a size that can be run here, with all mixers."""

from pathlib import Path

from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.experiments.commands import format_command
from speechbrain_pom.experiments.records import RECORDS_FOLDER
from speechbrain_pom.experiments.replica import (
    PROTOCOLS_PATH,
    SPEECH_VARIABLE,
    find_protocol,
    plan_runs,
    runs_folder,
    speech_folder,
)
from speechbrain_pom.experiments.replica_figure import draw_replica
from speechbrain_pom.experiments.replica_records import (
    collect,
    left_to_run,
    read_record,
    record_path,
    write_record,
)
from speechbrain_pom.experiments.replica_report import (
    DOCUMENT,
    picture_paths,
    render,
    update_document,
)
from speechbrain_pom.experiments.replica_runs import run_chains
from speechbrain_pom.utils.errors import UserError, exit_on_user_error

EPILOG = """\
  python -m speechbrain_pom replica run small
  python -m speechbrain_pom replica report small
  python -m speechbrain_pom replica run real --speech /path/to/recordings

In a checkout. `run` makes the mini corpus or finds the recordings, then pretrains each mixer,
fine-tunes it, and fine-tunes it from scratch, with each seed; the same command goes on where it was
stopped, and leaves out what the committed record already has. What it shows and what it cannot:
docs/replica.md."""


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
    action.add_argument("--again", action="store_true", help="also what the record already has")
    action = actions.add_parser("report", help=f"write results, pictures and {DOCUMENT}")
    _add_shared(action)
    action.add_argument(
        "--check", action="store_true", help=f"only see whether {DOCUMENT} is right"
    )


def _add_shared(parser):
    parser.add_argument("name", metavar="PROTOCOL", help="small, large, real, ...")
    parser.add_argument("--out", help="folder of corpus and runs (default: results/replica/NAME)")
    parser.add_argument(
        "--protocols",
        default=PROTOCOLS_PATH,
        help="file of one's own protocols; their report stays in --out",
    )


def _add_choice(parser):
    parser.add_argument(
        "--speech", help=f"folder of the recordings (default: that of {SPEECH_VARIABLE})"
    )
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
    return _run(protocol, folder, chains, args)


def _run(protocol, folder, chains, args):
    with exit_on_user_error():
        if protocol.is_real:
            data_folder = speech_folder(protocol, args.speech)
        else:
            corpus = protocol.corpus
            data_folder = Path(folder, "corpus")
            make_mini_corpus(data_folder, corpus["duration_min"], corpus["seed"])
        left = [True] * len(chains)
        if not args.again:
            record = read_record(record_path(protocol, _records_folder(folder, args)))
            left = left_to_run(chains, protocol, folder, record)
        if num_recorded := left.count(False):
            _show(f"{num_recorded} of {len(chains)} chains of runs are in the record: left out")
        chains = plan_runs(protocol, folder, args.mixers, args.seeds, data_folder)
        chains = [chain for chain, wanted in zip(chains, left, strict=True) if wanted]
        num_jobs = protocol.jobs if args.jobs is None else args.jobs
        code = run_chains(chains, num_jobs, Path(folder, "logs"), _show)
    if code == 0:
        print(f"all runs are finished; `replica report {protocol.name}` writes the results")
    return code


def _records_folder(folder, args):
    """Where the record is: with one's own protocols, beside the runs."""
    return folder if Path(args.protocols) != PROTOCOLS_PATH else RECORDS_FOLDER


def _show(line):
    print(line, flush=True)


def _report(protocol, folder, args):
    own = Path(args.protocols) != PROTOCOLS_PATH
    if own and args.check:
        raise UserError("--check is about the package's protocols: leave --protocols out")
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
        print(f"\n{render(protocol, record)}")
        return 0
    current = update_document(check=args.check)
    if args.check and not current:
        print(f"{DOCUMENT} is not what the records say: run `replica report {protocol.name}`")
        return 1
    print(f"{DOCUMENT}: {'nothing to change' if current else 'written'}")
    return 0
