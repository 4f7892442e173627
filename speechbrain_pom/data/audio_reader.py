"""Random access to an audio file as the models read it, in the memory of what is asked for."""

import os
from math import ceil

import soundfile
import torch
from torchaudio.transforms import Resample

from speechbrain_pom.data.audio_files import (
    SAMPLE_RATE,
    inspect_audio,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.errors import UserError

_BLOCK = 2**20  # samples decoded at a time where nothing but decoding leads to a sample
_MP3_TAIL = 2**16  # bytes after the sound: tags, and what the decoder has not read
_ONLY_IN_ORDER = ("MP3", "OGG")  # libsndfile's seeking is not exact to the sample in these


class AudioReader:
    """An audio file as the models read it: 16 kHz, mono, fp32.

    Parts are resampled with their context: they are those of
    `torchaudio.functional.resample` of the whole file (with its defaults, as the recipes read
    files), but for rounding in fp32. Several channels are averaged.

    MP3 and Ogg files are decoded in order, as seeking in them is not exact: parts that are asked
    for from left to right cost nothing more, going back costs decoding from the start. MP3 files,
    whose headers may be estimates, are decoded once more, for their length, and refused if they
    turn out to be longer.

    Arguments
    ---------
    path : str, bytes or pathlib.Path
        A file of any format that soundfile reads.

    Raises
    ------
    UserError
        If the file is missing, empty, unreadable or truncated, does not say how long it is, or
        has a sample rate that is too costly to convert.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.wav"
    >>> soundfile.write(path, torch.rand(44100, 2).numpy(), 44100)
    >>> with AudioReader(path) as reader:
    ...     reader.num_samples, reader.duration_s, reader.read(5000, 16000).shape
    (16000, 1.0, torch.Size([11000]))
    """

    def __init__(self, path):
        self._name = os.fsdecode(path)
        facts = inspect_audio(path)
        problems = {**facts.problems, **resampling_problems(facts)}
        problems.pop("silence", None)  # it has frames as other files have
        if problems:
            raise UserError(f"audio file '{self._name}': {next(iter(problems.values()))}")
        self._length = facts.num_samples
        self._rate = facts.sample_rate
        self.num_samples = resampled_length(facts.num_samples, facts.sample_rate)
        self._resample = None
        if facts.sample_rate != SAMPLE_RATE:
            self._resample = Resample(facts.sample_rate, SAMPLE_RATE, dtype=torch.float32)
        self._stream = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        self._open()

    def _open(self):
        self._stream.seek(0)
        self._file = soundfile.SoundFile(self._stream)
        self._recent = torch.empty(0)  # the last samples that were decoded, if only in order

    @property
    def duration_s(self):
        """Duration in seconds."""
        return self._length / self._rate

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._stream.close()

    def read(self, start, stop):
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
        if self._resample is None or start == stop:
            return self._decode(start, stop)
        # A block of `old` samples becomes one of `new`, through a filter that reaches `width`
        # samples beyond it on both sides; what is before and after the file counts as zeros.
        old, new = (r // self._resample.gcd for r in (self._rate, SAMPLE_RATE))
        context = ceil(self._resample.width / old)
        first = max(0, start // new - context)
        after = (-(-stop // new) + context) * old
        signal = self._decode(first * old, min(after, self._length))
        signal = torch.nn.functional.pad(signal, (0, max(0, after - self._length)))
        return self._resample(signal)[start - first * new : stop - first * new]

    def _decode(self, start, stop):
        """The samples from start to stop at the file's own rate, mono."""
        try:
            in_order = self._file.format in _ONLY_IN_ORDER
            signal = self._in_order(start, stop) if in_order else self._seek(start, stop)
            cause = f"only {len(signal)} samples are there"
        except soundfile.LibsndfileError as error:
            signal, cause = torch.empty(0), error.error_string.strip().rstrip(".")
        if len(signal) < stop - start:
            raise UserError(
                f"audio file '{self._name}': samples {start} to {stop} cannot be decoded "
                f"({cause}): restore it"
            )
        left = os.fstat(self._stream.fileno()).st_size - self._stream.tell()
        if stop == self._length and self._file.format == "MP3" and left > _MP3_TAIL:
            raise UserError(
                f"audio file '{self._name}': its header says {self._length} samples, but {left} "
                "bytes follow them: encode it again"
            )
        if not torch.isfinite(signal).all():
            raise UserError(
                f"audio file '{self._name}': samples {start} to {stop} hold NaN or infinity: "
                "encode it again"
            )
        return signal

    def _seek(self, start, stop):
        self._file.seek(start)
        return self._next(stop - start)

    def _in_order(self, start, stop):
        if start < self._file.tell() - len(self._recent):
            self._open()
        while (gap := start - self._file.tell()) > 0 and len(self._next(min(gap, _BLOCK))):
            self._recent = torch.empty(0)
        behind = self._file.tell() - len(self._recent)
        missing = max(0, stop - self._file.tell())
        if missing:
            self._recent = torch.cat([self._recent[start - behind :], self._next(missing)])
            behind = start
        return self._recent[start - behind : stop - behind]

    def _next(self, num_samples):
        signal = torch.from_numpy(self._file.read(num_samples, dtype="float32", always_2d=True).T)
        return signal[0] if len(signal) == 1 else signal.mean(0)
