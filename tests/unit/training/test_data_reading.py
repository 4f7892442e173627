"""Datasets give each utterance as its manifest says, or say which file is not so any more."""

import logging

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.dataio.dataio import read_audio
from torch.utils.data import DataLoader

from speechbrain_pom.data.manifest import COLUMNS, write_manifest
from speechbrain_pom.training.dataset import add_transcripts, audio_dataset, leave_out, make_sampler
from speechbrain_pom.utils.errors import UserError

ADVICE = (
    "it changed since the data were prepared; `python -m speechbrain_pom check DATA_FOLDER` "
    "(for other layouts with --manifest) lists all such files; fix them and start again"
)
LENGTHS = {"a": 1600, "b": 501, "c": 48000}


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for name, size in LENGTHS.items():
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(size), 16000)
        values = (name, size / 16000, size, f"$data_root/{name}.wav", "1", "ABC")
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    write_manifest(tmp_path / "train.csv", rows)
    return tmp_path


def test_signals_are_bitwise_those_of_speechbrain(folder):
    dataset = audio_dataset(folder / "train.csv", folder)
    assert [item["id"] for item in dataset] == list(LENGTHS)
    for item in dataset:
        assert torch.equal(item["sig"], read_audio(str(folder / f"{item['id']}.wav")))


def test_durations_outside_the_range_are_left_out(folder, caplog):
    limits = {"min_duration_s": 0.05, "max_duration_s": 2.0}
    caplog.set_level(logging.INFO)
    assert audio_dataset(folder / "train.csv", folder, **limits).data_ids == ["a"]
    assert (
        "2 of 3 utterances (0.00 h) last less than 0.05 or more than 2 s: left out" in caplog.text
    )
    with pytest.raises(UserError) as caught:
        audio_dataset(folder / "train.csv", folder, min_duration_s=5.0)
    assert str(caught.value) == (
        f"{folder / 'train.csv'}: none of the 3 utterances lasts from 5 to inf s: "
        "change min_duration_s or max_duration_s"
    )
    write_manifest(folder / "none.csv", [])
    with pytest.raises(UserError, match="none of the 0 utterances lasts from 0 to inf s"):
        audio_dataset(folder / "none.csv", folder)


def test_a_file_that_is_gone_names_itself(folder):
    dataset = audio_dataset(folder / "train.csv", folder)
    (folder / "b.wav").unlink()
    with pytest.raises(RuntimeError) as caught:
        dataset[1]
    path = folder / "b.wav"
    assert str(caught.value) == f"utterance 'b': audio file '{path}' cannot be read: {ADVICE}"


def test_a_truncated_file_names_itself(folder):
    dataset = audio_dataset(folder / "train.csv", folder)
    path = folder / "b.wav"
    path.write_bytes(path.read_bytes()[:244])
    assert len(read_audio(str(path))) == 100, "SpeechBrain says nothing: the test can fail"
    with pytest.raises(RuntimeError) as caught:
        dataset[1]
    assert str(caught.value) == (
        f"utterance 'b': audio file '{path}' has 100 samples, its manifest says 501: {ADVICE}"
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_utterance_is_left_out_silently_by_a_loader(folder, num_workers):
    dataset = audio_dataset(folder / "train.csv", folder)
    (folder / "c.wav").write_bytes(b"")
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers)
    with pytest.raises(
        RuntimeError, match=r"utterance 'c': audio file .* cannot be read: it chang"
    ):
        list(loader)


class Letters:
    """Units that are numbered letters."""

    def encode(self, text):
        return [ord(letter) - ord("A") for letter in text]


def test_labels_and_signals_of_the_same_reader(folder):
    dataset = add_transcripts(
        audio_dataset(folder / "train.csv", folder), Letters(), bad={"b": "too long"}, drop=True
    )
    assert dataset.data_ids == ["a", "c"]
    assert dataset[0]["tokens"].tolist() == [0, 1, 2]
    assert dataset[0]["sig"].shape == (1600,)
    (folder / "a.wav").write_bytes(b"")
    with pytest.raises(RuntimeError, match="utterance 'a': audio file"):
        dataset[0]


def test_utterances_that_cannot_be_aligned_are_named(folder, caplog):
    dataset = audio_dataset(folder / "train.csv", folder)
    kept = add_transcripts(dataset, Letters(), bad={"b": "too long"}, drop=False)
    assert kept.data_ids == list(LENGTHS)
    problem = "utterances have more labels than CTC can align with their frames, "
    assert f"1 of 3 {problem}but are scored: b: too long" in caplog.text
    add_transcripts(dataset, Letters(), bad={"b": "too long"}, drop=True)
    assert f"1 of 3 {problem}and are left out: b: too long" in caplog.text
    with pytest.raises(UserError, match="no utterance can be used: 3 of 3 utterances have more"):
        add_transcripts(dataset, Letters(), bad=dict.fromkeys(LENGTHS, "too long"), drop=True)


def test_what_is_left_out_is_named_and_counted(folder, caplog):
    dataset = audio_dataset(folder / "train.csv", folder)
    assert leave_out(dataset, {}, "are odd") is dataset
    assert not caplog.text
    kept = leave_out(dataset, {"b": "31 ms", "a": "100 ms"}, "are odd")
    assert "2 of 3 utterances are odd, and are left out: b: 31 ms; a: 100 ms" in caplog.text
    assert [(item["id"], len(item["sig"])) for item in kept] == [("c", 48000)]
    with pytest.raises(UserError) as caught:
        leave_out(dataset, dict.fromkeys(LENGTHS, "odd"), "are odd")
    assert str(caught.value) == (
        "no utterance can be used: 3 of 3 utterances are odd, and are left out: a: odd; b: odd; "
        "c: odd: use other data"
    )


def test_sampler_sorts_by_duration(folder):
    dataset = audio_dataset(folder / "train.csv", folder)
    sampler = make_sampler(dataset, batch_size=1, order="descending", seed=0)
    assert [dataset.data_ids[index] for batch in sampler for index in batch] == ["c", "a", "b"]
