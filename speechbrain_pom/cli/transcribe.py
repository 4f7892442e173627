"""`transcribe`: what is said in audio files, as text, JSON with word times, or captions."""

import argparse
from pathlib import Path

from speechbrain_pom.cli.parser import add_job_arguments
from speechbrain_pom.inference.jobs.pool import choose_device, find_audio
from speechbrain_pom.inference.jobs.transcribing import (
    Transcribing,
    transcribe_into_folder,
    transcribe_to_stdout,
)
from speechbrain_pom.inference.transcript_files import TRANSCRIPT_FORMATS
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom transcribe results/ctc talk.mp3
  python -m speechbrain_pom transcribe results/ctc recordings --out text --format text json srt
  python -m speechbrain_pom transcribe results/ctc recordings --out text --lm 3-gram.arpa

Files of any sample rate, number of channels and length; folders are searched for audio. Decoding is
greedy, or by beam search with --beam_size or --lm. Without --out, one format goes to stdout: text
(after the path and a tab if there are several files), JSON (a line for each file) or SRT (of one
file). With --out, a call that is repeated goes on where it was stopped: files that are finished by
the same model with the same options are skipped. The times and confidences of words are explained
in speechbrain_pom/ctc/alignment.py, the JSON in speechbrain_pom/inference/transcript_files.py.

Exit code 0: all is well; 1: some files failed (they are named); 2: the call cannot work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `transcribe`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="run of fine-tuning, checkpoint in it, or exported folder")
    add("files", metavar="FILE", nargs="+", help="audio files and folders")
    add("--out", metavar="DIR", help="folder to write to (default: stdout)")
    add("--format", nargs="+", choices=TRANSCRIPT_FORMATS, default=["text"], help="(default: text)")
    add("--lm", metavar="ARPA", help="n-gram of words: an ARPA file (.gz too) or KenLM binary")
    add("--lm_words", metavar="FILE", help="words of a KenLM binary, one per line")
    add("--alpha", type=float, metavar="X", help="weight of the n-gram (default: 0.8)")
    add("--beta", type=float, metavar="X", help="score added per word (default: 1.2)")
    add("--beam_size", type=int, metavar="N", help="hypotheses (default: 200, greedy without --lm)")
    add(
        "--window_s",
        type=float,
        default=30.0,
        metavar="S",
        help="longer files are encoded in windows of this length (default: %(default)s)",
    )
    add_job_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Transcribe the files, and name those that failed."""
    _check(args)
    files = find_audio(args.files)
    formats = list(dict.fromkeys(args.format))
    if args.out is None and (len(formats) > 1 or (formats[0] in ("srt", "vtt") and len(files) > 1)):
        raise UserError(
            f"--format {' '.join(formats)} of {len(files)} file(s) cannot all go to stdout: give "
            "--out, a folder"
        )
    settings = Transcribing(args.model, choose_device(args.device), _beam(args), args.window_s)
    if args.out is None:
        return transcribe_to_stdout(files, formats[0], settings, args.jobs)
    return transcribe_into_folder(files, formats, settings, Path(args.out), args.jobs)


def _check(args):
    """Refuse options that cannot work, before anything is loaded."""
    for name in ("lm_words", "alpha", "beta"):
        if args.lm is None and getattr(args, name) is not None:
            raise UserError(f"--{name} is for a language model: give its file with --lm")
    for name in ("lm", "lm_words"):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise UserError(f"--{name}: no such file: '{path}'")
    if not args.window_s > 0:
        raise UserError(f"--window_s is {args.window_s}: give seconds, more than 0")


def _beam(args):
    """The options of beam search that were given, or None for greedy decoding."""
    options = {
        "kenlm_model_path": args.lm,
        "kenlm_words_path": args.lm_words,
        "alpha": args.alpha,
        "beta": args.beta,
        "beam_size": args.beam_size,
    }
    return {key: value for key, value in options.items() if value is not None} or None
