"""`encode`: the frames of a pretrained encoder for audio files of any number and length."""

import argparse
import math
from functools import partial
from pathlib import Path

from speechbrain_pom.cli.cluster import add_part_arguments, part_of, submit
from speechbrain_pom.cli.parser import add_job_arguments
from speechbrain_pom.inference.jobs.batches import check_batch_s
from speechbrain_pom.inference.jobs.encoding import (
    FORMATS,
    MANIFEST_FILE,
    FrameOptions,
    encode_into_folder,
)
from speechbrain_pom.inference.jobs.frame_files import DTYPES
from speechbrain_pom.inference.jobs.parts import frozen_files
from speechbrain_pom.inference.jobs.pool import choose_device, find_audio
from speechbrain_pom.utils.errors import UserError

EPILOG = f"""\
  python -m speechbrain_pom encode results/bestrq recordings --out frames
  python -m speechbrain_pom encode exported a.flac b.mp3 --out frames --layers 4,8 --jobs 4

Files of any sample rate, number of channels and length; folders are searched for audio. Of each
file DIR/NAME.npy (or .safetensors, with the tensor "frames") holds the frames, (T, d_model), or
(L, T, d_model) for several layers; NAME is its path below the folder that all files share. With
--format tar the NAME.npy are in tars of about 1 GB, as WebDataset reads them, for many files.
DIR/{MANIFEST_FILE} has a line for each finished file: file, output, num_frames, duration_s, windows
(null: a single pass; exact; overlapping: see speechbrain_pom/encoder/windows/overlapping.py), tar,
offset and bytes where it is in one, and the model and options.

A call that is repeated goes on where it was stopped: files that are in the manifest are skipped,
unless they have changed. The model always computes in fp32, and what it computes on CPUs does not
depend on --jobs.

Exit code 0: all is well; 1: some files failed (they are named); 2: the call cannot work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `encode`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="run, CKPT+... folder in it, or exported folder")
    add("files", metavar="FILE", nargs="+", help="audio files and folders")
    add("--out", metavar="DIR", required=True, help="folder to write to; made if needed")
    add("--format", choices=FORMATS, default="npy", help="(default: %(default)s)")
    add(
        "--layers",
        default="last",
        metavar="LAYERS",
        help="last; sum, the learnt sum of a model fine-tuned with it; or numbers of hidden states "
        "such as 0 (input of the first layer) or 4,8 (default: %(default)s)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="of the files (default: %(default)s)")
    add(
        "--window_s",
        type=float,
        default=300.0,
        metavar="S",
        help="longer files are encoded in windows of this length (default: %(default)s)",
    )
    add("--overlap_s", type=float, metavar="S", help="of windows (default: a sixth of them)")
    add_job_arguments(parser)
    add_part_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Encode the files, and name those that failed."""
    check_batch_s(args.batch_s)
    options, out = _options(args), Path(args.out)
    if args.on is not None:
        return submit(args, out)
    part = part_of(args)
    files = frozen_files(out, part, args.files, partial(find_audio, args.files))
    device = choose_device(args.device)
    how = args.jobs, part, args.batch_s
    return encode_into_folder(args.model, files, out, options, device, *how)


def _options(args):
    layers = args.layers
    if layers not in ("last", "sum"):
        numbers = layers.split(",")
        if not all(number.isdecimal() for number in numbers):
            raise UserError(f"--layers {layers}: give last, sum, or numbers such as 4,8")
        layers = [int(number) for number in numbers]
        layers = layers if len(layers) > 1 else layers[0]
    if args.dtype == "bfloat16" and args.format != "safetensors":
        raise UserError("--dtype bfloat16: NumPy has no such type: add --format safetensors")
    if not (math.isfinite(args.window_s) and args.window_s > 0):
        raise UserError(f"--window_s is {args.window_s}: give seconds, more than 0")
    if args.overlap_s is not None and not 0 <= args.overlap_s < args.window_s:
        raise UserError(
            f"--overlap_s is {args.overlap_s:g}, --window_s is {args.window_s:g}: give an overlap "
            "of at least 0 that is shorter than the window"
        )
    return FrameOptions(layers, args.format, args.dtype, args.window_s, args.overlap_s)
