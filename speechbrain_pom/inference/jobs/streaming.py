"""A stream on the command line: audio from a file or from stdin, events to stdout."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.data.audio.files import SAMPLE_RATE
from speechbrain_pom.data.audio.pcm import PcmReader
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.inference.jobs.event_printer import EventPrinter
from speechbrain_pom.inference.recogniser import SpeechRecogniser, load_recogniser
from speechbrain_pom.inference.streaming.stream import RecognitionStream
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

STDIN = "-"
STREAM_FORMATS = ("text", "json")
_PACKET = 1600  # samples of a file at a time
_READ_BYTES = 65536
_BEHIND_CHUNKS = 2  # said when it is more than so many chunks


@dataclass(frozen=True)
class Streaming:
    """What is streamed, and how.

    Arguments
    ---------
    source : str
        An audio file, or "-" for raw PCM on stdin.
    chunk_s, left_s, pause_s, half_life_s, commit_s : float, optional
    reset_at_pauses : bool, optional
        As for `SpeechRecogniser.stream`.
    beam : dict, optional
        Options of `make_beam_searcher`; None: greedy decoding.
    form : str
        Of `STREAM_FORMATS`.
    pcm, rate, channels
        Of stdin, as for `PcmReader`.
    state_file : pathlib.Path, optional
        What the stream goes on from, if it is there; written at the end.
    finish : bool
        With a state file: the stream ends, and the file is removed.
    """

    source: str
    chunk_s: float | None = None
    left_s: float | None = None
    pause_s: float | None = None
    beam: dict | None = None
    form: str = "text"
    pcm: str = "s16le"
    rate: int = SAMPLE_RATE
    channels: int = 1
    state_file: Path | None = None
    finish: bool = False
    half_life_s: float | None = None
    reset_at_pauses: bool | None = None
    commit_s: float | None = None

    @property
    def of_stream(self) -> dict:
        """The arguments of `SpeechRecogniser.stream` of the same names."""
        names = ("left_s", "pause_s", "half_life_s", "reset_at_pauses", "commit_s")
        return {name: getattr(self, name) for name in names}


def stream_to_stdout(model: str | Path, device: str, options: Streaming) -> int:
    """Recognise a stream to its end, or until Ctrl-C, and print its events.

    Arguments
    ---------
    model : str or pathlib.Path
        Run of fine-tuning, checkpoint in it, or exported folder.
    device : str
    options : Streaming

    Returns
    -------
    int
        The exit code: 0, also after Ctrl-C and where stdout was closed.

    Raises
    ------
    UserError
        If the model, the source or the state cannot be used.
    """
    recogniser = load_recogniser(model, device)
    check_rate(recogniser)
    state = _read_state(options.state_file)
    stream = _open_stream(recogniser, options, state)
    printer, lag = EventPrinter(options.form), _Lag(stream)
    with _Interrupts() as interrupts, _source(options, state, interrupts) as source:
        for samples in source:
            began = time.monotonic()
            printer.show(stream.accept(samples), stream.duration_s)
            if options.source == STDIN:
                lag.add(len(samples) / SAMPLE_RATE, time.monotonic() - began)
            if printer.closed or interrupts.stopped:
                break
        _end(stream, source, printer, options)
    return 0


def check_rate(recogniser: SpeechRecogniser) -> None:
    """Refuse a model of another sample rate than that to which PCM is converted."""
    rate = recogniser.encoder.sample_rate
    if rate != SAMPLE_RATE:
        raise UserError(
            f"the model reads {rate} Hz, and PCM is converted to {SAMPLE_RATE} Hz: resample it "
            "yourself, and call recogniser.stream"
        )


def _open_stream(recogniser, options, state):
    decode = options.beam and make_beam_searcher(recogniser.units, **options.beam)
    chunk_s = options.chunk_s
    if state is None and chunk_s is None:
        chunk_s = DEFAULT_CHUNK_S
    return recogniser.stream(chunk_s, **options.of_stream, decode=decode, state=state)


def _end(stream, source, printer, options):
    """Finish the stream, or save its state."""
    if options.state_file is None or options.finish:
        rest = source.finish()
        events = stream.accept(rest) if len(rest) else []
        printer.show(events + stream.finish(), stream.duration_s)
        if options.state_file is not None:
            options.state_file.unlink(missing_ok=True)
    else:
        write_atomically(options.state_file, save({**stream.state(), **source.state()}))
    printer.close()


def _read_state(path: Path | None) -> dict[str, Tensor] | None:
    if path is None or not path.exists():
        return None
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"--state {path} cannot be read ({error}): remove it to begin") from error


class _FileSource:
    """A file in packets."""

    def __init__(self, path):
        self._reader = AudioReader(path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.__exit__()

    def __iter__(self) -> Iterator[Tensor]:
        total = self._reader.num_samples
        for start in range(0, total, _PACKET):
            yield self._reader.read(start, min(start + _PACKET, total))

    def finish(self):
        return torch.empty(0)

    def state(self):
        return {}


class _StdinSource:
    """Raw PCM from stdin, as soon as it comes."""

    def __init__(self, pcm, state, interrupts):
        self._pcm, self._interrupts = pcm, interrupts
        pcm.resume(state or {})

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def __iter__(self) -> Iterator[Tensor]:
        with contextlib.suppress(_StoppedError):  # between two reads
            while data := self._interrupts.read(sys.stdin.fileno()):
                yield self._pcm.accept(data)

    def finish(self):
        return self._pcm.finish()

    def state(self):
        return self._pcm.state()


def _source(options, state, interrupts):
    if options.source != STDIN:
        return _FileSource(options.source)
    pcm = PcmReader(options.pcm, options.rate, options.channels)
    return _StdinSource(pcm, state, interrupts)


class _Interrupts:
    """Ctrl-C ends the input, and not the program in the middle of a chunk; a second one does."""

    def __init__(self) -> None:
        self.stopped = self._is_reading = False

    def __enter__(self):
        self._former = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self._former)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True
        if self._is_reading:
            raise _StoppedError

    def read(self, descriptor: int) -> bytes:
        """Some bytes; none at the end of the input or after Ctrl-C."""
        try:
            self._is_reading = True
            return b"" if self.stopped else os.read(descriptor, _READ_BYTES)
        except _StoppedError:
            return b""
        finally:
            self._is_reading = False


class _StoppedError(Exception):
    """Ends a read."""


class _Lag:
    """How far recognition is behind the audio: its own time beyond the audio's, said once."""

    def __init__(self, stream: RecognitionStream) -> None:
        self._limit_s = _BEHIND_CHUNKS * stream.latency_s
        self._behind_s, self._said = 0.0, False

    def add(self, audio_s: float, spent_s: float) -> None:
        self._behind_s = max(0.0, self._behind_s + spent_s - audio_s)
        if self._behind_s > self._limit_s and not self._said:
            self._said = True
            print(
                f"warning: recognition is {self._behind_s:.1f} s behind the audio: choose longer "
                "chunks (--chunk_s), greedy decoding, or a faster machine",
                file=sys.stderr,
                flush=True,
            )
