"""The user's own audio: any nesting, format and sample rate; lengths exact, parts stable."""

import json
import logging
import math
import os

import numpy as np
import pytest
import soundfile
import torch
from torchaudio.functional import resample

from speechbrain_pom.data.audio.files import resampled_length
from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.training.dataset import audio_dataset, read_utterance

# name: sample rate, channels, samples (awkward ones), format, subtype
FILES = {
    "talk.flac": (16000, 1, 16001, None, None),
    "radio/a/SHOUT.WAV": (44100, 2, 44101, None, None),
    "radio/a/b/c/low.wav": (8000, 1, 63, None, None),
    "radio/one.aiff": (22050, 1, 1, None, None),
    "web/news.ogg": (48000, 2, 48007, None, None),
    "web/call.opus": (48000, 1, 9601, "OGG", "OPUS"),
    "web/music.mp3": (44100, 2, 30011, None, None),
    "my show/über $ 5%.wav": (11025, 3, 501, None, None),
}


def write(path, rate, channels, num_samples, kind=None, subtype=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(num_samples)
    samples = 0.1 * rng.standard_normal((num_samples, channels))
    soundfile.write(path, samples, rate, format=kind, subtype=subtype)


@pytest.fixture
def folder(tmp_path):
    for name, form in FILES.items():
        write(tmp_path / "audio" / name, *form)
    (tmp_path / "audio/notes.txt").write_text("no audio")
    (tmp_path / "audio/opt_librispeech_prepare.pkl").write_bytes(b"never opened")
    (tmp_path / "audio/._talk.flac").write_bytes(b"hidden")
    return tmp_path / "audio"


def prepare(folder, **options):
    return prepare_audio_folder(
        folder, folder.parent / "csv", **{"show_progress": False, **options}
    )


def everything(folder):
    return read_manifest(folder.parent / "csv/audio.csv")


def refusal(folder, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what the tests look at)
        prepare(folder, **options)
    return str(caught.value)


def stamps(folder):
    files = [(path.name, path.stat()) for path in (folder.parent / "csv").iterdir()]
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in files}


def test_every_file_is_read_as_its_manifest_says(folder):
    paths = prepare(folder, valid_share=0.3)
    parts = [audio_dataset(paths[name], folder) for name in ("train", "valid")]
    items = [item for part in parts for item in part]
    assert len(items) == len(FILES)
    rows = everything(folder)
    for item in items:
        row = rows[item["id"]]
        rate, _, num_samples, *_ = FILES[row["wav"].removeprefix("$data_root/")]
        assert item["sig"].shape == (math.ceil(num_samples * 16000 / rate),)
        assert item["sig"].dtype == torch.float32
        assert row["num_samples"] == len(item["sig"])
        assert row["duration"] == len(item["sig"]) / 16000
        assert row["sample_rate"] == str(rate)
        assert row["spk_id"] == row["wrd"] == ""


def test_mixed_down_and_resampled_like_torchaudio(folder):
    path = str(folder / "radio/a/SHOUT.WAV")
    samples, rate = soundfile.read(path, dtype="float32")
    expected = resample(torch.from_numpy(samples).mean(1), rate, 16000)
    read = [read_utterance("a", path, "16001") for _ in range(2)]
    torch.testing.assert_close(read[0], expected, rtol=0, atol=1e-6)
    assert torch.equal(*read)


def test_length_is_exact_where_torchaudio_rounds_it(tmp_path):
    """It computes lengths in float32, which has no odd numbers above 2**24."""
    num_samples, exact = 12_582_917, 16_777_223
    assert resampled_length(num_samples, 12000) == exact
    samples = torch.full((num_samples,), 0.25)
    assert len(resample(samples, 12000, 16000)) == exact - 1, "the test can fail"
    path = str(tmp_path / "long.wav")
    soundfile.write(path, samples.numpy(), 12000, "PCM_U8")
    assert len(read_utterance("long", path, exact)) == exact


