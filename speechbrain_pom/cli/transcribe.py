"""`transcribe`: what is said in audio files, as text, JSON with word times, or captions."""

import argparse
from functools import partial
from pathlib import Path

from speechbrain_pom.cli.cluster import add_part_arguments, part_of, submit
from speechbrain_pom.cli.parser import add_job_arguments
from speechbrain_pom.data.audio.pcm import PCM_FORMATS
from speechbrain_pom.inference.jobs.batches import check_batch_s
from speechbrain_pom.inference.jobs.parts import frozen_files
from speechbrain_pom.inference.jobs.pool import choose_device, find_audio
from speechbrain_pom.inference.jobs.serving import DEFAULT_ADDRESS, serve_streams
from speechbrain_pom.inference.jobs.streaming import (
    STDIN,
    STREAM_FORMATS,
    Streaming,
    stream_to_stdout,
)
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

With --stream, one source is recognised as it is heard: an audio file, or - for raw PCM on stdin.
Text: segments as lines; JSON: a line for each event (docs/streaming.md). Ctrl-C ends the stream.

  ffmpeg -loglevel error -f pulse -i default -ac 1 -ar 16000 -f s16le - |
      python -m speechbrain_pom transcribe results/ctc --stream -

Exit code 0: all is well; 1: some files failed (they are named); 2: the call cannot work."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `transcribe`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="run of fine-tuning, checkpoint in it, or exported folder")
    files = add("files", metavar="FILE", nargs="+", help="audio files and folders")
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
    _add_stream_arguments(parser, files)
    add_job_arguments(parser)
    add_part_arguments(parser)


def _add_stream_arguments(parser, files):
    group = parser.add_argument_group("streams")
    add = group.add_argument
    add("--stream", action="store_true", help="recognise FILE, or raw PCM on stdin (-), as heard")
    add("--chunk_s", type=float, metavar="S", help="seconds of a chunk (default: 0.64)")
    add("--left_s", type=float, metavar="S", help="seconds seen before a chunk (default: all)")
    add("--pause_s", type=float, metavar="S", help="pause between segments (default: 0.6)")
    add(
        "--half_life_s",
        type=float,
        metavar="S",
        help="the past counts half after it (mixers of sums)",
    )
    add(
        "--reset_at_pauses",
        action="store_true",
        help="the past ends with a segment (mixers of sums)",
    )
    add(
        "--commit_s",
        type=float,
        metavar="S",
        help="beam search: older words do not change any more",
    )
    add("--pcm", choices=tuple(PCM_FORMATS), help="samples on stdin (default: s16le)")
    add("--rate", type=int, metavar="HZ", help="sample rate on stdin (default: 16000)")
    add("--channels", type=int, metavar="N", help="interleaved on stdin (default: 1)")
    add("--state", metavar="FILE", help="go on from this file if it is there, and save to it")
    add(
        "--serve",
        action=_Serve,
        files=files,
        nargs="?",
        const=DEFAULT_ADDRESS,
        metavar="HOST:PORT",
        help="in place of FILE: a web page with a microphone and its transcript (default: "
        f"{DEFAULT_ADDRESS}; extra [serve])",
    )
    add("--finish", action="store_true", help="with --state: end the stream, remove the file")


def run(args: argparse.Namespace) -> int:
    """Transcribe the files, and name those that failed."""
    _check(args)
    if args.serve is not None:
        return _serve(args)
    if args.stream:
        return _stream(args)
    if args.out is None and (args.on is not None or args.part != "1/1"):
        raise UserError("--part and --on need --out, a folder that all parts write to")
    if args.on is not None:
        return submit(args, args.out)
    part, find = part_of(args), partial(find_audio, args.files)
    files = find() if args.out is None else frozen_files(Path(args.out), part, args.files, find)
    formats = list(dict.fromkeys(args.format))
    if args.out is None and (len(formats) > 1 or (formats[0] in ("srt", "vtt") and len(files) > 1)):
        raise UserError(
            f"--format {' '.join(formats)} of {len(files)} file(s) cannot all go to stdout: give "
            "--out, a folder"
        )
    how = choose_device(args.device), _beam(args), args.window_s, args.batch_s
    settings = Transcribing(args.model, *how)
    if args.out is None:
        return transcribe_to_stdout(files, formats[0], settings, args.jobs)
    return transcribe_into_folder(files, formats, settings, Path(args.out), args.jobs, part)


