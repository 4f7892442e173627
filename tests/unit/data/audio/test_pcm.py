"""Raw PCM in any pieces: the samples that `AudioReader` gives of the same signal in a file."""

import random

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_pom.data.audio.pcm import PcmReader
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.utils.errors import UserError


def signal_of(rate, channels, seconds=0.7):
    generator = np.random.default_rng(rate + channels)
    return (9000 * generator.standard_normal((round(rate * seconds), channels))).astype(np.int16)


def read_in_pieces(reader, data, seed=0):
    choose, parts, start = random.Random(seed), [], 0
    while start < len(data):
        stop = start + choose.choice([1, 2, 3, 501, 4096])
        parts.append(reader.accept(data[start:stop]))
        start = stop
    return torch.cat([*parts, reader.finish()])


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_samples_are_those_of_a_file(tmp_path, rate, channels):
    pcm = signal_of(rate, channels)
    soundfile.write(tmp_path / "a.wav", pcm, rate, subtype="PCM_16")
    with AudioReader(tmp_path / "a.wav") as reader:
        expected = reader.read(0, reader.num_samples)
    found = read_in_pieces(PcmReader("s16le", rate, channels), pcm.tobytes())
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    floats = (pcm / 32768).astype("<f4").tobytes()
    as_floats = read_in_pieces(PcmReader("f32le", rate, channels), floats, seed=1)
    torch.testing.assert_close(as_floats, expected, rtol=0, atol=1e-6)
    again = read_in_pieces(PcmReader("s16le", rate, channels), pcm.tobytes(), seed=2)
    assert torch.equal(again, found)


@pytest.mark.parametrize("rate", [16000, 44100])
@pytest.mark.parametrize("moment", [1, 5, 20_001, 40_000])
def test_a_reader_goes_on_from_its_state(rate, moment):
    data = signal_of(rate, 2).tobytes()
    expected = read_in_pieces(PcmReader("s16le", rate, 2), data)
    first, other = PcmReader("s16le", rate, 2), PcmReader("s16le", rate, 2)
    start = first.accept(data[:moment])
    other.resume(first.state())
    assert torch.equal(torch.cat([start, other.accept(data[moment:]), other.finish()]), expected)
    with pytest.raises(UserError, match=f"rate is 8000, and the state is of a stream at {rate}"):
        PcmReader("s16le", 8000, 2).resume(first.state())
    other.resume({})  # of a stream that came from elsewhere


def test_few_bytes_and_half_samples():
    assert PcmReader().finish().shape == (0,)
    reader = PcmReader()
    assert reader.accept(b"\0\x40").shape == (0,)  # it may still be a file
    assert reader.finish().tolist() == [0.5]
    reader = PcmReader("f32le", channels=2)
    assert reader.accept(b"\0" * 15).tolist() == [0.0]
    assert reader.finish().shape == (0,)


@pytest.mark.parametrize(
    ("start", "kind"), [(b"RIFF\0\0", "a WAV file"), (b"fLaC", "a FLAC"), (b"OggS\0", "an Ogg")]
)
def test_files_are_named_and_refused(start, kind):
    with pytest.raises(UserError, match=f"as {kind}.* does, and raw PCM is read: give the file"):
        PcmReader().accept(start)
    reader = PcmReader()
    reader.accept(start[:1])
    with pytest.raises(UserError, match="raw PCM is read"):
        reader.accept(start[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "u8"}, "pcm is 'u8': give s16le or f32le"),
        ({"rate": 0}, "rate is 0: give a whole number"),
        ({"channels": 1.5}, "channels is 1.5: give a whole number"),
        ({"rate": 44101}, "rate is 44101: sample rate 44101 Hz has almost no divisor"),
    ],
)
def test_values_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        PcmReader(**options)
