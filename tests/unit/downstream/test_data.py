"""Manifests of verification and recognition, and the files that tests leave."""

import re

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.downstream.answers import read_wrong_answers
from speechbrain_pom.downstream.data import (
    prepare_recognition,
    prepare_verification,
    task_datasets,
)
from speechbrain_pom.utils.errors import UserError

KEYS = {
    "data_folder": None,
    "data_layout": "folder",
    "label_column": None,
    "valid_share": 0.3,
    "verification_share": 0.4,
    "max_bad_share": 0.0,
    "check_data": "headers",
}


@pytest.fixture
def corpus(tmp_path):
    """Five utterances, in two sessions, of each of six speakers; CSV files of four and of two."""
    lines = {"train": ["id,path,speaker"], "test": ["id,path,speaker"]}
    for speaker in range(6):
        for number in range(5):
            name = f"s{speaker}/{number // 3}/{number}.flac"
            path = tmp_path / "wav" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(number)
            soundfile.write(
                path, rng.uniform(-0.5, 0.5, 3000 + 500 * ((number + speaker) % 5)), 16000
            )
            lines["train" if speaker < 4 else "test"].append(
                f"u{speaker}-{number},wav/{name},s{speaker}"
            )
    for part, text in lines.items():
        (tmp_path / f"{part}.csv").write_text("\n".join(text) + "\n")
    return tmp_path


def sources(corpus, **others):
    parts = {"train": str(corpus / "train.csv"), "test": str(corpus / "test.csv")}
    return {"valid": None, "trials": None, **parts, **others}


def test_validation_is_held_out_of_the_training_speakers(corpus):
    made = prepare_verification(KEYS, corpus / "csv", sources(corpus))
    train, valid, test = (
        read_manifest(path) for path in (made.train, made.valid, made.tests["test"])
    )
    assert len(train) + len(valid) == 20
    assert not set(train) & set(valid)
    speakers = [{row["label"] for row in part.values()} for part in (train, valid, test)]
    assert speakers[1] <= speakers[0] == {"s0", "s1", "s2", "s3"}
    assert speakers[2] == {"s4", "s5"}
    again = prepare_verification(KEYS, corpus / "other", sources(corpus))
    assert set(read_manifest(again.valid)) == set(valid)
    datasets = task_datasets(made, None, max_duration_s=0.25)
    lasting = [row for row in train.values() if row["duration"] <= 0.25]
    assert len(datasets["train"]) == len(lasting) < len(train)
    assert len(datasets["test"]) == len(test) == 10


def test_a_folder_of_speakers(corpus):
    keys = {**KEYS, "data_folder": str(corpus / "wav")}
    made = prepare_verification(keys, corpus / "csv")
    train, trials = (read_manifest(path) for path in (made.train, made.tests["verification"]))
    speakers = [{row["label"] for row in part.values()} for part in (train, trials)]
    assert not speakers[0] & speakers[1]
    assert len(speakers[0] | speakers[1]) == 6
    with pytest.raises(UserError, match="the data have no other speakers for trials"):
        prepare_verification({**keys, "verification_share": 0.0}, corpus / "none")


def test_trials_that_cannot_be_made(corpus):
    one = f"{corpus / 'test.csv'}?speaker=s4"
    with pytest.raises(UserError, match=re.escape("give other test_csv, or a list of trials")):
        prepare_verification(KEYS, corpus / "csv", sources(corpus, test=one))
    twice = {"a": str(corpus / "test.csv"), "b": str(corpus / "test.csv")}
    with pytest.raises(UserError, match="ID 'u4-0' is both in"):
        prepare_verification(KEYS, corpus / "csv2", sources(corpus, test=twice))


def test_the_layout_of_librispeech(tmp_path):
    corpus = make_mini_corpus(tmp_path / "mini", duration_min=0.5, show_progress=False)
    keys = {
        **KEYS,
        "data_folder": str(corpus),
        "train_splits": ["train-clean-100"],
        "valid_split": "dev-clean",
        "test_splits": ["test-clean", "test-other"],
    }
    made = prepare_recognition(keys, tmp_path / "csv")
    assert list(made.tests) == ["test-clean", "test-other"]
    assert all(row["wrd"] for row in read_manifest(made.train).values())


def test_what_is_no_list_of_answers(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no list of answers: run the test again"):
        read_wrong_answers(tmp_path / "a.csv")
