"""Audio files as the models read them: whole, or by parts in the memory of what is asked for."""

import os
from pathlib import Path
from typing import BinaryIO

import soundfile
import torch

from speechbrain_pom.data.audio.files import (
    inspect_audio,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.data.audio.judgement import decoder_message
from speechbrain_pom.data.audio.resampling import converted
from speechbrain_pom.data.audio.stream import AudioStream
from speechbrain_pom.utils.errors import UserError

_BLOCK = 2**20  # samples decoded at a time where all are wanted


class AudioReader:
    """An audio file as the models read it: 16 kHz, mono, fp32.

    Parts are resampled with their context: they are those of
    `torchaudio.functional.resample` of the whole file (with its defaults), but for rounding in
    fp32. Several channels are averaged.

    MP3 and Ogg files are decoded in order, as seeking in them is not exact, and so is whatever
    cannot be sought: parts that are asked for from left to right cost nothing more, going back
    costs decoding from the start.

    Arguments
    ---------
    path : str, bytes or pathlib.Path
        A file of any format that soundfile reads.

    Raises
    ------
    UserError
        If `inspect_audio` finds a problem other than silence, or the sample rate is too costly to
        convert.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, torch.rand(44100, 2).numpy(), 44100)
    >>> with AudioReader(path) as reader:
    ...     reader.num_samples, reader.duration_s, reader.read(5000, 16000).shape
    (16000, 1.0, torch.Size([11000]))
    """

    def __init__(self, path: str | Path) -> None:
        self._name = os.fsdecode(path)
        facts = inspect_audio(path)
        problems = {**facts.problems, **resampling_problems(facts)}
        problems.pop("silence", None)  # it has frames as other files have
        if problems:
            raise UserError(f"audio file '{self._name}': {next(iter(problems.values()))}")
        self._length = facts.num_samples
        self._rate = facts.sample_rate
        self.num_samples = resampled_length(facts.num_samples, facts.sample_rate)
        self._stream = AudioStream(path)
        self._recent = torch.empty(0)  # the last samples that were decoded, if only in order

    @property
    def duration_s(self) -> float:
        """Duration in seconds."""
        return self._length / self._rate

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stream.close()

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Read a part.

        Arguments
        ---------
        start, stop : int
            Samples at 16 kHz.

        Returns
        -------
        torch.Tensor
            (stop - start,)

        Raises
        ------
        UserError
            If the part is not in the file, cannot be decoded, or holds samples that are not
            finite.
        """
        if not 0 <= start <= stop <= self.num_samples:
            raise UserError(
                f"audio file '{self._name}': samples {start} to {stop} of {self.num_samples}: "
                "give a range inside of the file"
            )
        return converted(self._decode, self._length, self._rate, start, stop)

    def _decode(self, start, stop):
        """The samples from start to stop at the file's own rate, mono."""
        try:
            signal = self._seek(start, stop) if self._stream.has_exact_seeks else None
            signal = self._in_order(start, stop) if signal is None else signal
            cause = f"only {len(signal)} samples are there"
        except soundfile.LibsndfileError as error:
            signal, cause = torch.empty(0), decoder_message(error)
        if len(signal) < stop - start:
            raise UserError(
                f"audio file '{self._name}': samples {start} to {stop} cannot be decoded "
                f"({cause}): restore it"
            )
        if not torch.isfinite(signal).all():
            raise UserError(
                f"audio file '{self._name}': samples {start} to {stop} hold NaN or infinity: "
                "encode it again"
            )
        return signal

    def _seek(self, start, stop):
        """The samples, or None where seeking did not lead to them: it is then given up."""
        self._stream.go_to(start)
        signal = _mix_down(self._stream.read(stop - start))
        if len(signal) == stop - start and self._stream.has_exact_seeks:
            return signal
        self._stream.stop_seeking()
        return None

    def _in_order(self, start, stop):
        behind = self._stream.position - len(self._recent)
        if not behind <= start <= self._stream.position:
            self._stream.go_to(start)
            self._recent, behind = torch.empty(0), start
        missing = stop - self._stream.position
        if missing > 0:
            new = _mix_down(self._stream.read(missing))
            self._recent, behind = torch.cat([self._recent[start - behind :], new]), start
        return self._recent[start - behind : stop - behind]


def read_audio(path: str | bytes | Path | BinaryIO) -> torch.Tensor:
    """Read a whole file, decoding it once: 16 kHz, mono.

    Arguments
    ---------
    path : str, bytes, pathlib.Path or binary stream
        A file of any format that soundfile reads.

    Returns
    -------
    torch.Tensor
        (num_samples,), as `AudioReader` reads it.

    Raises
    ------
    OSError, soundfile.LibsndfileError, UserError
        If it cannot be read. How long it should be is not asked.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, torch.rand(44101, 2).numpy(), 44100)
    >>> read_audio(path).shape
    torch.Size([16001])
    """
    with AudioStream(path) as stream:
        blocks = [_mix_down(stream.read(stream.num_claimed or _BLOCK))]
        while len(blocks[-1]):
            blocks.append(_mix_down(stream.read(_BLOCK)))
        rate = stream.sample_rate
    signal = blocks[0] if len(blocks) <= 2 else torch.cat(blocks)
    length = len(signal)
    stop = resampled_length(length, rate)
    return converted(lambda start, end: signal[start:end], length, rate, 0, stop)


def _mix_down(block):
    """(samples, channels) as (samples,)."""
    signal = torch.from_numpy(block.T)
    return signal[0] if len(signal) == 1 else signal.mean(0)
