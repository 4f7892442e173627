"""`transcribe`: what is said in audio files, as text, JSON with word times, or captions."""

import hashlib
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from speechbrain_pom._version import __version__
from speechbrain_pom.cli.outputs import check_outputs, output_names
from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.encoder.loading import find_saved, load_recogniser
from speechbrain_pom.inference.audio_jobs import (
    add_job_arguments,
    choose_device,
    find_audio,
    own_folder,
    report_failures,
    run_jobs,
)
from speechbrain_pom.inference.export import is_export
from speechbrain_pom.inference.transcript_files import FORMATS, as_json
from speechbrain_pom.inference.transcription import transcribe
from speechbrain_pom.utils.disks import explain_full_disk, why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

RECORDS_FILE = "transcribed.jsonl"

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


def add_arguments(parser):
    """Add the arguments of `transcribe`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="run of fine-tuning, checkpoint in it, or exported folder")
    add("files", metavar="FILE", nargs="+", help="audio files and folders")
    add("--out", metavar="DIR", help="folder to write to (default: stdout)")
    add("--format", nargs="+", choices=FORMATS, default=["text"], help="(default: text)")
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
        help="longer files are encoded in windows of so many seconds (default: %(default)s)",
    )
    add_job_arguments(parser)


def run(args):
    """Transcribe the files, and name those that failed.

    Arguments
    ---------
    args : argparse.Namespace
        Of a parser with `add_arguments`.

    Returns
    -------
    int
        0, or 1 if a file failed.

    Raises
    ------
    ValueError
        For a bad call.
    """
    _check(args)
    files = find_audio(args.files)
    formats = list(dict.fromkeys(args.format))
    if args.out is None and (len(formats) > 1 or (formats == ["srt"] and len(files) > 1)):
        raise UserError(
            f"--format {' '.join(formats)} of {len(files)} file(s) cannot all go to stdout: give "
            "--out, a folder"
        )
    # Of a run that still goes on, every process loads the same checkpoint.
    model = Path(args.model) if is_export(args.model) else find_saved(args.model).checkpoint
    settings = _Settings(model, choose_device(args.device), _beam(args), args.window_s)
    if args.out is None:
        write = partial(_show, format_=formats[0], with_path=len(files) > 1)
        work = partial(_make_worker, settings, write)
        return report_failures(run_jobs(files, work, args.jobs, "transcribe", on_result=_print))
    return _run_into_folder(files, formats, settings, Path(args.out), args.jobs)


@dataclass(frozen=True)
class _Settings:
    """What a process needs besides the files."""

    model: Path  # a folder
    device: str
    beam: dict | None  # of `make_beam_searcher`; None: greedy
    window_s: float

    def fingerprint(self):
        """Hash of all that the transcripts depend on, but for the audio."""
        read = sorted(self.model.iterdir())
        read += [Path(value) for key, value in (self.beam or {}).items() if key.endswith("_path")]
        facts = [__version__, self.beam, self.window_s, *map(_path_and_stamp, read)]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


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


def _make_worker(settings, write):
    """Load the model; what is returned transcribes a file and hands its transcript to `write`."""
    recogniser = load_recogniser(settings.model, settings.device)
    decode = settings.beam and make_beam_searcher(recogniser.units, **settings.beam)

    def work(file):
        return write(file, transcribe(recogniser, file, decode=decode, window_s=settings.window_s))

    return work


def _show(file, transcript, format_, with_path):
    """A transcript as it goes to stdout."""
    if format_ == "json":
        return as_json(transcript, _name(file), indent=None)
    path = f"{_name(file)}\t" if with_path else ""
    return path + FORMATS[format_][1](transcript, _name(file))


def _print(_file, text):
    tqdm.write(text, end="")  # beside the progress bar, not into it


def _name(file):
    """A path as text that can be written as UTF-8, whatever its bytes."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _run_into_folder(files, formats, settings, out, num_jobs):
    """Transcribe the files that are not finished yet; returns the exit code."""
    outputs = {
        file: {format_: f"{name}{FORMATS[format_][0]}" for format_ in formats}
        for file, name in output_names(files).items()
    }
    fingerprint = settings.fingerprint()
    wanted = {
        file: {output: [*_path_and_stamp(file), fingerprint] for output in outputs[file].values()}
        for file in files
    }
    with own_folder(out):
        records = _Records(out)
        todo = records.plan(wanted)
        failures = run_jobs(
            todo,
            partial(_make_worker, settings, partial(_save, out=out, outputs=outputs)),
            num_jobs,
            "transcribe",
            on_result=lambda file, _: records.add(wanted[file]),
        )
    num_skipped = len(files) - len(todo)
    skipped = f", {num_skipped} were finished before" if num_skipped else ""
    print(f"{out}: {len(todo) - len(failures)} of {len(files)} files transcribed{skipped}")
    return report_failures(failures)


def _save(file, transcript, out, outputs):
    """Write a transcript in all its formats."""
    with explain_full_disk(out, "give another --out"):
        for format_, output in outputs[file].items():
            (out / output).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out / output, FORMATS[format_][1](transcript, _name(file)))


def _path_and_stamp(file):
    return [os.path.abspath(file), file_stamp(file)]


class _Records:
    """What the outputs in a folder were made of: JSON lines, added to as they are made.

    Arguments
    ---------
    folder : pathlib.Path
        Exists.
    """

    def __init__(self, folder):
        self.folder, self.path, self.made_of = folder, folder / RECORDS_FILE, {}
        self.is_new = not self.path.is_file()
        lines = [] if self.is_new else self.path.read_text(encoding="utf-8").splitlines()
        for line in lines:
            try:
                self.made_of.update(json.loads(line))
            except (ValueError, TypeError):  # its writer was killed
                continue

    def plan(self, wanted):
        """The files whose outputs are not there, or were made of something else.

        What is known of these outputs is forgotten first: they may be half made when it ends.
        """
        check_outputs(self.folder, {file: list(outputs) for file, outputs in wanted.items()})
        for file, outputs in wanted.items():
            for output in outputs:
                self._check_owner(output, file)
        todo = [file for file, outputs in wanted.items() if not self._hold(outputs)]
        for file in todo:
            for output in wanted[file]:
                self.made_of.pop(output, None)
        with self._errors():
            write_atomically(self.path, _json_lines(self.made_of))
        return todo

    def add(self, made):
        """Note outputs that are written."""
        with self._errors(), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(_json_lines(made))

    def _check_owner(self, output, file):
        """Never write over what was not made of the same file."""
        owner = self.made_of.get(output, [os.path.abspath(file)])[0]
        if owner != os.path.abspath(file):
            raise UserError(
                f"--out '{self.folder}' has {output} of '{owner}', which '{file}' would overwrite: "
                "give another folder"
            )
        if self.is_new and (self.folder / output).exists():
            raise UserError(
                f"--out '{self.folder}' has a file {output} that no transcription wrote: give "
                "another folder"
            )

    def _hold(self, outputs):
        return all(
            self.made_of.get(output) == facts and (self.folder / output).is_file()
            for output, facts in outputs.items()
        )

    @contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            why = why_not_written(error, self.path.parent)
            raise UserError(
                f"cannot write '{self.path}' ({why}): make room, or give another --out"
            ) from error


def _json_lines(records):
    return "".join(json.dumps({output: facts}) + "\n" for output, facts in records.items())
