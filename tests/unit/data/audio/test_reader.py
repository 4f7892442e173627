"""Parts of audio files: those of the whole file, at any sample rate and in any order."""

import itertools

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from speechbrain_pom.data.audio.files import inspect_audio
from speechbrain_pom.data.audio.reader import AudioReader, read_audio
from speechbrain_pom.training.dataset import read_utterance
from speechbrain_pom.utils.errors import UserError

RATES = (8000, 16000, 22050, 44100, 48000)
TOLERANCE = 1e-6  # fp32, for samples below 1


def write(path, num_samples, rate, channels=1, **options):
    noise = np.random.default_rng(num_samples).standard_normal((num_samples, channels))
    soundfile.write(path, (0.1 * noise).clip(-1, 1), rate, **options)
    return path


def whole(path):
    """By torchaudio, which knows nothing of parts."""
    signal, rate = soundfile.read(path, dtype="float32", always_2d=True)
    signal = torch.from_numpy(signal).mean(1)
    return signal if rate == 16000 else resample(signal, rate, 16000)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
def test_ragged_parts_are_those_of_the_whole_file(tmp_path, rate, channels):
    path = write(tmp_path / "a.wav", rate + 77, rate, channels, subtype="FLOAT")
    expected = whole(path)
    with AudioReader(path) as reader:
        assert reader.num_samples == len(expected)
        assert reader.duration_s == pytest.approx((rate + 77) / rate)
        edges = [0, 1, 2, 161, 162, 5000, 9999, len(expected) - 1, len(expected)]
        parts = [reader.read(*pair) for pair in itertools.pairwise(edges)]
        torch.testing.assert_close(torch.cat(parts), expected, rtol=0, atol=TOLERANCE)
        backwards = [reader.read(start, start + 500) for start in (9000, 300, 0)]
        for start, part in zip((9000, 300, 0), backwards, strict=True):
            torch.testing.assert_close(part, expected[start : start + 500], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rate", RATES)
def test_the_whole_is_what_the_recipes_read(tmp_path, rate):
    path = write(tmp_path / "a.flac", rate // 2 + 1, rate, 2)
    with AudioReader(str(path)) as reader:
        utterance = read_utterance("a", str(path), reader.num_samples)
        found = reader.read(0, reader.num_samples)
    torch.testing.assert_close(found, utterance, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(found, whole(path), rtol=0, atol=TOLERANCE)


def test_parts_without_their_context_would_be_others(tmp_path):
    path = write(tmp_path / "a.wav", 44100, 44100)
    signal = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
    naive = torch.cat([resample(part, 44100, 16000) for part in signal.split(4410)])
    assert (naive - whole(path)).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("num_samples", [1, 2, 63, 440, 441, 442])
def test_very_short_files(tmp_path, num_samples):
    path = write(tmp_path / "a.wav", num_samples, 44100)
    with AudioReader(path) as reader:
        parts = [reader.read(i, i + 1) for i in range(reader.num_samples)]
    torch.testing.assert_close(torch.cat(parts), whole(path), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp3", {}),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ],
)
def test_formats_that_are_decoded_in_order(tmp_path, name, options):
    path = write(tmp_path / name, 5 * 48000 + 5, 48000, **options)
    expected = whole(path)
    ranges = [(0, 10), (5, 30000), (29000, 30000), (70000, 70500), (200, 900), (60000, None)]
    with AudioReader(path) as reader:
        assert reader.num_samples == len(expected)
        for start, stop in ranges:
            stop = reader.num_samples if stop is None else stop
            part = reader.read(start, stop)
            torch.testing.assert_close(part, expected[start:stop], rtol=0, atol=TOLERANCE)


def writable_formats():
    """All that soundfile writes, but for raw samples and what it does not read back."""
    for kind in soundfile.available_formats():
        for subtype in soundfile.available_subtypes(kind):
            if kind not in ("RAW", "SD2") and not subtype.startswith("MPEG"):
                yield kind, subtype


@pytest.mark.parametrize("form", writable_formats(), ids="-".join)
def test_parts_of_every_format_whether_it_can_be_sought_or_not(tmp_path, form):
    path, (kind, subtype) = tmp_path / "a", form
    rate = 8000 if kind in ("VOC", "WVE") else 16000  # which they can hold
    try:
        write(path, 20001, rate, format=kind, subtype=subtype)
    except soundfile.LibsndfileError as error:
        pytest.skip(f"not written by libsndfile: {error}")
    assert inspect_audio(path).problems == inspect_audio(path, "decode").problems == {}
    expected = read_audio(path)
    with AudioReader(path) as reader:
        assert reader.num_samples == len(expected) > 7000  # XI files are of 44.1 kHz
        ranges = [(0, 63), (3000, 3500), (3400, 7000), (500, 501), (6999, None), (0, None)]
        for start, stop in ranges:
            stop = reader.num_samples if stop is None else stop
            part = reader.read(start, stop)
            torch.testing.assert_close(part, expected[start:stop], rtol=0, atol=TOLERANCE)


def test_seeking_in_gsm_fails(tmp_path):
    """What the test above is for."""
    path = write(tmp_path / "a.wav", 20001, 16000, subtype="GSM610")
    with soundfile.SoundFile(path) as file, pytest.raises(soundfile.LibsndfileError):
        file.seek(500)


def test_a_silent_file_is_read(tmp_path):
    soundfile.write(tmp_path / "a.mp3", np.zeros(16000), 16000)
    with AudioReader(tmp_path / "a.mp3") as reader:
        assert reader.read(0, 16000).abs().max() < 1e-3


def test_a_closed_reader_leaves_no_file_open(tmp_path):
    with AudioReader(write(tmp_path / "a.wav", 100, 16000)) as reader:
        pass
    with pytest.raises((RuntimeError, ValueError), match="closed"):
        reader.read(0, 10)


def refusal(path):
    with pytest.raises(UserError) as caught, AudioReader(path) as reader:
        reader.read(0, reader.num_samples)
    return str(caught.value)


def test_a_file_that_cannot_be_read_is_named_with_its_cause(tmp_path):
    missing = tmp_path / "missing.wav"
    assert refusal(missing) == f"audio file '{missing}': the file is missing: restore it"
    empty = tmp_path / "empty.wav"
    empty.touch()
    assert "the file is empty (0 bytes)" in refusal(empty)
    text = tmp_path / "text.wav"
    text.write_text("no sound " * 100)
    assert f"audio file '{text}': unreadable audio" in refusal(text)
    for name in ("cut.wav", "cut.flac"):
        path = write(tmp_path / name, 16000, 16000)
        path.write_bytes(path.read_bytes()[:9000])
        assert f"audio file '{path}': truncated" in refusal(path)


def test_a_header_that_does_not_say_how_long_the_file_is(tmp_path):
    path = write(tmp_path / "a.wav", 16000, 16000)
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = b"\xff\xff\xff\xff"  # as programs write to a pipe
    path.write_bytes(data)
    assert "its header does not say how long it is: encode it again" in refusal(path)


def test_damage_in_the_middle_is_found_where_it_is_read(tmp_path):
    path = write(tmp_path / "a.flac", 160000, 16000)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 30000] = bytes(30000)
    path.write_bytes(data)
    message = refusal(path)
    assert f"audio file '{path}': samples 0 to 160000 cannot be decoded (" in message


def test_samples_that_are_not_finite(tmp_path):
    samples = np.zeros(1000, dtype=np.float32)
    samples[700] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    assert "samples 0 to 1000 hold NaN or infinity: encode it again" in refusal(tmp_path / "a.wav")
    with AudioReader(tmp_path / "a.wav") as reader:
        assert not reader.read(0, 700).any()


def test_a_sample_rate_that_is_too_costly(tmp_path):
    path = write(tmp_path / "a.wav", 1000, 44101)
    assert "has almost no divisor in common with 16000 Hz" in refusal(path)


@pytest.mark.parametrize(("start", "stop"), [(-1, 5), (5, 4), (0, 101)])
def test_a_range_outside_of_the_file(tmp_path, start, stop):
    path = write(tmp_path / "a.wav", 100, 16000)
    with AudioReader(path) as reader, pytest.raises(UserError) as caught:
        reader.read(start, stop)
    assert str(caught.value) == (
        f"audio file '{path}': samples {start} to {stop} of 100: give a range inside of the file"
    )
