"""Raw PCM as it arrives in bytes: mono samples at 16 kHz."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from speechbrain_pom.data.audio.files import AudioFacts, resampling_problems
from speechbrain_pom.data.audio.resampling import StreamResampler
from speechbrain_pom.utils.errors import UserError

PCM_FORMATS = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}
_CONTAINERS = {
    b"RIFF": "a WAV file",
    b"RIFX": "a WAV file",
    b"fLaC": "a FLAC file",
    b"OggS": "an Ogg file",
    b"ID3\x03": "an MP3 file",
    b"ID3\x04": "an MP3 file",
    b".snd": "an AU file",
    b"FORM": "an AIFF file",
}
_LONGEST_MAGIC = 4


class PcmReader:
    """Turns bytes into samples, wherever they are split.

    Channels are averaged and other rates resampled, as `AudioReader` does with files.

    Arguments
    ---------
    form : str
        Of `PCM_FORMATS`, the names of ffmpeg.
    rate : int
        In Hz.
    channels : int
        Interleaved.

    Raises
    ------
    UserError
        For values that cannot be; in `accept` also if the bytes begin as an audio file does.

    Example
    -------
    >>> reader = PcmReader("s16le")
    >>> [reader.accept(part).tolist() for part in (b"\\x00\\x40\\x00\\xc0\\x00", b"\\x20")]
    [[0.5, -0.5], [0.25]]
    """

    def __init__(self, form: str = "s16le", rate: int = 16000, channels: int = 1) -> None:
        if form not in PCM_FORMATS:
            raise UserError(f"pcm is {form!r}: give {' or '.join(PCM_FORMATS)}")
        for name, value in (("rate", rate), ("channels", channels)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name} is {value!r}: give a whole number of at least 1")
        problems = resampling_problems(AudioFacts(1, rate, channels, {}))
        if problems:
            raise UserError(f"rate is {rate}: {next(iter(problems.values()))}")
        self._dtype, self._channels = PCM_FORMATS[form], channels
        self._resampler = StreamResampler(rate)
        self._bytes = b""
        self._is_first = True

    def accept(self, data: bytes) -> Tensor:
        """The samples (n,) that are complete with these bytes."""
        data = self._bytes + data
        if self._is_first:
            if len(data) < _LONGEST_MAGIC:
                self._bytes = data
                return torch.empty(0)
            self._check(data)
            self._is_first = False
        return self._take(data)

    def _take(self, data):
        size = self._dtype.itemsize * self._channels
        whole = len(data) // size * size
        self._bytes = data[whole:]
        signal = np.frombuffer(data[:whole], self._dtype).astype(np.float32)
        signal = torch.from_numpy(signal).view(-1, self._channels)
        if self._dtype.kind == "i":
            signal = signal / 32768
        return self._resampler.accept(signal[:, 0] if self._channels == 1 else signal.mean(1))

    def finish(self) -> Tensor:
        """The samples that remain at the end; bytes of a sample that did not come are dropped."""
        rest = self._take(self._bytes) if self._is_first else torch.empty(0)
        return torch.cat([rest, self._resampler.finish()])

    def _check(self, data):
        kind = _CONTAINERS.get(data[:_LONGEST_MAGIC])
        if kind is not None:
            raise UserError(
                f"the input begins with {data[:_LONGEST_MAGIC]!r}, as {kind} does, and raw PCM is "
                "read: give the file by its name, or let ffmpeg write -f s16le"
            )

    def state(self) -> dict[str, Tensor]:
        """What another reader goes on from, in the middle of a sample too."""
        waiting = torch.tensor(list(self._bytes), dtype=torch.uint8)
        return {"pcm.bytes": waiting, **self._resampler.state()}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from the state of another reader.

        Arguments
        ---------
        state : dict of str to torch.Tensor

        Raises
        ------
        UserError
            If it was of another sample rate.
        """
        if "pcm.bytes" not in state:
            return
        rate = int(state["resampler.counts"][0])
        if rate != self._resampler.rate:
            raise UserError(
                f"rate is {self._resampler.rate}, and the state is of a stream at {rate} Hz: give "
                f"that rate"
            )
        self._bytes, self._is_first = bytes(state["pcm.bytes"].tolist()), False
        self._resampler.resume(dict(state))
