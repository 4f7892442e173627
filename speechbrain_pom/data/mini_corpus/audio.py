"""The audio of one utterance of the mini corpus: synthesis, resampling, level, noise, FLAC."""

import io
import math

import numpy as np
import soundfile
from scipy.signal import resample_poly

from speechbrain_pom.data.mini_corpus import espeak
from speechbrain_pom.data.mini_corpus.plan import Utterance

SAMPLE_RATE = 16000
"""Sample rate of the corpus, in Hz."""

MIN_DURATION_S = 2
"""BEST-RQ's shortest utterance."""

_RATE_JITTER = 0.05
_PITCH_JITTER = 3
_SILENCE_S = (0.05, 0.25)


def render_utterance(utterance: Utterance) -> np.ndarray:
    """Synthesises an utterance: a pure function of it, whatever was rendered before.

    >>> from speechbrain_pom.data.mini_corpus.plan import plan_corpus
    >>> audio = render_utterance(plan_corpus(duration_min=1, seed=0)[0])
    >>> audio.dtype, 2 * SAMPLE_RATE <= len(audio) <= 9 * SAMPLE_RATE
    (dtype('int16'), True)
    """
    speaker = utterance.speaker
    # RandomState, not Generator: its streams are frozen across NumPy versions (NEP 19).
    rng = np.random.RandomState(utterance.seed % 2**32)
    speech = espeak.synthesize(
        utterance.text.lower() + ".",
        speaker.voice,
        rate_wpm=round(speaker.rate_wpm * rng.uniform(1 - _RATE_JITTER, 1 + _RATE_JITTER)),
        pitch=speaker.pitch + rng.randint(-_PITCH_JITTER, _PITCH_JITTER + 1),
        pitch_range=speaker.pitch_range,
        word_gap_10ms=speaker.word_gap_10ms,
        seed=utterance.seed,
    )
    common = math.gcd(SAMPLE_RATE, speaker.source_rate_hz)
    speech = resample_poly(
        speech / 2.0**15, SAMPLE_RATE // common, speaker.source_rate_hz // common
    )
    level = 10 ** (speaker.level_db / 20)
    speech *= level / _rms(speech)
    before, after = (round(SAMPLE_RATE * rng.uniform(*_SILENCE_S)) for _ in range(2))
    after = max(after, MIN_DURATION_S * SAMPLE_RATE - before - len(speech))
    noise = _pink_noise(rng, before + len(speech) + after)
    mixture = noise * (level / 10 ** (utterance.snr_db / 20))
    mixture[before : before + len(speech)] += speech
    return np.clip(np.rint(mixture * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)


def encode_flac(audio: np.ndarray) -> bytes:
    """Encode 16-bit mono audio at 16 kHz.

    >>> encode_flac(np.zeros(500, dtype=np.int16))[:4]
    b'fLaC'
    """
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _pink_noise(rng, num_samples):
    """Noise whose power falls with 1/frequency, as in rooms and traffic; RMS 1."""
    # A power of two is transformed fast, whatever num_samples is.
    size = 1 << (num_samples - 1).bit_length()
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum[0] = 0
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum, size)[:num_samples]
    return noise / _rms(noise)


def _rms(signal):
    return math.sqrt(np.mean(np.square(signal)))
