"""Preparations of the corpora of MP3S, on small copies of their layouts."""

import importlib
import json
import logging
import os
import shutil
import sys
from functools import partial

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.data.prepare import prepare_csvs, prepare_data
from speechbrain_pom.data.segments import Recording, Segment, cut_recordings
from speechbrain_pom.data.trials import read_trials
from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT

OPTIONS = {"num_workers": 1, "show_progress": False}
CV_HEADER = ["client_id", "path", "sentence", "up_votes", "down_votes"]
CV_HEADER += ["age", "gender", "accents", "locale", "segment"]
TURNS = {"F": ("neu", "exc", "fru"), "M": ("ang", "hap", "xxx", "sad")}


@pytest.fixture
def prepare(monkeypatch):
    """Function of a corpus' name: its preparation, imported as the recipes of the folder do."""
    monkeypatch.syspath_prepend(ROOT / "recipes/MP3S")

    def load(name):
        module = f"prepare_{name}"
        sys.modules.pop(module, None)
        return importlib.import_module(module).prepare

    return load


def write_audio(path, duration_s=0.5, sample_rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(round(duration_s * sample_rate), 0.25), sample_rate)


def columns(path, *names):
    """{utterance: the values of some columns} of a manifest."""
    return {key: tuple(row[name] for name in names) for key, row in read_manifest(path).items()}


def librispeech(root):
    for split in ("train-clean-100", "dev-clean", "test-clean", "test-other"):
        chapter = root / split / "19" / "198"
        write_audio(chapter / f"19-198-{len(split):04d}.flac")
        (chapter / "19-198.trans.txt").write_text(f"19-198-{len(split):04d} SAID {split}\n")


