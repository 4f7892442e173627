"""Lists of trials: what is read, how utterances are found, what is drawn, what is refused."""

import re

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.prepare import prepare_csvs, prepare_data
from speechbrain_pom.data.trials import (
    Trial,
    draw_trials,
    name_by_ids,
    prepare_trial_lists,
    read_trials,
    write_trials,
)
from speechbrain_pom.utils.errors import UserError

ROWS = {
    "u1": {"wav": "/data/wav/id1/a/1.wav"},
    "u2": {"wav": "/data/wav/id1/b/1.wav"},
    "u3": {"wav": "/data/wav/id2/a/1.wav"},
}


def test_utterances_are_named_by_id_or_by_the_end_of_their_path():
    trials = [
        Trial("id1/a/1.wav", "u2", True),
        Trial("./id2/a/1", "/data/wav/id1/b/1.wav", False),
    ]
    assert name_by_ids(trials, ROWS, "list") == [
        Trial("u1", "u2", True),
        Trial("u3", "u2", False),
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("id9/a/1.wav", "list names 1 utterances that are in no test set: id9/a/1.wav"),
        ("a/1.wav", "list: 'a/1.wav' may be u1 or u3: write the ID"),
        ("d1/a/1.wav", "in no test set"),  # the end of a path, not of a name
    ],
)
def test_utterances_that_cannot_be_told(name, message):
    with pytest.raises(UserError, match=re.escape(message)):
        name_by_ids([Trial(name, "u2", True)], ROWS, "list")


def test_what_is_written_is_what_is_read(tmp_path):
    trials = [Trial("a", "b", True), Trial("a", "c", False)]
    assert read_trials(write_trials(tmp_path / "new/trials.txt", trials)) == trials
    (tmp_path / "words.txt").write_text("target a b\n\nnontarget a c\n")
    assert read_trials(tmp_path / "words.txt") == trials


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 a b\n2 a c\n", "line 2: '2 a c' is no trial: give 1 or 0"),
        ("1 a b c\n", "line 1: '1 a b c' is no trial"),
        ("1 a b\n", "has no trial of two speakers"),
        ("0 a b\n", "has no trial of one speaker"),
        ("", "has no trial at all"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, text, message):
    (tmp_path / "trials.txt").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_trials(tmp_path / "trials.txt")


def test_drawn_trials_depend_on_the_ids_alone():
    speakers = {f"{s}-{u}": str(s) for s in range(5) for u in range(6)}
    trials = draw_trials(speakers, 60)
    assert draw_trials(dict(reversed(speakers.items())), 60) == trials
    assert [trial.is_same for trial in trials] == [True] * 30 + [False] * 30
    assert all((speakers[t.enrolment] == speakers[t.test]) == t.is_same for t in trials)
    assert len(set(trials)) == 60
    everything = draw_trials(speakers, 10**6)
    assert len(everything) == 30 * 29 // 2


@pytest.fixture
def corpus(tmp_path):
    """Six files of three speakers, and CSV files for training, validation and test."""
    lines = {part: ["id,path,speaker"] for part in ("train", "valid", "test")}
    for number in range(6):
        for part, text in lines.items():
            name = f"{part}/s{number % 3}/{number}.flac"
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(number)
            soundfile.write(path, rng.uniform(-0.5, 0.5, 4000), 16000)
            text.append(f"{part}{number},{name},s{number % 3}")
    for part, text in lines.items():
        (tmp_path / f"{part}.csv").write_text("\n".join(text) + "\n")
    (tmp_path / "easy.txt").write_text("1 s0/0.flac s0/3.flac\n0 s0/0.flac test1\n")
    return tmp_path


def prepare(corpus, **keys):
    made = {
        "output_folder": corpus / "run",
        "data_folder": str(corpus),
        **{f"{part}_csv": f"{part}.csv" for part in ("train", "valid", "test")},
        "trials": None,
        "max_bad_share": 0.0,
        "check_data": "headers",
        **keys,
    }

    def from_csv(*args):
        return prepare_csvs(*args, label_columns=("spk_id", "speaker"))

    return prepare_data(made, None, from_csv)


def test_lists_of_trials_of_a_recipe(corpus):
    manifests = prepare(corpus, trials="easy.txt")
    trials = read_trials(manifests.trial_lists["easy"])
    assert trials == [Trial("test0", "test3", True), Trial("test0", "test1", False)]
    assert prepare(corpus, skip_prep=True) == manifests
    several = prepare(corpus, trials={"hard": "easy.txt"}, test_csv={"all": "test.csv"})
    assert list(several.trial_lists) == ["hard"]
    assert list(several.tests) == ["all"]
    assert prepare(corpus).trial_lists is None


def test_a_preparation_returns_trials(corpus):
    parts = {part: corpus / f"{part}.csv" for part in ("train", "valid", "test")}

    def own(data_folder, save_folder):
        return {**parts, "test": {"one": parts["test"]}, "trials": corpus / "easy.txt"}

    keys = dict.fromkeys(("train_csv", "valid_csv", "test_csv"))
    manifests = prepare(corpus, prepare=own, **keys)
    assert (list(manifests.tests), list(manifests.trial_lists)) == (["one"], ["easy"])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"trials": "none.txt"}, "no such list of trials: '"),
        ({"trials": "easy.txt", "test_csv": None}, "but there is no test_csv"),
        ({"prepare": lambda **_: {"dev": "a"}}, "(parts: train, valid, test, verification, trials"),
    ],
)
def test_lists_that_cannot_be_used(corpus, keys, message):
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(corpus, **keys)


def test_two_lists_of_one_name(corpus):
    with pytest.raises(UserError, match="have one name: rename one file"):
        prepare_trial_lists(["a/x.txt", "b/x.txt"], {"test": corpus / "test.csv"}, corpus)
