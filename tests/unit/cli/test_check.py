"""`check` prints a table, writes all problems, and says by its exit code whether data are good."""

import json

import numpy as np
import pytest
import soundfile

from speechbrain_pom.__main__ import main


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Four utterances, one of them at 8 kHz; the current folder is empty."""
    folder = tmp_path / "data/dev-clean/84/121123"
    folder.mkdir(parents=True)
    for index in range(4):
        rate = 8000 if index == 2 else 16000
        soundfile.write(folder / f"84-121123-000{index}.flac", np.full(16000, 0.1), rate)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "data"


def check(capsys, *arguments):
    code = main(["check", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_over_the_limit(corpus, capsys):
    code, text = check(capsys, corpus, "--no_transcripts")
    assert code == 1
    assert f"{corpus}: dev-clean: 4 utterances\n" in text
    assert "sample rate                    1      0.001  dev-clean/84/121123/84-121123-0002" in text
    assert "kept 3 utterances (0.001 h), dropped 1 (0.001 h): 25 % is more than max_bad_" in text
    assert text.endswith("all problems: data_check.json\n")
    with open("data_check.json") as stream:
        assert json.load(stream)["bad"][0]["utterance"] == "84-121123-0002"


def test_within_the_limit(corpus, capsys, tmp_path):
    options = ["--no_transcripts", "--max_bad_share", "0.25", "--out", tmp_path / "list.json"]
    code, text = check(capsys, corpus, "--splits", "dev-clean", *options)
    assert code == 0
    assert "25 % is within max_bad_share=0.25" in text
    assert json.loads((tmp_path / "list.json").read_text())["bad_share"] == 0.25


def test_a_folder_of_own_audio(corpus, capsys, tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    soundfile.write(folder / "a.wav", np.full((44100, 2), 0.1), 44100)
    code, text = check(capsys, folder)
    assert code == 0
    assert text.startswith(f"{folder}: 1 utterances\nown audio, without transcripts: for pretrain")
    assert check(capsys, corpus, "--data_layout", "folder")[0] == 0  # 8 kHz is no problem there


def test_transcripts_are_needed_unless_told(corpus, capsys):
    code, text = check(capsys, corpus, "--max_bad_share", "0.9")
    assert code == 1
    assert "missing transcript             4" in text


def test_manifest_and_durations(corpus, capsys, tmp_path):
    wav = "$data_root/dev-clean/84/121123/84-121123-0000.flac"
    (tmp_path / "a.csv").write_text(f"ID,duration,wav\na,1.0,{wav}\n")
    arguments = [corpus, "--manifest", tmp_path / "a.csv", "--num_workers", "1"]
    assert check(capsys, *arguments, "--min_duration_s", "1", "--max_duration_s", "1")[0] == 0
    assert check(capsys, *arguments, "--max_duration_s", "0.9")[0] == 1
    assert check(capsys, *arguments, "--min_duration_s", "1.1")[0] == 1


@pytest.mark.parametrize(
    ("out", "cause"),
    [("no/x.json", "No such file or directory"), (".", "Is a directory"), ("x" * 256, "")],
)
def test_the_place_of_the_report_is_checked_before_the_work(
    corpus, capsys, monkeypatch, out, cause
):
    monkeypatch.setattr("speechbrain_pom.cli.check.check_data", None)
    with pytest.raises(SystemExit, match="2"):
        main(["check", str(corpus), "--out", out])
    error = capsys.readouterr().err
    if cause:
        assert f"the report '{out}' cannot be written ({cause}): choose another file" in error
    else:
        assert "has 256 bytes, and names in" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: data folder 'nowhere' does not exist: pass the folder that holds"),
        (["{corpus}", "--splits", "x"], "has no split 'x' (it has dev-clean): unpack what"),
        (["{corpus}", "--manifest", "a.csv"], "error: manifest 'a.csv' cannot be read (No such"),
        (["{corpus}", "--max_bad_share", "x"], "argument --max_bad_share: invalid float value"),
        (["{corpus}", "--out", "no/x.json"], "error: the report 'no/x.json' cannot be written"),
        ([], "the following arguments are required: DATA_FOLDER"),
    ],
)
def test_bad_calls(corpus, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        main(["check", *(text.format(corpus=corpus) for text in arguments)])
    assert stop.value.code == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert message in errors[0]