def _check(args):
    """Refuse options that cannot work, before anything is loaded."""
    for name in ("lm_words", "alpha", "beta"):
        if args.lm is None and getattr(args, name) is not None:
            raise UserError(f"--{name} is for a language model: give its file with --lm")
    for name in ("lm", "lm_words"):
        path = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise UserError(f"--{name}: no such file: '{path}'")
    if not args.stream and args.serve is None:
        _refuse_stream_options(args)
    check_batch_s(args.batch_s)
    if not args.window_s > 0:
        raise UserError(f"--window_s is {args.window_s}: give seconds, more than 0")


_LONG_OPTIONS = ("half_life_s", "reset_at_pauses", "commit_s")
_STDIN_OPTIONS = ("pcm", "rate", "channels")
_STREAM_OPTIONS = (
    *("chunk_s", "left_s", "pause_s", "state", "finish"),
    *_LONG_OPTIONS,
    *_STDIN_OPTIONS,
)


def _refuse_stream_options(args):
    for name in _STREAM_OPTIONS:
        if getattr(args, name):
            raise UserError(f"--{name} is for streams: call with --stream")


class _Serve(argparse.Action):
    """--serve stands in place of the files."""

    def __init__(self, files, **options):
        super().__init__(**options)
        self._files = files

    def __call__(self, parser, namespace, values, option_string=None):
        """Note the address, and that there need not be any files."""
        self._files.required = False
        setattr(namespace, self.dest, values)


def _serve(args):
    """Serve streams."""
    if args.files or args.stream:
        raise UserError("--serve stands in place of files and --stream: leave them out")
    for name in (*_STDIN_OPTIONS, "state", "finish", "out", "batch_s"):
        if getattr(args, name):
            raise UserError(f"--{name} is not for --serve: leave it out")
    lengths = args.chunk_s, args.left_s, args.pause_s
    options = Streaming(STDIN, *lengths, _beam(args), "json", **_long_options(args))
    return serve_streams(args.model, choose_device(args.device), args.serve, options)


def _stream(args):
    """Recognise one stream."""
    source, *others = args.files
    if others:
        raise UserError(f"--stream is of one source, and '{others[0]}' is another: leave it out")
    for_files = {"--out": args.out is not None, "--jobs": args.jobs != 1}
    for_files["--batch_s"] = args.batch_s is not None
    if any(for_files.values()):
        name = next(name for name, given in for_files.items() if given)
        raise UserError(f"{name} is for files: a stream goes to stdout, in one process")
    if len(args.format) > 1 or args.format[0] not in STREAM_FORMATS:
        formats = " ".join(args.format)
        raise UserError(f"--format {formats} of a stream: give one of {', '.join(STREAM_FORMATS)}")
    for name in _STDIN_OPTIONS:
        if source != STDIN and getattr(args, name) is not None:
            raise UserError(f"--{name} is for raw PCM on stdin: '{source}' says it itself")
    if args.finish and args.state is None:
        raise UserError("--finish ends a stream of several calls: give its --state")
    given = {name: getattr(args, name) for name in _STDIN_OPTIONS}
    options = Streaming(
        source,
        args.chunk_s,
        args.left_s,
        args.pause_s,
        _beam(args),
        args.format[0],
        state_file=args.state and Path(args.state),
        finish=args.finish,
        **_long_options(args),
        **{name: value for name, value in given.items() if value is not None},
    )
    return stream_to_stdout(args.model, choose_device(args.device), options)


def _long_options(args):
    """What the past of a long stream is, as far as it was given: else as in a state."""
    options = {name: getattr(args, name) for name in _LONG_OPTIONS}
    return {**options, "reset_at_pauses": args.reset_at_pauses or None}


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
