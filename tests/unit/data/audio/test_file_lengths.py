"""The length of a file is what decoding yields: joined files, tags, headers that say otherwise."""

import io
import struct

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.audio.files import inspect_audio
from speechbrain_pom.data.audio.reader import AudioReader, read_audio

RATE = 16000
NUM_SAMPLES = 40063
KBIT = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)  # of MPEG-2 layer III
FRAME = 576  # samples of its frames
ID3V1 = b"TAG" + b"x" * 125


def noise(num_samples=NUM_SAMPLES, channels=1):
    """Of changing loudness, so that a variable bit rate varies."""
    rng = np.random.default_rng(num_samples)
    loud = np.repeat(rng.uniform(0.01, 0.3, num_samples // 800 + 1), 800)[:num_samples]
    return (loud[:, None] * rng.standard_normal((num_samples, channels))).clip(-1, 1)


def encode(signal, kind="MP3", rate=RATE, **options):
    stream = io.BytesIO()
    soundfile.write(stream, signal, rate, format=kind, **options)
    return stream.getvalue()


def frames_of(data):
    """The frames of an MP3 file of this sample rate; the first one holds its table."""
    found, place = [], 0
    while place < len(data):
        size = 72 * KBIT[data[place + 2] >> 4] * 1000 // RATE + (data[place + 2] >> 1 & 1)
        found.append(data[place : place + size])
        place += size
    return found


def without_table(mode):
    data = encode(noise(), bitrate_mode=mode, compression_level=0.5)
    return b"".join(frames_of(data)[1:])


def id3v2(num_bytes):
    size = bytes(num_bytes >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + bytes(num_bytes)


def ape(num_bytes):
    facts = struct.pack("<IIII8x", 2000, num_bytes + 32, 1, 0)
    return b"x" * num_bytes + b"APETAGEX" + facts


def read_all(path):
    with AudioReader(path) as reader:
        return reader.read(0, reader.num_samples).numpy()


def check_length(path, data, num_samples):
    """All who read a file find the same samples."""
    path.write_bytes(data)
    for how in ("headers", "decode"):
        facts = inspect_audio(path, how)
        assert facts.problems == {}
        assert facts.num_samples == num_samples
    whole = read_audio(path).numpy()
    assert len(whole) == num_samples
    np.testing.assert_allclose(read_all(path), whole, rtol=0, atol=1e-6)
    return whole


@pytest.mark.parametrize("count", [2, 6])
def test_joined_mp3_files_are_read_one_after_the_other(tmp_path, count):
    data = encode(noise())
    (tmp_path / "one.mp3").write_bytes(data)
    assert soundfile.info(tmp_path / "one.mp3").frames == NUM_SAMPLES
    one = soundfile.read(tmp_path / "one.mp3", dtype="float32")[0]
    whole = check_length(tmp_path / "all.mp3", count * data, count * NUM_SAMPLES)
    assert soundfile.info(tmp_path / "all.mp3").frames == NUM_SAMPLES, "the test can fail"
    np.testing.assert_allclose(whole, np.tile(one, count), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["VARIABLE", "AVERAGE", "CONSTANT"])
@pytest.mark.parametrize("tag", ["none", "id3v1", "picture"])
def test_mp3_streams_without_a_table(tmp_path, mode, tag):
    data = without_table(mode)
    tagged = {"none": data, "id3v1": data + ID3V1, "picture": id3v2(40000) + data}[tag]
    expected = len(frames_of(data)) * FRAME - 529  # those that each decoder leaves out
    check_length(tmp_path / "a.mp3", tagged, expected)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (id3v2(40000), b""),
        (id3v2(300) + id3v2(40000), ID3V1),
        (b"", ape(50000) + ID3V1),
        (b"", b"LYRICSBEGIN" + b"x" * 3000 + b"003011LYRICS200"),
        (b"", bytes(range(256)) * 40),
        (bytes(500), b"\0" * 5000),
    ],
    ids=["picture", "two_tags", "ape", "lyrics", "junk", "zeros"],
)
def test_tags_around_a_good_mp3_file_are_not_taken_for_sound(tmp_path, before, after):
    data = encode(noise())
    (tmp_path / "plain.mp3").write_bytes(data)
    plain = soundfile.read(tmp_path / "plain.mp3", dtype="float32")[0]
    whole = check_length(tmp_path / "a.mp3", before + data + after, NUM_SAMPLES)
    np.testing.assert_allclose(whole, plain, rtol=0, atol=1e-6)


def test_tags_between_joined_mp3_files(tmp_path):
    tagged = id3v2(40000) + encode(noise()) + ID3V1
    check_length(tmp_path / "a.mp3", 3 * tagged, 3 * NUM_SAMPLES)
    bare = without_table("CONSTANT")
    expected = 2 * len(frames_of(bare)) * FRAME - 529
    check_length(tmp_path / "b.mp3", 2 * (id3v2(40000) + bare), expected)


def test_a_table_that_knows_of_fewer_frames(tmp_path):
    data = encode(noise())
    more = frames_of(data)[1:] * 2
    path = tmp_path / "a.mp3"
    path.write_bytes(data + b"".join(more))
    facts = inspect_audio(path)
    assert facts.problems == {}
    assert facts.num_samples > 3 * NUM_SAMPLES - FRAME
    assert len(read_all(path)) == facts.num_samples == len(read_audio(path))


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("num_samples", [1, 63, 500, 5001])
def test_a_plain_mp3_file_is_what_libsndfile_says(tmp_path, rate, channels, num_samples):
    path = tmp_path / "a.mp3"
    path.write_bytes(encode(noise(num_samples, channels), rate=rate))
    signal = soundfile.read(path, dtype="float32", always_2d=True)[0]
    facts = inspect_audio(path)
    assert (facts.num_samples, facts.problems) == (num_samples, {})
    if rate == 44100:
        return
    assert len(read_audio(path)) == -(-num_samples * RATE // rate) == len(read_all(path))
    if rate == RATE:
        np.testing.assert_allclose(read_audio(path), signal.mean(1), rtol=0, atol=1e-6)


def problems_of(path, data, how="headers"):
    path.write_bytes(data)
    return inspect_audio(path, how).problems


def test_mp3_files_whose_sound_is_not_all_there(tmp_path):
    data = encode(noise())
    cut = problems_of(tmp_path / "cut.mp3", data[:-1500])["truncated or damaged"]
    assert cut.startswith("truncated or damaged: decoding ends after ")
    assert cut.endswith(f" of {NUM_SAMPLES} samples: restore it")
    hole = data[:4000] + bytes(3000) + data[7000:]
    assert list(problems_of(tmp_path / "hole.mp3", hole)) == ["truncated or damaged"]
    bare = without_table("CONSTANT")
    hole = bare[:4000] + bytes(3000) + bare[7000:]
    assert list(problems_of(tmp_path / "bare.mp3", hole)) == ["truncated or damaged"]


def test_joined_streams_of_two_kinds_are_refused(tmp_path):
    mono, stereo = encode(noise()), encode(noise(channels=2))
    assert problems_of(tmp_path / "a.mp3", mono + stereo)["joined"] == (
        "joins a stream of 16000 Hz, 1 channel(s) and one of 16000 Hz, 2 channel(s): encode it "
        "again"
    )
    bare = without_table("CONSTANT") + b"".join(frames_of(stereo)[1:])
    problem = problems_of(tmp_path / "b.mp3", bare)["more than its header says"]
    assert problem.endswith(" bytes follow them: encode it again")
    assert (
        ": encode it again"
        in problems_of(
            tmp_path / "c.ogg", encode(noise(), "OGG") + encode(noise(channels=2), "OGG")
        )["joined"]
    )


@pytest.mark.parametrize("codec", ["VORBIS", "OPUS"])
def test_joined_ogg_files_are_read_one_after_the_other(tmp_path, codec):
    data = encode(noise(), "OGG", subtype=codec)
    (tmp_path / "one.ogg").write_bytes(data)
    one = soundfile.read(tmp_path / "one.ogg", dtype="float32")[0]
    whole = check_length(tmp_path / "all.ogg", 3 * data, 3 * NUM_SAMPLES)
    assert soundfile.info(tmp_path / "all.ogg").frames == NUM_SAMPLES, "the test can fail"
    np.testing.assert_allclose(whole, np.tile(one, 3), rtol=0, atol=1e-6)
    check_length(tmp_path / "tagged.ogg", data + ID3V1, NUM_SAMPLES)
    check_length(tmp_path / "before.ogg", id3v2(300) + data, NUM_SAMPLES)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF", "AU"])
def test_joined_files_of_formats_that_have_no_joining(tmp_path, kind):
    """Players read the first one alone: nothing may be lost without a word."""
    data = encode(noise(), kind)
    for how in ("headers", "decode"):
        problem = problems_of(tmp_path / "a", data + data, how)["more than its header says"]
        assert problem == (
            f"holds {NUM_SAMPLES} samples by its header, but {len(data)} bytes follow them: "
            "encode it again"
        )
        assert problems_of(tmp_path / "b", data + ID3V1, how) == {}
        assert problems_of(tmp_path / "c", data + ape(90000), how) == {}
        assert problems_of(tmp_path / "d", data + bytes(3000), how) == {}
        assert problems_of(tmp_path / "e", id3v2(300) + data, how) == {}


def with_sizes(data, riff, samples):
    """A WAV file whose header says so many bytes, for the file and for its samples."""
    return data[:4] + struct.pack("<I", riff) + data[8:40] + struct.pack("<I", samples) + data[44:]


@pytest.mark.parametrize("riff", [1036, 2 * NUM_SAMPLES + 36])
def test_a_size_that_does_not_fit_into_the_header(tmp_path, riff):
    """As of recordings of more than 4 GiB: the header says what is left of the size."""
    data = with_sizes(encode(noise(), "WAV"), riff, 1000)
    for how in ("headers", "decode"):
        problem = problems_of(tmp_path / "a.wav", data, how)["more than its header says"]
        assert problem == (
            f"holds 500 samples by its header, but {len(data) - 1044} bytes follow them: encode "
            "it again"
        )
    short = data[:20000] if riff < 2000 else with_sizes(data[:20000], 19992, 1000)
    assert list(problems_of(tmp_path / "b.wav", short)) == ["more than its header says"]
    assert problems_of(tmp_path / "c.wav", encode(noise(500), "WAV") + bytes(4096)) == {}


@pytest.mark.parametrize(("riff", "samples"), [(0, 0), (36, 0), (2**32 - 1, 2**32 - 1)])
def test_a_recording_that_was_not_closed_is_not_called_empty(tmp_path, riff, samples):
    data = with_sizes(encode(noise(), "WAV"), riff, samples)
    assert problems_of(tmp_path / "a.wav", data) == {
        "unknown length": "its header does not say how long it is: encode it again"
    }


def test_long_metadata_after_the_samples_is_not_taken_for_sound(tmp_path):
    data = encode(noise(), "WAV")
    data += b"LIST" + struct.pack("<I", 200000) + bytes(range(200)) * 1000
    path = tmp_path / "a.wav"
    check_length(path, with_sizes(data, len(data) - 8, 2 * NUM_SAMPLES), NUM_SAMPLES)
