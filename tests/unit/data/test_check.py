"""The full check: every bad file of a folder or a manifest, found and counted."""

import json

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataio import read_audio

from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.data.check import check_data
from speechbrain_pom.data.manifest import COLUMNS


def check(folder, **options):
    return check_data(folder, **{"show_progress": False, **options})


def refusal(folder, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what the tests look at)
        check(folder, **options)
    return str(caught.value)


def found(report):
    return {item.utterance: item.problems for item in report.bad}


def spoil_all(corpus):
    """Ten utterances, one for each kind of problem; returns the expected kinds."""
    folder = corpus.add_chapter("dev-clean", 1, 2, lengths=[5000] * 11)
    path = [folder / f"1-2-{index:04d}.flac" for index in range(11)]
    corpus.write_audio(path[0], 5000, rate=8000)
    corpus.write_audio(path[1], 5000, channels=2)
    path[2].write_bytes(path[2].read_bytes()[:-100])
    wav = path[3].with_suffix(".wav")
    corpus.write_audio(wav, 5000)
    path[3].write_bytes(wav.read_bytes()[:5044])
    wav.unlink()
    path[4].write_bytes(b"")
    soundfile.write(path[5], np.zeros(5000), 16000)
    soundfile.write(path[6], np.full(5000, np.inf), 16000, "FLOAT", format="WAV")
    path[7].unlink()
    soundfile.write(path[8], np.full(300, 0.1), 16000)
    soundfile.write(path[9], np.full(40000, 0.1), 16000)
    transcripts = folder / "1-2.trans.txt"
    transcripts.write_text(transcripts.read_text().replace("1-2-0010 WORDS OF 10\n", ""))
    kinds = ["sample rate", "channels", *["truncated or damaged"] * 2, "empty", "silence"]
    kinds += ["non-finite", "missing file", "too short", "too long", "missing transcript"]
    return {f"1-2-{index:04d}": kind for index, kind in enumerate(kinds)}


def test_every_kind_of_problem_in_one_pass(corpus):
    expected = spoil_all(corpus)
    half = corpus.root / "dev-clean/1/2/1-2-0003.flac"
    assert len(read_audio(str(half))) == 2500, "SpeechBrain reads half a WAV without a word"
    report = check(corpus.root, splits=["dev-clean"], min_duration_s=0.02, max_duration_s=2.0)
    kinds = {utterance: list(problems) for utterance, problems in found(report).items()}
    short = {"84-121123-0002": ["too short"]}  # 63 samples
    assert kinds == {utterance: [kind] for utterance, kind in expected.items()} | short
    assert found(report)["1-2-0009"]["too long"] == (
        "lasts 2.5 s, more than max_duration_s=2: split it or change the limit"
    )
    assert found(report)["1-2-0008"]["too short"] == (
        "lasts 0.01875 s, less than min_duration_s=0.02: change the limit"
    )
    assert report.durations_s == [0.1, 500 / 16000]
    assert not report.is_acceptable


def test_table_and_file(corpus, tmp_path):
    spoil_all(corpus)
    report = check(corpus.root, max_bad_share=0.9)
    lines = report.table().splitlines()
    assert lines[0] == f"{corpus.root}: dev-clean, train-clean-100, train-other-500: 24 utterances"
    rows = [line[:20].strip() for line in lines[2:-1]]
    assert len(rows) == 8
    assert lines[2].split("  ")[0] == "truncated or damaged"
    files = "dev-clean/1/2/1-2-0002.flac, dev-clean/1/2/1-2-0003.flac"
    assert lines[2].endswith(f"2      0.000  {files}")
    assert lines[-1].startswith("kept 15 utterances (0.001 h), dropped 9 (0.001 h): 37.5 % is with")
    report.write(tmp_path / "check.json")
    content = json.loads((tmp_path / "check.json").read_text())
    assert [item["utterance"] for item in content["bad"]] == [i.utterance for i in report.bad]
    assert content["kinds"]["truncated or damaged"] == 2
    assert content["dropped_utterances"] == 9
    assert content["bad_share"] == 0.375
    with pytest.raises(ValueError, match=r"cannot be written \(No such file.*choose another file"):
        report.write(tmp_path / "no/check.json")