def test_resampled_length_is_the_ceiling():
    for rate in (8000, 11025, 16000, 22050, 44100, 48000):
        for num_samples in (1, 63, 500, 2**40 + 1):
            exact = resampled_length(num_samples, rate)
            assert 0 <= exact * rate - num_samples * 16000 < rate


def test_ids_are_paths_or_safe_and_unique(tmp_path):
    names = ["a/b.wav", "a b.wav", "a_b.wav", "a,b.wav", 'a"b.wav', "ä.flac", "x.wav", "x.flac"]
    for index, name in enumerate(names):
        write(tmp_path / "audio" / name, 16000, 1, 100 + index)
    prepare(tmp_path / "audio")
    rows = everything(tmp_path / "audio")
    ids = {row["wav"].removeprefix("$data_root/"): key for key, row in rows.items()}
    assert len(set(ids.values())) == len(names)
    for name in ("a/b.wav", "a_b.wav", "ä.flac", "x.wav", "x.flac"):
        assert ids[name] == name
    for name in ("a b.wav", "a,b.wav", 'a"b.wav'):
        assert ids[name].startswith("a_b-")
    (tmp_path / "audio/a,b.wav").unlink()
    prepare(tmp_path / "audio")
    assert ids["a b.wav"] in everything(tmp_path / "audio"), "an ID depends on its own path alone"


def test_validation_share_is_deterministic_and_stable(tmp_path):
    folder = tmp_path / "audio"
    for index in range(60):
        write(folder / f"{index}.wav", 16000, 1, 10)
    paths = prepare(folder, valid_share=0.25)
    before = {name: set(read_manifest(path)) for name, path in paths.items()}
    assert 5 <= len(before["valid"]) <= 25
    assert not before["valid"] & before["train"]
    for index in range(60, 80):
        write(folder / f"{index}.wav", 16000, 1, 10)
    prepare(folder, valid_share=0.25)
    for name, path in paths.items():
        assert before[name] <= set(read_manifest(path))
    for share, size in ((1e-9, 1), (1 - 1e-9, 79)):
        assert len(read_manifest(prepare(folder, valid_share=share)["valid"])) == size


def test_nothing_is_done_when_nothing_changed(folder, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "speechbrain_pom.data.records")
    prepare(folder)
    assert "audio: 8 utterances (0.001 h); written to" in caplog.text
    before = stamps(folder)
    with monkeypatch.context() as patch:
        patch.setattr("speechbrain_pom.data.audio_folder.inspect_audio", None)
        prepare(folder, num_workers=1)
        assert stamps(folder) == before
        os.utime(folder / "talk.flac", ns=(1, 1))
        with pytest.raises(TypeError):  # the guard above can fail
            prepare(folder, num_workers=1)
    prepare(folder)
    changed = {name for name, stamp in stamps(folder).items() if stamp != before[name]}
    assert changed == {"audio.csv", "audio.json"}
    prepare(folder, check_data="decode")
    assert json.loads((folder.parent / "csv/audio.json").read_text())["source"]["check_data"] == (
        "decode"
    )


def test_worker_count_does_not_change_a_byte(folder):
    contents = []
    for num_workers in (1, 2):
        paths = prepare_audio_folder(
            folder, folder.parent / f"{num_workers}", num_workers=num_workers, show_progress=False
        )
        contents.append([path.read_bytes() for path in paths.values()])
    assert contents[0] == contents[1]


def test_links_are_followed_once(folder, tmp_path):
    write(tmp_path / "disk/far.wav", 16000, 1, 100)
    (folder / "elsewhere").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(folder)
    prepare(folder)
    assert "elsewhere/far.wav" in everything(folder)
    assert len(everything(folder)) == len(FILES) + 1


