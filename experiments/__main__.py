"""`python -m experiments ACTION ...`: the published experiments, their commands, runs, records."""

import argparse
import functools
import sys
from collections.abc import Sequence

from experiments.commands import (
    RESULTS_FOLDER,
    build_commands,
    format_command,
    output_folder,
    run_command,
)
from experiments.documents import bring_up_to_date
from experiments.readme import README, overrides_text, update_readme
from experiments.records import RECORDS_FOLDER, build_record, read_records, write_record
from experiments.table import (
    DOWNSTREAM_COLUMNS,
    STAGES,
    WER_COLUMNS,
    find_row,
    format_wer,
    load_table,
)
from speechbrain_pom.cli.parser import Parser
from speechbrain_pom.utils.errors import UserError, exit_on_user_error

EPILOG = """\
  python -m experiments list
  python -m experiments show base-relposmha --data_folder /path/to/LibriSpeech
  python -m experiments run base-relposmha --data_folder /path/to/LibriSpeech

In a checkout. After NAME, --key value overrides the hparams file of each stage that has the key;
--pretraining.key and --finetuning.key are for one of them. `run` resumes where it was stopped."""


def build_parser() -> argparse.ArgumentParser:
    """The parser of `python -m experiments`."""
    parser = Parser(
        prog="python -m experiments",
        description="List, show, run and record the published experiments.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    actions.add_parser("list", help="all experiments with their sizes and published WER")
    for name, summary in (
        ("show", "one experiment: parameters, published WER, its two commands"),
        ("run", "pretrain, fine-tune, test, and write the record"),
    ):
        action = actions.add_parser(name, help=summary)
        _add_name(action)
        action.add_argument(
            "--nproc",
            type=int,
            help="processes (GPUs) of the pretraining; a step takes the same audio with any number "
            "of them (default: as published)",
        )
        _add_results_folder(action)
    action = actions.add_parser("record", help="write the record of two finished runs")
    _add_name(action)
    for stage in STAGES:
        action.add_argument(stage, metavar=stage.upper(), help=f"output folder of the {stage}")
    action.add_argument("--hardware", help="what they ran on (default: this machine)")
    _add_results_folder(action)
    action = actions.add_parser("readme", help=f"write the tables of {README}")
    action.add_argument("--check", action="store_true", help="only compare, and change nothing")
    return parser


def _add_name(parser):
    parser.add_argument("name", metavar="NAME", help="an experiment of `list`")


def _add_results_folder(parser):
    parser.add_argument(
        "--results_folder",
        default=RESULTS_FOLDER,
        help="for runs, and for records that fill no cell of the tables (default: %(default)s)",
    )


@exit_on_user_error()
def main(argv: Sequence[str] | None = None) -> int:
    """Run an action; return the exit code: that of a recipe that failed, 1 for other tables."""
    args, args.overrides = build_parser().parse_known_args(argv)
    if args.overrides and args.action not in ("show", "run"):
        raise UserError(
            f"unrecognized arguments: {' '.join(args.overrides)} "
            f"(python -m experiments {args.action} --help shows the usage)"
        )
    return _ACTIONS[args.action](args)


def _list(args):
    records = read_records(RECORDS_FOLDER)
    lines = [("name", "mixer", "parameters", *(h for *_, h in WER_COLUMNS.values()), "runs")]
    for row in load_table().values():
        num_runs = sum(record["experiment"] == row.name for record in records)
        published = (format_wer(row.published.get(column)) for column in WER_COLUMNS)
        size = f"{row.parameters[1] / 1e6:.1f} M"
        lines.append((row.name, row.mixer, size, *published, str(num_runs or "")))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip())
    print("\nWER in %, as published; runs: how many of ours are in the tables of the README.")
    return 0


def _show(args):
    row, commands = _prepare(args)
    encoder, total = row.parameters
    lines = [
        ("mixer", row.mixer),
        ("overrides", overrides_text(row)),
        ("parameters", f"{total:,} as pretrained, {encoder:,} of them in the encoder"),
    ]
    if row.outside:
        lines.append(("", f"more than 3 % from the size: {row.outside}"))
    lines.append(("published", _published(row)))
    print(row.name)
    for label, text in lines:
        print(f"  {label:11} {text}")
    print()
    for command in commands.values():
        print(format_command(command))
    return 0


def _published(row):
    if not row.published:
        return "nothing"
    headings = {column: heading for column, (*_, heading) in WER_COLUMNS.items()}
    rates = ", ".join(
        f"{heading} {format_wer(row.published[column])}"
        for column, heading in {**headings, **DOWNSTREAM_COLUMNS}.items()
        if column in row.published
    )
    what = "WER in %" if "clean" in row.published else "in %"
    return f"{what}: {rates} ({row.published['source']})"


def _run(args):
    row, commands = _prepare(args)
    for stage, command in commands.items():
        print(f"{stage}: {format_command(command)}", flush=True)
        code = run_command(command)
        if code != 0:
            print(f"{stage} ended with exit code {code}: the same command resumes it")
            return code
    folders = {stage: output_folder(command) for stage, command in commands.items()}
    return _write(build_record(row, folders), args.results_folder)


def _prepare(args):
    row = find_row(args.name)
    if args.nproc is not None and args.nproc < 1:
        raise UserError(f"--nproc is {args.nproc}: give at least 1")
    return row, build_commands(row, args.overrides, args.nproc, args.results_folder)


def _record(args):
    folders = {stage: getattr(args, stage) for stage in STAGES}
    record = build_record(find_row(args.name), folders)
    return _write(record, args.results_folder, args.hardware)


def _write(record, results_folder, hardware=None):
    folder = RECORDS_FOLDER if record["fills_cells"] else results_folder
    path = write_record(record, folder, hardware)
    print(f"record: {path}")
    if record["fills_cells"]:
        print("`python -m experiments readme` writes it into the tables")
        return 0
    print(f"It fills no cell of the tables. Corpus: {record['corpus']}.")
    for stage, differences in record["differences"].items():
        changes = (f"{key} {now} (not {row})" for key, (row, now) in differences.items())
        print(f"{stage}: {', '.join(changes)}")
    return 0


def _readme(args):
    update = functools.partial(update_readme, read_records(RECORDS_FOLDER))
    return bring_up_to_date(README, update, "python -m experiments readme", args.check)


_ACTIONS = {"list": _list, "show": _show, "run": _run, "record": _record, "readme": _readme}

if __name__ == "__main__":
    sys.exit(main())