def test_first_files_only_and_printable(corpus):
    folder = corpus.add_chapter("dev-clean", 1, 2, lengths=[800] * 5)
    for path in folder.glob("*.flac"):
        path.write_bytes(b"")
    (folder / "1-2-0000.flac").rename(folder / "1\n2.flac")
    lines = check(corpus.root, need_transcripts=False).table().splitlines()
    row = next(line for line in lines if line.startswith("empty"))
    assert "'dev-clean/1/2/1\\n2.flac', " in row
    assert row.endswith(", ...")


@pytest.mark.parametrize("share", [0.0, 0.0769, 0.077, 0.5])
def test_limit(corpus, share):
    corpus.audio().write_bytes(b"")  # one of 13
    report = check(corpus.root, max_bad_share=share)
    assert report.is_acceptable is (share >= 1 / 13)
    verdict = "within" if share >= 1 / 13 else "more than"
    assert f"7.69 % is {verdict} max_bad_share={share:g}" in report.table()


def test_worker_count_changes_nothing(corpus):
    spoil_all(corpus)
    assert check(corpus.root, num_workers=1) == check(corpus.root, num_workers=3)


def test_progress_bar(corpus, capfd):
    check(corpus.root, splits=["dev-clean"], show_progress=True)
    shown = capfd.readouterr().err
    assert "dev-clean: 100%" in shown
    assert "3/3" in shown


# --- manifests ---


