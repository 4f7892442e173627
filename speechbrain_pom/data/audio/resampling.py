"""Sample rates: parts of a signal at 16 kHz, as if all of it had been resampled at once."""

from collections.abc import Callable
from functools import lru_cache
from math import ceil

import torch
from torch import Tensor
from torchaudio.transforms import Resample

from speechbrain_pom.data.audio.files import SAMPLE_RATE, resampled_length

_BLOCK = 1600  # samples at 16 kHz that a stream is resampled in, as many as make whole periods


def converted(
    decode: Callable[[int, int], Tensor], length: int, rate: int, start: int, stop: int
) -> Tensor:
    """A part, in samples at 16 kHz, of a signal of another rate.

    Arguments
    ---------
    decode : callable
        `decode(start, stop)` gives samples of the signal.
    length, rate : int
        Of the signal.
    start, stop : int
        Of the part.

    Returns
    -------
    torch.Tensor
        (stop - start,)
    """
    if rate == SAMPLE_RATE or start == stop:
        return decode(start, stop)
    resample = _resampler(rate)
    old, new, context = _periods(rate)
    first = max(0, start // new - context)
    after = (-(-stop // new) + context) * old
    signal = decode(first * old, min(after, length))
    signal = torch.nn.functional.pad(signal, (0, max(0, after - length)))
    return resample(signal)[start - first * new : stop - first * new]


@lru_cache(maxsize=8)
def _resampler(rate):
    return Resample(rate, SAMPLE_RATE, dtype=torch.float32)


def _periods(rate):
    """A block of `old` samples becomes one of `new`, through a filter that reaches `width` samples
    beyond it on both sides, which is less than `context` blocks."""
    resample = _resampler(rate)
    old, new = (r // resample.gcd for r in (rate, SAMPLE_RATE))
    return old, new, ceil(resample.width / old)


class StreamResampler:
    """Resamples a signal that arrives, as `AudioReader` resamples a file.

    It works in blocks of 0.1 s, so that rounding does not depend on how the samples arrive.

    Arguments
    ---------
    rate : int
        Of the signal, in Hz.

    Example
    -------
    >>> resampler, signal = StreamResampler(44100), torch.rand(44100)
    >>> parts = [resampler.accept(part) for part in signal.split(999)]
    >>> found = torch.cat([*parts, resampler.finish()])
    >>> whole = converted(lambda start, stop: signal[start:stop], 44100, 44100, 0, 16000)
    >>> torch.allclose(found, whole, atol=1e-6)
    True
    """

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._samples = torch.empty(0)
        self._first = 0  # what is kept begins with this sample
        self._length = 0  # samples so far
        self._done = 0  # samples at 16 kHz that were returned

    def accept(self, samples: Tensor) -> Tensor:
        """Take samples (n,); return those at 16 kHz (m,) that are certain now."""
        self._length += len(samples)
        if self.rate == SAMPLE_RATE:
            return samples
        self._samples = torch.cat([self._samples, samples])
        old, new, context = _periods(self.rate)
        block, found = new * max(1, _BLOCK // new), []
        while ((self._done + block) // new + context) * old <= self._length:
            found.append(self._part(self._done + block))
        self._forget(max(0, self._done // new - context) * old)
        return torch.cat(found) if found else torch.empty(0)

    def finish(self) -> Tensor:
        """The samples at 16 kHz that remain where the signal ends."""
        if self.rate == SAMPLE_RATE:
            return torch.empty(0)
        return self._part(resampled_length(self._length, self.rate))

    def _part(self, stop):
        def decode(start, end):
            return self._samples[start - self._first : end - self._first]

        part = converted(decode, self._length, self.rate, self._done, stop)
        self._done = stop
        return part

    def _forget(self, first):
        self._samples, self._first = self._samples[first - self._first :].clone(), first

    def state(self) -> dict[str, Tensor]:
        """What another resampler goes on from."""
        counts = torch.tensor([self.rate, self._first, self._length, self._done])
        return {"resampler.samples": self._samples.clone(), "resampler.counts": counts}

    def resume(self, state: dict[str, Tensor]) -> None:
        """Go on from the state of another resampler of this rate."""
        self._samples = state["resampler.samples"].clone()
        _, self._first, self._length, self._done = state["resampler.counts"].tolist()
