"""`check`: decode all audio of a corpus or manifest, and list what is wrong with it."""

import argparse
from math import inf

from speechbrain_pom.cli.cluster import add_part_arguments, part_of, submit
from speechbrain_pom.data.check import LAYOUTS, check_data
from speechbrain_pom.data.check_report import check_writable

EPILOG = """\
  python -m speechbrain_pom check /path/to/LibriSpeech --splits train-clean-100 dev-clean
  python -m speechbrain_pom check /path/to/my_audio
  python -m speechbrain_pom check /path/to/audio --manifest results/run/manifests/train.csv

DATA_FOLDER is in LibriSpeech's layout, holds audio of any format at any depth, or is what
$data_root (CSV) or {data_root} (JSON) stands for in a manifest that SpeechBrain reads.

With --part, many calls share the work; that which finishes last writes the list of all of them.

Exit code 0: no more utterances are bad than --max_bad_share allows; 1: more are; 2: the call cannot
work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `check`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("data_folder", metavar="DATA_FOLDER", help="folder that holds the data")
    add("--splits", nargs="+", metavar="SPLIT", help="its folders to check (default: all)")
    add("--manifest", metavar="FILE", help="check the files of this .csv or .json instead")
    add("--data_layout", choices=LAYOUTS, help="(default: librispeech if it has splits)")
    add("--no_transcripts", action="store_true", help="audio alone is enough")
    add("--max_bad_share", type=float, default=0.0, metavar="X", help="allowed, 0 <= X < 1")
    add("--min_duration_s", type=float, default=0.0, metavar="S", help="shorter ones are bad")
    add("--max_duration_s", type=float, default=inf, metavar="S", help="longer ones are bad")
    add("--num_workers", type=int, metavar="N", help="processes (default: CPU cores)")
    add("--out", default="data_check.json", metavar="FILE", help="list to write (%(default)s)")
    add_part_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print the table of problems, and write all of them."""
    check_writable(args.out)
    records = f"{args.out}.parts"
    if args.on is not None:
        return submit(args, records)
    part = part_of(args)
    report = check_data(
        args.data_folder,
        args.splits,
        args.manifest,
        data_layout=args.data_layout,
        need_transcripts=not args.no_transcripts,
        max_bad_share=args.max_bad_share,
        min_duration_s=args.min_duration_s,
        max_duration_s=args.max_duration_s,
        num_workers=args.num_workers,
        part=part,
        records=records,
    )
    if report is None:
        print(f"part {part} is done; other parts are not finished")
        return 0
    report.write(args.out)
    print(f"{report.table()}\nall problems: {args.out}")
    return 0 if report.is_acceptable else 1
