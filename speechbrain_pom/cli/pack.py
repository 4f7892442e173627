"""`pack`: audio into shards with an index, for training on millions of utterances."""

import argparse
import logging

from speechbrain_pom.cli.cluster import add_part_arguments, part_of, submit
from speechbrain_pom.data.audio.files import CHECKS
from speechbrain_pom.data.packing import pack
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.parts import WHOLE

EPILOG = """\
  python -m speechbrain_pom pack /path/to/LibriSpeech packed/train --splits train-clean-100
  python -m speechbrain_pom pack /path/to/my_audio packed --part 3/64
  python -m speechbrain_pom pack own.csv indexed --index_only

SOURCE is a folder in LibriSpeech's layout, a folder with audio at any depth, or a CSV manifest,
perhaps with a filter (own.csv?split=train). OUT gets uncompressed tars that WebDataset reads, and
index.parquet with the place, length, speaker, transcript and SHA-256 of each utterance. A call that
is repeated goes on where it was stopped.

Exit code 0: this part is done; 2: the call cannot work, or too many utterances are bad."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `pack`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of audio, or CSV manifest")
    add("out", metavar="OUT", help="folder to write to; made if needed")
    add("--splits", nargs="+", metavar="SPLIT", help="of LibriSpeech's layout (default: all)")
    add("--shard_mb", type=int, default=1000, metavar="MB", help="(default: %(default)s)")
    add("--index_only", action="store_true", help="leave the audio where it is, write an index")
    add("--need_transcripts", action="store_true", help="an utterance without one is bad")
    add("--check_data", choices=CHECKS, default="headers", help="how deeply (%(default)s)")
    add("--max_bad_share", type=float, default=0.0, metavar="X", help="left out, 0 <= X < 1")
    add("--num_workers", type=int, metavar="N", help="processes (default: CPU cores)")
    add_part_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Pack, and say what there is."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.shard_mb < 1:
        raise UserError(f"--shard_mb is {args.shard_mb}: give at least 1")
    if args.on is not None:
        return submit(args, args.out)
    part = part_of(args)
    names = ("splits", "index_only", "need_transcripts", "check_data", "max_bad_share")
    options = {name: getattr(args, name) for name in names}
    index = pack(
        args.source,
        args.out,
        shard_bytes=args.shard_mb * 10**6,
        part=part,
        num_workers=args.num_workers,
        **options,
    )
    left = "" if part == WHOLE else f"part {part} is done; "
    print(f"{left}{index}" if index else f"{left}other parts are not finished")
    return 0