def test_audio_that_does_not_end_as_audio_files_do_is_named_each_time(folder, caplog):
    (folder / "radio/talk.tmp").write_bytes((folder / "talk.flac").read_bytes())
    (folder / "noending").write_bytes((folder / "web/news.ogg").read_bytes())
    sentence = (
        "2 file(s) hold audio, but do not end as audio files do, and are not read: rename "
        "noending, radio/talk.tmp"
    )
    for _ in range(2):
        caplog.clear()
        prepare(folder)
        assert f"{folder}: {sentence}" in caplog.text
    assert len(everything(folder)) == len(FILES)
    for name in FILES:
        (folder / name).unlink()
    assert refusal(folder).endswith(f"pass the folder that holds your audio files; {sentence}")


BAD = {
    "cut.flac": "truncated or damaged: decoding ends after 0 of 5000 samples (",
    "cut.mp3": "truncated or damaged: decoding ends after ",
    "cut.wav": "truncated: 8956 of 10000 bytes of samples are there: restore it",
    "empty.opus": "the file is empty (0 bytes): restore or remove it",
    "gone.wav": "the file is missing: restore it",
    "odd_rate.wav": "sample rate 44101 Hz has almost no divisor in common with 16000 Hz, too "
    "costly on reading: resample it",
    "phone.m4a": ".m4a files cannot be read: convert it, for example to FLAC",
    "price$x.wav": "its path holds '$' or an unprintable character: rename it",
    "text.wav": "unreadable audio (Format not recognised): restore it",
}


def test_all_problems_at_once(folder):
    for name in ("cut.flac", "cut.mp3", "cut.wav"):
        write(folder / name, 16000, 1, 5000)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:9000] if name == "cut.wav" else content[:-700])
    (folder / "empty.opus").touch()
    (folder / "phone.m4a").write_bytes(bytes(4) + b"ftypM4A ")
    (folder / "gone.wav").symlink_to("nowhere")
    write(folder / "odd_rate.wav", 44101, 1, 100)
    write(folder / "price$x.wav", 16000, 1, 100)
    (folder / "text.wav").write_text("RIFF, said the dog")
    headline, *items = refusal(folder).split(" | ")
    assert headline.startswith("audio: 8 utterances (0.001 h) are good, 9 (0.000 h) are bad: more")
    assert headline.endswith(f"all are listed in '{folder.parent / 'csv/audio.problems.json'}'")
    found = [item.split(" (", 1)[1].split("): ", 1) for item in items]
    assert [file for file, _ in found] == list(BAD)
    for (_, problem), expected in zip(found, BAD.values(), strict=True):
        assert problem.startswith(expected)
    prepare(folder, max_bad_share=0.6)
    assert len(everything(folder)) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"valid_share": 0}, "valid_share is 0: it must be a share, 0 < x < 1"),
        ({"valid_share": 1.0}, "valid_share is 1.0: it must be a share, 0 < x < 1"),
        ({"valid_share": "1%"}, "valid_share is '1%': it must be a share, 0 < x < 1"),
        ({"max_bad_share": 1}, "max_bad_share is 1: it must be a share, 0 <= x < 1"),
        ({"num_workers": 0}, "num_workers is 0: it must be an integer of at least 1"),
        ({"check_data": None}, "check_data is None: choose headers or decode"),
    ],
)
def test_wrong_arguments(folder, options, message):
    assert refusal(folder, **options) == message


def test_folders_without_enough_audio(tmp_path):
    folder = tmp_path / "audio"
    assert refusal(folder) == (
        f"data folder '{folder}' does not exist: pass the folder that holds your audio files"
    )
    folder.mkdir()
    message = refusal(folder)
    assert message.startswith(f"data folder '{folder}' holds no audio files (.aif, .aifc, ")
    assert message.endswith("), at any depth: pass the folder that holds your audio files")
    write(folder / "only.wav", 16000, 1, 10)
    assert refusal(folder) == (
        f"'{tmp_path / 'csv/audio.csv'}' holds 1 audio file: training and validation need one "
        "each, at least; add files"
    )
