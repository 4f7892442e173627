"""Transcripts of audio files of any number and length: to stdout, or as files in a folder."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from speechbrain_pom._version import __version__
from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.inference.jobs.batches import GROUP_SIZE, BatchWorker
from speechbrain_pom.inference.jobs.ledger import Ledger, run_into_folder
from speechbrain_pom.inference.jobs.outputs import output_names, own_folder
from speechbrain_pom.inference.jobs.pool import Worker, report_failures, run_jobs
from speechbrain_pom.inference.recogniser import load_recogniser
from speechbrain_pom.inference.transcript_files import TRANSCRIPT_FORMATS, as_json
from speechbrain_pom.inference.transcription import Transcript, transcribe, transcript_of
from speechbrain_pom.utils.disks import explain_full_disk
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.parts import WHOLE, Part

LEDGER_FILE = "transcribed.jsonl"


@dataclass(frozen=True)
class Transcribing:
    """How files are transcribed; part of what each process gets.

    Arguments
    ---------
    model : pathlib.Path
        Run of fine-tuning, checkpoint in it, or exported folder. Of a run, every process loads
        the checkpoint that is chosen here.
    device : str
    beam : dict or None
        Options of `make_beam_searcher`; None: greedy decoding.
    window_s : float
        Longer files are encoded in windows of this length.
    batch_s : float or None
        Several files at a time, of so many seconds with their padding.
    """

    model: str | Path
    device: str
    beam: dict | None
    window_s: float
    batch_s: float | None = None

    def __post_init__(self):
        object.__setattr__(self, "model", find_saved(self.model).checkpoint)

    def worker(self, write: Callable[[Path, Transcript], object]) -> Worker:
        """Load the model; the worker transcribes a file and hands its transcript to `write`."""
        recogniser = load_recogniser(self.model, self.device)
        decode = self.beam and make_beam_searcher(recogniser.units, **self.beam)

        def work(file, source=None):
            how = {"decode": decode, "window_s": self.window_s}
            return write(file, transcribe(recogniser, source or file, **how))

        @torch.no_grad()
        def together(files, readers, wavs, num_samples):
            log_probs, num_frames = recogniser(wavs, num_samples)
            own = (row[:count] for row, count in zip(log_probs.cpu(), num_frames, strict=True))
            return [
                write(file, transcript_of(recogniser, outputs, reader.duration_s, decode))
                for file, reader, outputs in zip(files, readers, own, strict=True)
            ]

        if self.batch_s is None:
            return work
        longest_s = min(self.window_s, self.batch_s)
        return BatchWorker(recogniser.encoder, work, together, longest_s, self.batch_s)

    @property
    def group_size(self) -> int | None:
        """Files that the worker takes at a time; None: one."""
        return None if self.batch_s is None else GROUP_SIZE

    def fingerprint(self) -> str:
        """Hash of everything that the transcripts depend on, except for the audio."""
        read = sorted(self.model.iterdir())
        read += [Path(value) for key, value in (self.beam or {}).items() if key.endswith("_path")]
        stamps = [[os.path.abspath(file), file_stamp(file)] for file in read]
        parts = [__version__, self.beam, self.window_s, *stamps]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def transcribe_to_stdout(
    files: list[Path], format_: str, settings: Transcribing, num_jobs: int = 1
) -> int:
    """Print the transcripts in one format; return the exit code."""
    write = partial(_format, format_=format_, with_path=len(files) > 1)
    work = partial(settings.worker, write)
    how = {"on_result": _print, "group_size": settings.group_size}
    return report_failures(run_jobs(files, work, num_jobs, "transcribe", **how))


def _format(file, transcript, format_, with_path):
    """A transcript as it goes to stdout."""
    if format_ == "json":
        return as_json(transcript, _name(file), indent=None)
    path = f"{_name(file)}\t" if with_path else ""
    return path + TRANSCRIPT_FORMATS[format_][1](transcript, _name(file))


def _print(_file, text):
    tqdm.write(text, end="")  # beside the progress bar, not into it


def _name(file):
    """A path as text that can be written as UTF-8, whatever its bytes."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def transcribe_into_folder(
    files: list[Path],
    formats: list[str],
    settings: Transcribing,
    out: Path,
    num_jobs: int = 1,
    part: Part = WHOLE,
) -> int:
    """Write transcripts into a folder, in several formats and with a ledger; return the exit code.

    Files that a former call finished with the same settings are skipped. Of `files`, those of
    `part` are worked on.
    """
    outputs = {
        file: {format_: f"{name}{TRANSCRIPT_FORMATS[format_][0]}" for format_ in formats}
        for file, name in output_names(files).items()
    }
    mine = part.of(files)
    with own_folder(out, part):
        return run_into_folder(
            mine,
            Ledger(out, LEDGER_FILE, "transcribe", {"made_with": settings.fingerprint()}, part),
            {file: list(outputs[file].values()) for file in mine},
            partial(settings.worker, partial(_save, out=out, outputs=outputs)),
            num_jobs,
            "transcribed",
            settings.group_size,
        )


def _save(file, transcript, out, outputs):
    """Write a transcript in all its formats."""
    with explain_full_disk(out, "give another --out"):
        for format_, output in outputs[file].items():
            (out / output).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out / output, TRANSCRIPT_FORMATS[format_][1](transcript, _name(file)))
