"""Manifests of the tasks from layouts and CSV files, and data that cannot be a task."""

import pytest

from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.probe import prepare_probe
from speechbrain_pom.utils.errors import UserError

DEFAULTS = {
    "keywords": None,
    "train_splits": [],
    "valid_split": None,
    "test_splits": [],
    "verification_splits": [],
    "valid_share": 0.1,
    "test_share": 0.2,
    "verification_share": 0.0,
    "label_column": None,
    "max_bad_share": 0.0,
    "check_data": "headers",
}
SPLITS = {"train_splits": ["train-clean-100"], "valid_split": "dev-clean"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make_mini_corpus(tmp_path_factory.mktemp("data") / "mini", 2, show_progress=False)


def words(root, write_audio, classes=("go", "stop"), num_speakers=30):
    for number, label in enumerate(classes):
        for speaker in range(num_speakers):
            write_audio(root / label / f"{speaker:02d}_nohash_0.wav", 1000 + speaker + 100 * number)
    return root


def prepare(data_folder, folder, **options):
    sources = options.pop("sources", None)
    return prepare_probe({"data_folder": data_folder, **DEFAULTS, **options}, folder, sources)


def ids(path):
    return set(read_manifest(path))


def test_speakers_of_librispeech(corpus, tmp_path):
    options = {"task": "speaker", "data_layout": "librispeech", **SPLITS}
    splits = ["test-clean", "test-other", "dev-clean"]
    data = prepare(corpus, tmp_path, **options, verification_splits=splits, test_share=0.4)
    train, test = read_manifest(data.train), read_manifest(data.tests["test"])
    assert all(row["label"] == row["spk_id"] for row in train.values())
    assert {row["label"] for row in test.values()} <= {row["label"] for row in train.values()}
    assert not train.keys() & test.keys() | train.keys() & ids(data.valid)
    trials = read_manifest(data.trials)
    assert {row["wav"].split("/")[1] for row in trials.values()} == set(splits)
    with pytest.raises(UserError, match=r"speaker '\d+', who is in training too"):
        prepare(corpus, tmp_path, **options, verification_splits=["train-clean-100"])


def test_keywords_of_librispeech(corpus, tmp_path):
    keywords = ["UNDER", "BEHIND", "NEAR"]
    options = {"task": "keyword", "data_layout": "librispeech", **SPLITS}
    options["test_splits"] = ["test-clean", "test-other"]
    data = prepare(corpus, tmp_path, keywords=keywords, **options)
    assert data.trials is None
    assert data.tests.keys() == {"test-clean", "test-other"}
    for path in (data.train, data.valid, *data.tests.values()):
        for row in read_manifest(path).values():
            assert set(row["wrd"].split()) & set(keywords) == {row["label"]}
    with pytest.raises(UserError, match="keywords is null: the keyword task"):
        prepare(corpus, tmp_path, **options)
    with pytest.raises(UserError, match=r"are of 0 class\(es\): a keyword probe needs two"):
        prepare(corpus, tmp_path, keywords=["OVER", "BESIDE"], **options)


def test_folders_of_keywords(write_audio, tmp_path):
    root = words(tmp_path / "words", write_audio, ("go", "stop", "yes"))
    write_audio(root / "_background_noise_/noise.wav")
    write_audio(root / "loose.wav")
    options = {"task": "keyword", "data_layout": "folder"}
    data = prepare(root, tmp_path / "csv", **options)
    parts = [ids(path) for path in (data.train, data.valid, data.tests["test"])]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 90
    chosen = prepare(root, tmp_path / "csv", **options, keywords=["go", "yes"])
    assert {row["label"] for row in read_manifest(chosen.train).values()} == {"go", "yes"}
    assert ids(chosen.train) < ids(data.train) | parts[0]
    with pytest.raises(UserError, match="keywords has 'no', and there is no folder of that name"):
        prepare(root, tmp_path / "csv", **options, keywords=["go", "no"])


def test_lists_of_speech_commands_decide(write_audio, tmp_path):
    root = words(tmp_path / "words", write_audio)
    (root / "testing_list.txt").write_text("go/03_nohash_0.wav\nstop/04_nohash_0.wav\n")
    options = {"task": "keyword", "data_layout": "folder"}
    data = prepare(root, tmp_path / "csv", **options)
    assert ids(data.tests["test"]) == {"go/03_nohash_0.wav", "stop/04_nohash_0.wav"}
    (root / "validation_list.txt").write_text("go/05_nohash_0.wav\n")
    data = prepare(root, tmp_path / "csv", **options)
    assert ids(data.valid) == {"go/05_nohash_0.wav"}
    assert len(ids(data.train)) == 57


def test_folders_of_parts_decide(write_audio, tmp_path):
    root = tmp_path / "data"
    words(root / "train", write_audio)
    words(root / "test", write_audio, num_speakers=2)
    options = {"task": "keyword", "data_layout": "folder"}
    data = prepare(root, tmp_path / "csv", **options)
    assert all(key.startswith("test/") for key in ids(data.tests["test"]))
    assert len(ids(data.tests["test"])) == 4
    assert len(ids(data.train) | ids(data.valid)) == 60
    write_audio(root / "test/left/a.wav")
    with pytest.raises(UserError, match="'test' has utterances of left, and training has none"):
        prepare(root, tmp_path / "csv", **options)


def test_folders_of_speakers(write_audio, tmp_path):
    for speaker in range(12):
        for number in range(15):
            write_audio(tmp_path / f"data/id{speaker}/v{number % 3}/{number}.wav", 1000 + number)
    options = {"task": "speaker", "data_layout": "folder", "verification_share": 0.3}
    data = prepare(tmp_path / "data", tmp_path / "csv", **options)
    labels = {
        name: {row["label"] for row in read_manifest(path).values()}
        for name, path in {"train": data.train, "trials": data.trials, **data.tests}.items()
    }
    assert labels["train"] == labels["test"]
    assert labels["trials"]
    assert not labels["trials"] & labels["train"]


def test_verification_that_was_asked_for_has_trials(write_audio, tmp_path):
    """Said before anything is trained: later there would be no figure, and no error."""
    for speaker in "12":
        for number in range(30):
            write_audio(tmp_path / f"data/train/{speaker}/7/{speaker}-7-{number:04d}.flac")
    for split, speakers in {"one": "3", "two": "45"}.items():
        for speaker in speakers:
            write_audio(tmp_path / f"data/{split}/{speaker}/7/{speaker}-7-0000.flac")
    options = {"task": "speaker", "data_layout": "librispeech", "train_splits": ["train"]}
    for split, counted in {"one": "1 utterances of 1", "two": "2 utterances of 2"}.items():
        with pytest.raises(UserError, match=f"no trials can be made of {counted} speakers"):
            prepare(tmp_path / "data", tmp_path / "csv", **options, verification_splits=[split])
    assert prepare(tmp_path / "data", tmp_path / "csv", **options).trials is None
    options = {"task": "speaker", "data_layout": "folder", "verification_share": 0.01}
    with pytest.raises(UserError, match="no trials can be made of 0 utterances of 0 speakers"):
        prepare(tmp_path / "data/train", tmp_path / "csv", **options)
    options["verification_share"] = 0.0
    assert prepare(tmp_path / "data/train", tmp_path / "csv", **options).trials is None


def test_bad_files_are_counted(write_audio, tmp_path):
    root = words(tmp_path / "words", write_audio)
    (root / "go/broken.wav").write_text("no audio")
    options = {"task": "keyword", "data_layout": "folder"}
    with pytest.raises(ValueError, match=r"go/broken\.wav"):
        prepare(root, tmp_path / "csv", **options)
    data = prepare(root, tmp_path / "csv", **options, max_bad_share=0.1)
    parts = (data.train, data.valid, data.tests["test"])
    assert sum(len(ids(path)) for path in parts) == 60


def test_calls_that_cannot_work(write_audio, tmp_path):
    root = words(tmp_path / "words", write_audio, num_speakers=1)
    options = {"task": "keyword", "data_layout": "folder"}
    cases = {
        "task is 'emotion': choose speaker or keyword or label": {"task": "emotion"},
        "data_layout is 'csv': choose librispeech or folder": {"data_layout": "csv"},
        "test_share is 0.5: give a share, 0 <= x < 0.5": {"test_share": 0.5},
        "no utterance is left for": {"test_share": 0.0},
    }
    for words_, wrong in cases.items():
        with pytest.raises(UserError, match=words_):
            prepare(root, tmp_path / "csv", **{**options, **wrong})
    for number in range(2):
        write_audio(tmp_path / f"flat/{number}.wav")
    with pytest.raises(UserError, match="has no folders of classes: data_layout folder is"):
        prepare(tmp_path / "flat", tmp_path / "csv2", **options)


@pytest.fixture
def write_csv(write_audio, tmp_path):
    """Write a CSV file of audio: rows of (id, split, speaker, mood)."""

    def write(rows):
        for key, *_ in rows:
            write_audio(tmp_path / f"audio/{key}.wav", 1000 + len(key))
        lines = [f"{key},audio/{key}.wav,{','.join(rest)}" for key, *rest in rows]
        (tmp_path / "own.csv").write_text("\n".join(["id,path,split,speaker,mood", *lines]) + "\n")
        return f"{tmp_path}/own.csv"

    return write


MOODS = [
    (f"{split}{number}", split, f"{split}-s{number % 3}", ("sad", "glad", "")[number % 3])
    for split, count in {"train": 60, "dev": 6, "test": 6}.items()
    for number in range(count)
]


def labels(path):
    return {row["label"] for row in read_manifest(path).values()}


def test_csv_files_of_any_label(write_csv, tmp_path):
    path = write_csv(MOODS)
    sources = {part: f"{path}?split={part}" for part in ("train", "dev", "test")}
    sources = {"train": sources["train"], "valid": sources["dev"], "test": [sources["test"]]}
    options = {"task": "label", "label_column": "mood"}
    data = prepare(None, tmp_path / "csv", sources=sources, **options)
    assert ids(data.train) == {key for key, split, _, mood in MOODS if split == "train" and mood}
    assert ids(data.valid) == {key for key, split, _, mood in MOODS if split == "dev" and mood}
    assert data.tests.keys() == {"own-test"}
    assert labels(data.train) == labels(data.tests["own-test"]) == {"sad", "glad"}
    assert data.trials is None


def test_parts_that_csv_files_do_not_have_are_taken_from_training(write_csv, tmp_path):
    sources = {"train": f"{write_csv(MOODS)}?split=train", "valid": None, "test": None}
    options = {"task": "keyword", "label_column": "mood"}
    data = prepare(None, tmp_path / "csv", sources=sources, keywords=["sad", "glad"], **options)
    parts = [ids(path) for path in (data.train, data.valid, data.tests["test"])]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40
    with pytest.raises(UserError, match="keywords has 'bad', and there is no row of that name"):
        prepare(None, tmp_path / "csv", sources=sources, keywords=["bad"], **options)


def test_speakers_of_csv_files(write_csv, tmp_path):
    path = write_csv([*MOODS, ("late", "late", "train-s0", "sad")])
    sources = {"train": f"{path}?split=train", "verification": f"{path}?split=test"}
    data = prepare(None, tmp_path / "csv", sources=sources, task="speaker")
    assert labels(data.train) == labels(data.tests["test"]) == {f"train-s{i}" for i in range(3)}
    assert labels(data.trials) == {f"test-s{i}" for i in range(3)}
    with pytest.raises(UserError, match=r"speaker 'train-s\d', who is in training too"):
        prepare(
            None,
            tmp_path / "csv",
            sources=sources | {"verification": f"{path}?split=late"},
            task="speaker",
        )


def test_csv_files_that_cannot_be_a_task(write_csv, tmp_path):
    path = write_csv(MOODS)
    train = {"train": f"{path}?split=train"}
    cases = {
        "own.csv' has no column label: its first line must name it": ({}, train),
        "own.csv' has no column tone: its first line": ({"label_column": "tone"}, train),
        "ID 'train0' is both in 'train' and in 'valid'": (
            {"label_column": "mood"},
            train | {"valid": f"{path}?split=train"},
        ),
        "is called 'valid', which is the name of another manifest": (
            {"label_column": "mood"},
            train | {"test": "valid.csv"},
        ),
    }
    for message, (options, sources) in cases.items():
        with pytest.raises(UserError, match=message):
            prepare(None, tmp_path / "csv", sources=sources, task="label", **options)
    with pytest.raises(UserError, match="task label needs classes: give train_csv, or data_layout"):
        prepare(None, tmp_path / "csv", task="label", data_layout="librispeech")