def write_csv(corpus, rows, columns=COLUMNS):
    path = corpus.root / "mine.csv"
    lines = [",".join(map(str, row)) for row in (columns, *rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def row(index, duration=None, num_samples=None, text="A"):
    size = (1600, 500, 63)[index]
    wav = f"$data_root/dev-clean/84/121123/84-121123-{index:04d}.flac"
    return (
        f"u{index}",
        size / 16000 if duration is None else duration,
        size if num_samples is None else num_samples,
        wav,
        "84",
        text,
    )


def test_what_preparation_writes_is_good(corpus):
    report = check(corpus.root, manifest=corpus.prepare()["dev-clean"])
    assert report.bad == []
    assert report.durations_s == [0.1, 500 / 16000, 63 / 16000]


def test_manifest_against_files(corpus):
    rows = [row(0, num_samples=1601), row(1, text=" "), row(2)]
    missing = ("u3", 1.0, 16000, "$data_root/gone.flac", "84", "A")
    report = check(corpus.root, manifest=write_csv(corpus, [*rows, missing]))
    assert found(report) == {
        "u0": {"length": "has 1600 samples, its manifest says 1601: prepare the manifest again"},
        "u1": {
            "empty transcript": "empty transcript (wrd): add its words, or remove the row",
        },
        "u3": {"missing file": "the file is missing: restore it"},
    }
    assert report.bad[0].file == "dev-clean/84/121123/84-121123-0000.flac"


@pytest.mark.parametrize(("duration", "is_good"), [(0.1, True), (0.109, True), (0.111, False)])
def test_duration_where_there_is_no_num_samples(corpus, duration, is_good):
    columns = ("ID", "duration", "wav")
    path = write_csv(corpus, [("u0", duration, row(0)[3])], columns)
    assert check(corpus.root, manifest=path).is_acceptable is is_good


def test_json_manifest(corpus):
    wav = "{data_root}/dev-clean/84/121123/84-121123-0000.flac"
    content = {
        "good": {"wav": wav, "duration": 0.1, "wrd": "GO ON"},
        "bare": {"wav": wav, "duration": 0.1},
        "long": {"wav": wav, "duration": 3.0, "wrd": "GO ON"},
    }
    path = corpus.root / "mine.json"
    path.write_text(json.dumps(content))
    assert found(check(corpus.root, manifest=path)) == {
        "bare": {
            "missing transcript": "missing transcript (wrd): add its words, or remove the row",
        },
        "long": {
            "length": "lasts 0.100 s, its manifest says 3.0 s: prepare the manifest again",
        },
    }
    assert len(check(corpus.root, manifest=path, need_transcripts=False).bad) == 1


def test_manifest_of_own_audio_may_have_any_format(corpus, tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    for index, (rate, channels) in enumerate(((44100, 2), (8000, 1), (16000, 1))):
        corpus.write_audio(folder / f"{index}.wav", 5001, rate, channels)
    prepare_audio_folder(folder, tmp_path / "csv", show_progress=False)
    report = check(folder, manifest=tmp_path / "csv/audio.csv")
    assert report.bad == []
    assert "no utterance has a transcript: a manifest for pretraining only" in report.table()
    corpus.write_audio(folder / "1.wav", 5001, 11025)
    assert found(check(folder, manifest=tmp_path / "csv/audio.csv"))["1.wav"] == {
        "sample rate": "sample rate 11025 Hz, its manifest says 8000 Hz: prepare the manifest "
        "again",
        "length": "has 7258 samples, its manifest says 10002: prepare the manifest again",
    }
    plain = "\n".join(
        line.rsplit(",", 1)[0] for line in (tmp_path / "csv/audio.csv").read_text().splitlines()
    )
    (tmp_path / "plain.csv").write_text(plain)
    problems = found(check(folder, manifest=tmp_path / "plain.csv"))["0.wav"]
    assert {"sample rate", "channels"} <= set(problems), "without that column it is refused"


# --- folders of own audio ---


def test_a_folder_of_own_audio(corpus, tmp_path):
    folder = tmp_path / "audio"
    (folder / "deep").mkdir(parents=True)
    corpus.write_audio(folder / "a.wav", 5001, 44100, 2)
    corpus.write_audio(folder / "deep/b.flac", 8000, 8000)
    corpus.write_audio(folder / "deep/cut.wav", 8000)
    (folder / "deep/cut.wav").write_bytes((folder / "deep/cut.wav").read_bytes()[:2000])
    soundfile.write(folder / "quiet.flac", np.zeros(100), 16000)
    (folder / "talk.m4a").write_bytes(bytes(4) + b"ftypM4A ")
    (folder / "notes.txt").write_text("no audio")
    (folder / "copy.bak").write_bytes((folder / "a.wav").read_bytes())
    report = check(folder)
    assert {item.utterance: list(item.problems) for item in report.bad} == {
        "deep/cut.wav": ["truncated or damaged"],
        "quiet.flac": ["silence"],
        "talk.m4a": ["format"],
    }
    assert report.durations_s == [1815 / 16000, 1.0]
    unread = "1 file(s) hold audio, but do not end as audio files do, and are not read: rename"
    assert report.notes == [
        "own audio, without transcripts: for pretraining",
        f"{unread} copy.bak",
    ]
    assert f"{unread} copy.bak" in report.table()
    report.write(tmp_path / "check.json")
    assert f"{unread} copy.bak" in json.loads((tmp_path / "check.json").read_text())["notes"]


def test_the_layout_can_be_said(corpus):
    files = sorted(corpus.root.rglob("*.flac"))
    assert len(check(corpus.root, data_layout="folder").durations_s) == len(files)
    assert check(corpus.root, data_layout="librispeech") == check(corpus.root)
    assert refusal(corpus.root, data_layout="flat") == (
        "data_layout is 'flat': choose librispeech or folder"
    )
    assert refusal(corpus.root, data_layout="folder", manifest="a.csv") == (
        "data_layout folder and manifest 'a.csv' are both given: choose one"
    )
    assert refusal(corpus.root, data_layout="folder", splits=["dev-clean"]) == (
        "splits ['dev-clean'] are of data_layout librispeech: leave them out"
    )


def test_audio_of_other_formats_in_librispeech_layout_is_named(corpus, caplog):
    corpus.write_audio(corpus.audio().with_suffix(".wav"))
    corpus.audio().unlink()
    corpus.audio(1).rename(corpus.audio(1).with_suffix(".FLAC"))
    names = [f"dev-clean/84/121123/84-121123-000{index}" for index in (0, 1)]
    sentence = "2 audio file(s) are no .flac, and are not read: convert"
    report = check(corpus.root, splits=["dev-clean"])
    assert report.notes == [f"dev-clean: {sentence} {names[0]}.wav, {names[1]}.FLAC"]
    assert report.bad[0].problems["missing file"] == (
        "has a transcript but no audio: convert 84-121123-0000.wav to FLAC"
    )
    corpus.prepare(max_bad_share=0.9)
    assert f"dev-clean: {sentence} {names[0]}.wav" in caplog.text
    for path in (corpus.root / "dev-clean").rglob("*.flac"):
        path.rename(path.with_suffix(".mp3"))
    message = refusal(corpus.root, splits=["dev-clean"])
    assert "ask for other splits; 3 audio file(s) are no .flac, and are not read" in message


# --- bad calls ---


def test_folders_that_cannot_be_checked(corpus, tmp_path):
    assert refusal(tmp_path / "no") == (
        f"data folder '{tmp_path / 'no'}' does not exist: pass the folder that holds the splits, "
        "or your audio files"
    )
    (tmp_path / "empty").mkdir()
    assert f"data folder '{tmp_path / 'empty'}' holds no audio files (" in refusal(
        tmp_path / "empty"
    )
    assert refusal(tmp_path / "empty", data_layout="librispeech") == (
        f"data folder '{tmp_path / 'empty'}' has no SPLIT/SPEAKER/CHAPTER/*.flac: pass the "
        "folder that holds the splits, a manifest of its files, or data_layout folder"
    )
    assert "has no split 'dev-other'" in refusal(corpus.root, splits=["dev-other"])
    assert refusal(corpus.root, splits=["dev-clean"], manifest="a.csv") == (
        "splits ['dev-clean'] and manifest 'a.csv' are both given: choose one"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_bad_share": 2}, "max_bad_share is 2: it must be a share, 0 <= x < 1"),
        ({"num_workers": 0}, "num_workers is 0: it must be an integer of at least 1"),
        (
            {"min_duration_s": 3.0, "max_duration_s": 2.0},
            "min_duration_s 3 and max_duration_s 2 leave nothing: "
            "give 0 <= min_duration_s <= max_duration_s",
        ),
    ],
)
def test_wrong_arguments(corpus, options, message):
    assert refusal(corpus.root, **options) == message


NEEDS = (
    "it needs wav (a path), duration (seconds) and, if present, num_samples and sample_rate "
    "(integers): prepare it again"
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "", "is neither .csv nor .json: pass one of these"),
        ("a.csv", None, "cannot be read (No such file or directory): pass one that is there"),
        ("a.csv", "", "holds no utterances: prepare the data again"),
        ("a.csv", "wav\nx\n", "is not one that SpeechBrain reads (CSV has to have an 'ID' field"),
        ("a.csv", "ID,duration,wav\na,1,x\na,1,x\n", "SpeechBrain reads (Duplicate id: a): only"),
        ("a.csv", "ID,duration,wav\na,1,$root/x\n", "reads (The item $root/x requires replacement"),
        ("a.csv", "ID,duration,wav\na,one,x\n", "reads (could not convert string to float: 'one')"),
        ("a.csv", "ID,duration\na,1\n", f", ID 'a': {NEEDS}"),
        ("a.csv", "ID,wav\na,x\n", f", ID 'a': {NEEDS}"),
        ("a.csv", "ID,duration,wav,sample_rate\na,1,x,0\n", f", ID 'a': {NEEDS}"),
        ("a.json", "[1", "is not one that SpeechBrain reads (Expecting ',' delimiter"),
        ("a.json", "[1]", "holds no utterances: prepare the data again"),
        ("a.json", '{"a": {"wav": {"file": "x"}, "duration": 1}}', f", ID 'a': {NEEDS}"),
        ("a.json", '{"a": 1}', f", ID 'a': {NEEDS}"),
        ("a.json", '{"a": {"wav": "{root}/x"}}', "is not one that SpeechBrain reads (root): only"),
    ],
)
def test_what_is_no_manifest(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    text = refusal(tmp_path, manifest=path)
    assert text.startswith(f"manifest '{path}'")
    assert message in text
    assert len(text.splitlines()) == 1