def commonvoice(root):
    clips = {"train": [1.5, 12.0, 1.75], "dev": [11.0], "test": [1.5, 10.5]}
    for part, durations in clips.items():
        lines = ["\t".join(CV_HEADER)]
        for number, duration_s in enumerate(durations):
            name = f"common_voice_cy_{part}{number}.mp3"
            write_audio(root / "clips" / name, duration_s, 48000)
            sentence = f'Mae\'r "tŷ"  hwn, {number} o 012.'
            lines.append("\t".join([f"s{number}", name, sentence, "2", "0", "", "", "", "cy", ""]))
        write_audio(root / "clips" / f"short_{part}.mp3", 0.5, 48000)
        lines.append(f"s9\tshort_{part}.mp3\tDim diolch.")  # its empty columns are cut off
        (root / f"{part}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def slurp(root, lists="", audio=""):
    scenarios = {"train": [f"scenario{n}" for n in range(18)], "devel": ["scenario3"], "test": []}
    scenarios["test"] = ["scenario5", "scenario5"]
    (root / lists).mkdir(parents=True, exist_ok=True)
    for part, labels in scenarios.items():
        lines = []
        for number, label in enumerate(labels):
            files = [f"audio--{part}{number}{kind}.flac" for kind in ("", "-headset")]
            for name in files:
                write_audio(root / audio / "slurp_real" / name)
            row = {"slurp_id": number, "sentence": f"do {number}", "scenario": label, "action": "x"}
            lines.append(json.dumps(row | {"recordings": [{"file": name} for name in files]}))
        (root / lists / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


def iemocap(root):
    for session in range(1, 6):
        folder = root / f"Session{session}"
        (folder / "dialog/EmoEvaluation/Categorical").mkdir(parents=True)
        dialog = f"Ses0{session}F_impro01"
        lines = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        for letter, emotions in TURNS.items():
            for number, emotion in enumerate(emotions):
                turn = f"{dialog}_{letter}{number:03d}"
                write_audio(folder / "sentences/wav" / dialog / f"{turn}.wav")
                lines.append(f"[{number}.0 - {number}.5]\t{turn}\t{emotion}\t[2.5, 2.5, 2.5]")
                lines += ["C-E2:\tNeutral;\t()", ""]
        (folder / f"dialog/EmoEvaluation/{dialog}.txt").write_text("\n".join(lines))


def voxceleb(root, dev="wav", test="wav", meta="meta"):
    for speaker in ("id10001", "id10002"):
        for number in range(1, 13):
            write_audio(root / dev / speaker / f"video{number % 3}" / f"{number:05d}.wav")
    for speaker in ("id10270", "id10300"):
        for number in (1, 2):
            write_audio(root / test / speaker / "x6uYqmx31kE" / f"{number:05d}.wav")
    write_audio(root / test / "id10300" / "unused" / "00001.wav")
    a, b = "id10270/x6uYqmx31kE", "id10300/x6uYqmx31kE"
    (root / meta).mkdir(parents=True, exist_ok=True)
    lines = [f"1 {a}/00001.wav {a}/00002.wav", f"0 {a}/00001.wav {b}/00001.wav"]
    lines += [f"0 {a}/00002.wav {b}/00002.wav"]
    (root / meta / "veri_test2.txt").write_text("\n".join(lines) + "\n")


def buckeye(root, folder="s{}"):
    for speaker in ("01", "02", "36", "38"):
        place = root / folder.format(speaker)
        write_audio(place / f"s{speaker}01a.wav", 12.0)
        words = [(1.0, "<SIL>"), (1.5, "yes"), (2.0, "i"), (3.25, "know"), (4.0, "<IVER>")]
        words += [(4.5, "uh"), (4.75, "far"), (5.0, "too"), (5.25, "short"), (6.0, "{B_TRANS}")]
        words += [
            (6.5, "it's"),
            (7.0, "all"),
            (7.5, "one"),
            (8.0, "uh"),
            (9.5, "two"),
            (11.0, "of"),
        ]
        lines = ["signal s", "type 0", "color 122", "separator ;", "nfields 1", "#"]
        lines += [f"   {end:.6f}  122 {word}; y eh s; y eh s; UH" for end, word in words]
        lines += ["   11.000000  122", "   11.900000  122 end; eh n; eh n; NN"]
        (place / f"s{speaker}01a.words").write_text("\n".join(lines) + "\n")


MAKERS = (librispeech, commonvoice, slurp, iemocap, voxceleb, buckeye)
MAKERS = {maker.__name__: maker for maker in MAKERS}


@pytest.fixture
def corpus(tmp_path):
    """Function of a corpus' name: a small copy of its layout."""

    def make(name, **places):
        MAKERS[name](tmp_path / "corpus", **places)
        return tmp_path / "corpus"

    return make


def test_librispeech(prepare, corpus, tmp_path):
    made = prepare("librispeech")(corpus("librispeech"), tmp_path / "csv", **OPTIONS)
    assert set(made) == {"train", "valid", "test"}
    assert columns(made["train"], "spk_id", "wrd") == {
        "19-198-0015": ("19", "SAID train-clean-100")
    }
    assert set(columns(made["valid"])) == {"19-198-0009"}
    tests = {name: columns(path, "wrd") for name, path in made["test"].items()}
    assert tests == {
        name: {"19-198-0010": (f"SAID {name}",)} for name in ("test-clean", "test-other")
    }


def test_commonvoice(prepare, corpus, tmp_path, caplog):
    root = corpus("commonvoice")
    with caplog.at_level(logging.INFO):
        made = prepare("commonvoice")(root, tmp_path / "csv", **OPTIONS)
    assert columns(made["train"], "spk_id", "wrd", "label", "wav") == {
        f"common_voice_cy_train{number}": (
            f"s{number}",
            f'Mae\'r "tŷ" hwn, {number} o 012.',
            "",
            str(root / f"clips/common_voice_cy_train{number}.mp3"),
        )
        for number in (0, 2)
    }
    durations = [row["duration"] for row in read_manifest(made["train"]).values()]
    assert durations == pytest.approx([1.5, 1.75], abs=0.1)
    assert set(columns(made["valid"])) == {"common_voice_cy_dev0"}  # of any length
    assert set(columns(made["test"])) == {"common_voice_cy_test0", "common_voice_cy_test1"}
    assert "train: 1 utterances (0.003 h) are longer than 10 s and left out" in caplog.text
    assert "train.tsv: 1 sentences of under 3 words left out" in caplog.text


@pytest.mark.parametrize("places", [{}, {"lists": "dataset/slurp", "audio": "audio"}])
def test_slurp(prepare, corpus, places, tmp_path, caplog):
    root = corpus("slurp", **places)
    made = prepare("slurp")(root, tmp_path / "csv", **OPTIONS)
    assert "scenarios" not in caplog.text
    audio = root / places.get("audio", "") / "slurp_real"
    expected = {
        f"audio--train{number}{kind}": (
            f"scenario{number}",
            f"do {number}",
            str(audio / f"audio--train{number}{kind}.flac"),
        )
        for number in range(18)
        for kind in ("", "-headset")
    }
    assert columns(made["train"], "label", "wrd", "wav") == expected
    assert columns(made["valid"], "label") == {
        f"audio--devel0{kind}": ("scenario3",) for kind in ("", "-headset")
    }
    assert len(columns(made["test"])) == 4


@pytest.mark.parametrize(("fold", "other"), [(1, 2), (2, 1), (5, 6), (10, 9)])
def test_iemocap(prepare, corpus, fold, other, tmp_path):
    root = corpus("iemocap")
    made = prepare("iemocap")(root, tmp_path / "csv", test_speaker=fold, **OPTIONS)
    found = {part: columns(path, "spk_id", "label", "wav") for part, path in made.items()}
    for part, speaker in (("test", fold), ("valid", other)):
        session, letter = (speaker + 1) // 2, "F" if speaker % 2 else "M"
        dialog = f"Ses0{session}F_impro01"
        labels = {"F": ("neu", "hap"), "M": ("ang", "hap", None, "sad")}[letter]
        assert found[part] == {
            f"{dialog}_{letter}{number:03d}": (
                str(speaker),
                label,
                str(
                    root
                    / f"Session{session}/sentences/wav/{dialog}/{dialog}_{letter}{number:03d}.wav"
                ),
            )
            for number, label in enumerate(labels)
            if label
        }
    speakers = {speaker for speaker, *_ in found["train"].values()}
    assert speakers == {str(number) for number in range(1, 11)} - {str(fold), str(other)}
    assert sum(map(len, found.values())) == 25


@pytest.mark.parametrize(
    "places", [{}, {"dev": "vox1_dev_wav/wav", "test": "vox1_test_wav/wav", "meta": ""}]
)
def test_voxceleb(prepare, corpus, places, tmp_path):
    root = corpus("voxceleb", **places)
    made = prepare("voxceleb")(root, tmp_path / "csv", valid_share=0.2, **OPTIONS)
    found = {
        part: columns(made[part], "spk_id", "label", "wav") for part in ("train", "valid", "test")
    }
    heard = found["train"] | found["valid"]
    assert set(heard) == {
        f"{speaker}/video{number % 3}/{number:05d}"
        for speaker in ("id10001", "id10002")
        for number in range(1, 13)
    }
    for key, (speaker, label, wav) in (heard | found["test"]).items():
        folder = places.get("dev" if key in heard else "test", "wav")
        assert (speaker, label, wav) == (key[:7], key[:7], str(root / folder / f"{key}.wav"))
    assert len(heard) == len(found["train"]) + len(found["valid"]) > len(found["train"])
    assert set(found["test"]) == {
        f"{speaker}/x6uYqmx31kE/{number:05d}"
        for speaker in ("id10270", "id10300")
        for number in (1, 2)
    }
    first = read_trials(made["trials"])[0]
    assert first == ("id10270/x6uYqmx31kE/00001", "id10270/x6uYqmx31kE/00002", True)
    write_audio(root / places.get("dev", "wav") / "id10001/new/00001.wav")
    again = prepare("voxceleb")(root, tmp_path / "csv", valid_share=0.2, **OPTIONS)
    assert set(columns(again["valid"])) >= set(found["valid"])  # others do not change sides


@pytest.mark.parametrize("folder", ["", "s{0}/s{0}01a"])
def test_buckeye(prepare, corpus, folder, tmp_path, caplog):
    root = corpus("buckeye", folder=folder)
    with caplog.at_level(logging.INFO):
        made = prepare("buckeye")(root, tmp_path / "csv", min_duration_s=1.5, **OPTIONS)
    found = {part: columns(path, "spk_id", "wrd", "num_samples") for part, path in made.items()}
    texts = {"0001000-0003250": "YES I KNOW", "0006000-0007500": "IT'S ALL ONE"}
    speakers = {"train": ("01", "02"), "valid": ("36",), "test": ("38",)}
    for part, names in speakers.items():
        assert found[part] == {
            f"s{name}01a-{times}": (f"s{name}", text, 16 * (int(times[8:]) - int(times[:7])))
            for name in names
            for times, text in texts.items()
        }
    assert "s0101a.words: 1 lines without a word or out of order end an utterance" in caplog.text
    # By the published rule the second run is too short; what is there is not cut again.
    cut = {path: path.stat().st_mtime_ns for path in (tmp_path / "csv/segments").iterdir()}
    again = prepare("buckeye")(root, tmp_path / "csv", **OPTIONS)
    assert set(columns(again["train"])) == {f"s{name}01a-0001000-0003250" for name in ("01", "02")}
    assert cut == {path: path.stat().st_mtime_ns for path in (tmp_path / "csv/segments").iterdir()}


def test_segments_are_the_samples_of_their_recording(tmp_path):
    samples = np.random.default_rng(0).integers(-30000, 30000, 16000).astype("int16")
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    wanted = Recording(tmp_path / "a.wav", [Segment("part", 0.25, 0.625)])
    assert cut_recordings([wanted], tmp_path / "cut", show_progress=False) == {}
    cut, _ = soundfile.read(tmp_path / "cut/part.flac", dtype="int16")
    np.testing.assert_array_equal(cut, samples[4000:10000])
    # A recording that changed is cut again.
    soundfile.write(tmp_path / "a.wav", samples[::-1], 16000)
    os.utime(tmp_path / "cut/part.flac", (1, 1))
    cut_recordings([wanted], tmp_path / "cut", show_progress=False)
    cut, _ = soundfile.read(tmp_path / "cut/part.flac", dtype="int16")
    np.testing.assert_array_equal(cut, samples[::-1][4000:10000])


@pytest.mark.parametrize("name", MAKERS)
def test_the_recipes_take_what_is_written(name, prepare, corpus, tmp_path):
    """And a second preparation keeps the files as they are."""
    root, folder = corpus(name), tmp_path / "run/manifests/prepare"
    is_asr = name in ("librispeech", "commonvoice", "buckeye")
    hparams = dict.fromkeys(("train_csv", "valid_csv", "test_csv", "trials", "verification_csv"))
    hparams |= {"max_bad_share": 0.0, "check_data": "headers", "data_folder": str(root)}
    hparams |= {"output_folder": tmp_path / "run", "prepare": partial(prepare(name), **OPTIONS)}

    def from_csv(*arguments):
        return prepare_csvs(*arguments, is_asr, None if is_asr else ["label"])

    manifests = prepare_data(hparams, None, from_csv)
    written = {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")}
    assert prepare_data(hparams, None, from_csv) == manifests
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.csv")} == written
    splits = {"train": "train-clean-100.csv", "valid": "dev-clean.csv"}
    splits = splits if name == "librispeech" else {}
    for part in ("train", "valid"):
        names = ("spk_id", "wrd", "num_samples") if is_asr else ("spk_id", "label", "num_samples")
        expected = columns(folder / splits.get(part, f"{part}.csv"), *names)
        assert columns(getattr(manifests, part), *names) == expected
    names = {"test-clean", "test-other"} if name == "librispeech" else {"test"}
    assert set(manifests.tests) == names
    assert bool(manifests.trial_lists) == (name == "voxceleb")


# What --corpus says (LibriSpeech is in other tests), the maker of its copy, the recipe.
BY_COMMAND = {
    "welsh": ("commonvoice", "asr"),
    "buckeye": ("buckeye", "asr"),
    "slurp": ("slurp", "classification"),
    "iemocap": ("iemocap", "classification"),
    "voxceleb1": ("voxceleb", "verification"),
}
SMALL = {
    "pretrained": "null",
    "upstream": "log_mel",
    "number_of_epochs": 1,
    "hidden_size": 4,
    "channels": 8,
    "pooled_channels": 12,
    "embedding_size": 6,
    "num_pieces": 20,
    "num_bootstrap": 10,
    "num_workers": 0,
    "device": "cpu",
    "check_data": "decode",
    "max_bad_share": 0.6,
}
KEYS = {
    "asr": {"hidden_size", "num_pieces"},
    "classification": {"embedding_size"},
    "verification": {"channels", "pooled_channels", "embedding_size"},
}


@pytest.fixture(scope="module")
def commands(recipes, tmp_path_factory):
    """Exit code, stderr and folder of a run of each corpus, with a silent file in its training."""
    calls, folders = [], {}
    for name, (maker, recipe) in BY_COMMAND.items():
        root = tmp_path_factory.mktemp(name)
        MAKERS[maker](root / "corpus")
        silence(root / "corpus", maker)
        values = {"corpus": name, "data_folder": root / "corpus", "output_folder": root / "run"}
        left_out = set().union(*KEYS.values()) - KEYS[recipe]
        values |= {key: value for key, value in SMALL.items() if key not in left_out}
        words = [f"recipes/MP3S/train_{recipe}.py", f"hparams/mp3s_{recipe}.yaml"]
        calls.append(words + [str(word) for key in values for word in (f"--{key}", values[key])])
        folders[name] = root / "run"
    results = recipes.call_all(calls)
    return {name: (*found, folders[name]) for name, found in zip(folders, results, strict=True)}


def silence(root, maker):
    """Make an utterance of training all zero: only reading every sample finds that."""
    path = {
        "commonvoice": "clips/common_voice_cy_train0.mp3",
        "buckeye": "s02/s0201a.wav",
        "slurp": "slurp_real/audio--train3.flac",
        "iemocap": "Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F000.wav",
        "voxceleb": "wav/id10001/video1/00001.wav",
    }[maker]
    info = soundfile.info(root / path)
    soundfile.write(root / path, np.zeros(info.frames), info.samplerate)


@pytest.mark.parametrize("name", BY_COMMAND)
def test_corpora_by_their_commands(commands, name):
    """The keys about damage reach the preparation."""
    code, stderr, folder = commands[name]
    assert code == 0, stderr[-3000:]
    results = json.loads((folder / "results.json").read_text())
    assert results.keys() & {"test", "trials"}
    problems = [json.loads(path.read_text())["bad"] for path in folder.rglob("*.problems.json")]
    kinds = {kind for bad in problems for item in bad for kind in item["problems"]}
    assert kinds == {"silence"}


@pytest.mark.parametrize("name", MAKERS)
def test_a_missing_corpus_is_one_line_with_where_to_get_it(name, prepare, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    places = {None: "is null", "nowhere": "does not exist", "file": "is not a folder"}
    for place, state in (places | {"empty": "has no "}).items():
        with pytest.raises(UserError) as error:
            prepare(name)(place and tmp_path / place, tmp_path / "csv")
        message = str(error.value)
        assert state in message
        assert "https://" in message
        assert "\n" not in message


DAMAGES = {
    "commonvoice": [
        ("clips/common_voice_cy_train2.mp3", None, "common_voice_cy_train2 (clips/common_"),
        ("train.tsv", ('Mae\'r "tŷ"  hwn, 0 o 012.', " "), "has no transcript: restore it in"),
        ("dev.tsv", ("sentence", "text"), "has no column sentence in its first line"),
        ("dev.tsv", ("\tcy\t", "\tcy\t\t"), "line 2: 11 columns, but the first line names 10"),
        ("test.tsv", None, "has no test.tsv: get Common Voice 11.0 from https://"),
    ],
    "slurp": [
        ("slurp_real/audio--train3.flac", None, "audio--train3 (slurp_real/audio--train3.flac)"),
        ("devel.jsonl", ('"scenario3"', '""'), "has no label: restore it in the corpus' list"),
        ("devel.jsonl", ("}", ""), 'line 1: \'{"slurp_id": 0'),
        ("devel.jsonl", ("recordings", "files"), "object 1 of devel.jsonl names no recording"),
        ("test.jsonl", ("audio--test1", "audio--test0"), "is named with different values"),
        ("test.jsonl", None, "has no test.jsonl or dataset/slurp/test.jsonl: get SLURP"),
    ],
    "iemocap": [
        (
            "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M003.wav",
            None,
            "Ses02F_impro01_M003 (Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M003.wav)",
        ),
        ("Session3/dialog/EmoEvaluation/Ses03F_impro01.txt", ("[", "("), "has no line '[START"),
        ("Session3/dialog/EmoEvaluation/Ses03F_impro01.txt", ("_M0", "_X0"), "no speaker F or M"),
        ("Session4/sentences", None, "has no Session4/sentences/wav: get IEMOCAP from https://"),
    ],
    "voxceleb": [
        ("wav/id10300/x6uYqmx31kE/00002.wav", None, "id10300/x6uYqmx31kE/00002 (wav/id10300/"),
        ("meta/veri_test2.txt", None, "has no veri_test2.txt or meta/veri_test2.txt: get Vox"),
        ("meta/veri_test2.txt", ("0 id10270", "2 id10270"), "line 2: '2 id10270"),
    ],
    "buckeye": [
        ("s01/s0101a.wav", None, "s0101a-0001000-0003250 (/"),
        ("s36/s3601a.words", ("#", "-"), "has no line '#' below its header: restore the file"),
        ("s38/s3801a.words", ("yes", "<SIL>"), "name no utterance for test: restore them"),
        ("s02/s0201a.words", ("3.250000", "63.2500"), "ends at 12.000 s, before the end of this"),
    ],
    "librispeech": [
        ("test-other", None, "has no test-other: get LibriSpeech from https://www.openslr.org/12"),
        ("dev-clean/19/198/19-198.trans.txt", None, "no transcript: dev-clean/19/198"),
    ],
}
CASES = [(name, *case) for name, cases in DAMAGES.items() for case in cases]


@pytest.mark.parametrize(("name", "path", "change", "message"), CASES)
def test_damage_is_named(name, path, change, message, prepare, corpus, tmp_path):
    root = corpus(name)
    if change is None:
        (shutil.rmtree if (root / path).is_dir() else lambda file: file.unlink())(root / path)
    else:
        text = (root / path).read_text(encoding="utf-8")
        assert change[0] in text
        (root / path).write_text(text.replace(*change), encoding="utf-8")
    with pytest.raises(UserError) as error:
        prepare(name)(root, tmp_path / "csv", **OPTIONS)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_that_repeats_another_is_one_utterance(prepare, corpus, tmp_path, caplog):
    root = corpus("slurp")
    with open(root / "devel.jsonl", "a") as stream:
        stream.write((root / "devel.jsonl").read_text())
    with caplog.at_level(logging.INFO):
        made = prepare("slurp")(root, tmp_path / "csv", **OPTIONS)
    assert set(columns(made["valid"])) == {"audio--devel0", "audio--devel0-headset"}
    assert "valid: 2 lines repeat another one" in caplog.text


def test_a_list_that_is_no_text(prepare, corpus, tmp_path):
    root = corpus("slurp")
    (root / "test.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"test.jsonl' cannot be read \(.*\): restore the file"):
        prepare("slurp")(root, tmp_path / "csv", **OPTIONS)


def test_bad_utterances_are_counted_and_may_be_left_out(prepare, corpus, tmp_path, caplog):
    root = corpus("slurp")
    (root / "slurp_real/audio--train3.flac").unlink()
    text = (root / "train.jsonl").read_text().replace('"scenario7"', "null")
    (root / "train.jsonl").write_text(text)
    (root / "slurp_real/audio--train0.flac").write_bytes(b"fLaC")
    with pytest.raises(
        UserError, match=r"train: 32 utterances \(0.004 h\) are good, 4 \(0.000 h\)"
    ):
        prepare("slurp")(root, tmp_path / "csv", **OPTIONS)
    made = prepare("slurp")(root, tmp_path / "csv", max_bad_share=0.2, **OPTIONS)
    left = {"audio--train3", "audio--train0", "audio--train7", "audio--train7-headset"}
    assert not left & set(columns(made["train"]))
    assert len(columns(made["train"])) == 32
    problems = json.loads((tmp_path / "csv/train.problems.json").read_text())["bad"]
    assert {item["utterance"] for item in problems} == left
    assert "SLURP has 18 scenarios, training here 17" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("iemocap", {"test_speaker": 11}, "test_speaker is 11: choose one of 1 to 10"),
        ("voxceleb", {"valid_share": 1}, "valid_share is 1: it must be a share"),
        (
            "voxceleb",
            {"valid_share": 0.99},
            "leaves 2 speakers without training (id10001, id10002)",
        ),
        ("commonvoice", {"max_duration_s": 0.1}, "train: all 3 utterances are longer than max_dur"),
        ("commonvoice", {"min_words": 9}, "name no utterance for train: restore them"),
    ],
)
def test_options_that_cannot_work(name, options, message, prepare, corpus, tmp_path):
    with pytest.raises(UserError) as error:
        prepare(name)(corpus(name), tmp_path / "csv", **options, **OPTIONS)
    assert message in str(error.value)
