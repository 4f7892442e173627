"""`experiments`: the published experiments as a table, their commands, runs and records."""

from speechbrain_pom.experiments.commands import (
    PUBLISHED_PROCESSES,
    RESULTS_FOLDER,
    build_commands,
    format_command,
    output_folder,
    run_command,
)
from speechbrain_pom.experiments.readme import README, overrides_text, update_readme
from speechbrain_pom.experiments.records import (
    RECORDS_FOLDER,
    build_record,
    read_records,
    write_record,
)
from speechbrain_pom.experiments.table import (
    FIGURES,
    STAGES,
    find_experiment,
    format_figure,
    load_experiments,
)
from speechbrain_pom.utils.errors import UserError, exit_on_user_error

EPILOG = """\
  python -m speechbrain_pom experiments list
  python -m speechbrain_pom experiments show base-relposmha --data_folder /path/to/LibriSpeech
  python -m speechbrain_pom experiments run base-relposmha --data_folder /path/to/LibriSpeech

In a checkout. After NAME, --key value is laid over the hparams file of each stage that has the key;
--pretraining.key and --finetuning.key are for one of them. `run` goes on where it was stopped."""


def add_arguments(parser):
    """Add the arguments of `experiments`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all experiments with their sizes and published WER")
    for action, summary in (
        ("show", "one experiment: parameters, published WER, its two commands"),
        ("run", "pretrain, fine-tune, test, and write the record"),
    ):
        parser = actions.add_parser(action, help=summary)
        _add_name(parser)
        parser.add_argument(
            "--nproc",
            type=int,
            default=PUBLISHED_PROCESSES,
            help="processes (GPUs) of the pretraining; a step takes the same audio with any number "
            "of them (default: %(default)s, as published)",
        )
        _add_results_folder(parser)
    parser = actions.add_parser("record", help="write the record of two finished runs")
    _add_name(parser)
    for stage in STAGES:
        parser.add_argument(stage, metavar=stage.upper(), help=f"output folder of the {stage}")
    parser.add_argument("--hardware", help="what they ran on (default: this machine)")
    _add_results_folder(parser)
    parser = actions.add_parser("readme", help=f"write the tables of {README}")
    parser.add_argument("--check", action="store_true", help="only see whether they are right")


def _add_name(parser):
    parser.add_argument("name", metavar="NAME", help="an experiment of `list`")


def _add_results_folder(parser):
    parser.add_argument(
        "--results_folder",
        default=RESULTS_FOLDER,
        help="of runs, and of records that fill no cell of the tables (default: %(default)s)",
    )


def run(args):
    """Do what `args.action` says.

    Arguments
    ---------
    args : argparse.Namespace
        With action, overrides, and the arguments of the action.

    Returns
    -------
    int
        0; that of a recipe that failed; 1 if `readme --check` finds other tables.

    Raises
    ------
    SystemExit
        With code 2 and one line, for a bad call.
    """
    if args.action == "run":
        return _run(args)
    with exit_on_user_error():
        if args.overrides and args.action != "show":
            raise UserError(
                f"unrecognized arguments: {' '.join(args.overrides)} "
                f"(experiments {args.action} --help shows the usage)"
            )
        return _ACTIONS[args.action](args)


def _list(args):
    records = read_records(RECORDS_FOLDER)
    rows = [("name", "mixer", "parameters", *(h for *_, h in FIGURES.values()), "runs")]
    for row in load_experiments().values():
        runs = sum(record["experiment"] == row.name for record in records)
        figures = (format_figure(row.published.get(column)) for column in FIGURES)
        size = f"{row.parameters[1] / 1e6:.1f} M"
        rows.append((row.name, row.mixer, size, *figures, str(runs or "")))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)).rstrip())
    print("\nWER in %, as published; runs: how many of ours are in the tables of the README.")
    return 0


def _show(args):
    experiment, commands = _prepare(args)
    encoder, total = experiment.parameters
    rows = [
        ("mixer", experiment.mixer),
        ("overrides", overrides_text(experiment)),
        ("parameters", f"{total:,} as pretrained, {encoder:,} of them in the encoder"),
    ]
    if experiment.outside:
        rows.append(("", f"more than 3 % from the size: {experiment.outside}"))
    rows.append(("published", _published(experiment)))
    print(experiment.name)
    for label, text in rows:
        print(f"  {label:11} {text}")
    print()
    for command in commands.values():
        print(format_command(command))
    return 0


def _published(experiment):
    if not experiment.published:
        return "nothing"
    figures = (
        f"{heading} {format_figure(experiment.published[column])}"
        for column, (*_, heading) in FIGURES.items()
    )
    return f"WER in %: {', '.join(figures)} ({experiment.published['source']})"


def _run(args):
    with exit_on_user_error():
        experiment, commands = _prepare(args)
    for stage, command in commands.items():
        print(f"{stage}: {format_command(command)}", flush=True)
        code = run_command(command)
        if code != 0:
            print(f"{stage} ended with exit code {code}: the same command goes on with it")
            return code
    with exit_on_user_error():
        folders = {stage: output_folder(command) for stage, command in commands.items()}
        return _write(build_record(experiment, folders), args.results_folder)


def _prepare(args):
    experiment = find_experiment(args.name)
    if args.nproc < 1:
        raise UserError(f"--nproc is {args.nproc}: give at least 1")
    return experiment, build_commands(experiment, args.overrides, args.nproc, args.results_folder)


def _record(args):
    folders = {stage: getattr(args, stage) for stage in STAGES}
    record = build_record(find_experiment(args.name), folders)
    return _write(record, args.results_folder, args.hardware)


def _write(record, results_folder, hardware=None):
    folder = RECORDS_FOLDER if record["fills_cells"] else results_folder
    path = write_record(record, folder, hardware)
    print(f"record: {path}")
    if record["fills_cells"]:
        print("`experiments readme` writes it into the tables")
        return 0
    print(f"It fills no cell of the tables. Corpus: {record['corpus']}.")
    for stage, differences in record["differences"].items():
        changes = (f"{key} {now} (not {row})" for key, (row, now) in differences.items())
        print(f"{stage}: {', '.join(changes)}")
    return 0


def _readme(args):
    current = update_readme(read_records(RECORDS_FOLDER), check=args.check)
    if args.check and not current:
        print(f"{README} is not what the table and the records say: run `experiments readme`")
        return 1
    print(f"{README}: {'nothing to change' if current else 'written'}")
    return 0


_ACTIONS = {"list": _list, "show": _show, "record": _record, "readme": _readme}
