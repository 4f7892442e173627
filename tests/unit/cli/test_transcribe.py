"""`transcribe` on the command line."""

import json
import os

import pytest

from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.inference.transcript_files import as_json, as_srt, as_vtt
from speechbrain_pom.inference.transcription import transcribe
from tests.helpers.sounds import write_noise
from tests.unit.ctc.test_language_model import write_arpa

RECORDS = "transcribed.jsonl"


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_run):
    """Two runs of fine-tuning with random weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        make_run(folder / f"run{seed}", "ctc", seed)
    return folder


@pytest.fixture
def model(models):
    return str(models / "run0")


def wanted(model, file, **options):
    return transcribe(load_recogniser(model), file, **options)


def written(folder):
    """Content and time of each transcript."""
    return {
        path.relative_to(folder).as_posix(): (path.read_text("utf-8"), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != RECORDS
    }


def rewritten(before, folder):
    """Names of the transcripts that are not those of before."""
    return [name for name, state in written(folder).items() if before.get(name) != state]


def test_text_of_one_file_is_all_that_goes_to_stdout(model, audio, capsys):
    assert main(["transcribe", model, "audio/a.wav"]) == 0
    printed = capsys.readouterr()
    text = wanted(model, audio / "a.wav").text
    assert text
    assert printed.out == f"{text}\n"
    assert "transcribe: 100%" in printed.err


def test_texts_of_several_files_come_with_their_paths(model, audio, capsys):
    assert main(["transcribe", model, "audio/deep/c.wav", "audio"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    files = ["audio/deep/c.wav", "audio/a.wav", "audio/b.flac"]
    assert lines == [[file, wanted(model, file).text] for file in files]


def test_json_lines_and_captions_on_stdout(model, audio, capsys):
    assert main(["transcribe", model, "audio", "--format", "json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    files = ["audio/a.wav", "audio/b.flac", "audio/deep/c.wav"]
    assert records == [json.loads(as_json(wanted(model, file), file)) for file in files]
    assert main(["transcribe", model, "audio/a.wav", "--format", "srt"]) == 0
    assert capsys.readouterr().out == as_srt(wanted(model, "audio/a.wav"))


def test_all_formats_into_a_folder(model, audio, tmp_path, capsys):
    call = ["transcribe", model, "audio", "--out", "new/out", "--format", "text", "json", "vtt"]
    assert main(call) == 0
    assert capsys.readouterr().out == "new/out: 3 of 3 files transcribed\n"
    names = [f"{name}.{kind}" for name in ("a", "b", "deep/c") for kind in ("json", "txt", "vtt")]
    found = written(tmp_path / "new/out")
    assert list(found) == names
    talk = wanted(model, "audio/deep/c.wav")
    assert found["deep/c.txt"][0] == f"{talk.text}\n"
    assert found["deep/c.json"][0] == as_json(talk, "audio/deep/c.wav")
    assert found["deep/c.vtt"][0] == as_vtt(talk)


def test_finished_files_are_skipped(model, models, audio, tmp_path, capsys):
    call = ["transcribe", model, "audio", "--out", "out"]
    assert main(call) == 0
    before = written(tmp_path / "out")
    capsys.readouterr()
    assert main(call) == 0
    assert rewritten(before, tmp_path / "out") == []
    out = capsys.readouterr().out
    assert out == "out: 0 of 3 files transcribed, 3 were finished before\n"
    # Another format, a missing output, another audio file, other options, another model.
    assert main([*call, "--format", "srt", "text"]) == 0
    assert len(rewritten(before, tmp_path / "out")) == 6
    before = written(tmp_path / "out")
    (tmp_path / "out/deep/c.txt").unlink()
    assert main(call) == 0
    assert rewritten(before, tmp_path / "out") == ["deep/c.txt"]
    before = written(tmp_path / "out")
    write_noise(audio / "b.flac", 0.5, seed=9)
    assert main(call) == 0
    assert rewritten(before, tmp_path / "out") == ["b.txt"]
    for changed in (["--window_s", "5"], ["--beam_size", "2"]):
        before = written(tmp_path / "out")
        assert main([*call, *changed]) == 0
        assert rewritten(before, tmp_path / "out") == ["a.txt", "b.txt", "deep/c.txt"]
    before = written(tmp_path / "out")
    assert main(["transcribe", str(models / "run1"), *call[2:]]) == 0
    assert rewritten(before, tmp_path / "out") == ["a.txt", "b.txt", "deep/c.txt"]


def test_a_call_goes_on_where_it_was_killed(model, audio, tmp_path):
    call = ["transcribe", model, "audio", "--out", "out"]
    assert main(call) == 0
    before = written(tmp_path / "out")
    lines = (tmp_path / "out" / RECORDS).read_text().splitlines(keepends=True)
    assert len(lines) == 3
    (tmp_path / "out" / RECORDS).write_text(lines[0] + lines[1][:30])  # in the middle of a line
    assert main(call) == 0
    assert rewritten(before, tmp_path / "out") == ["b.txt", "deep/c.txt"]
    assert main(call) == 0
    assert sorted((tmp_path / "out" / RECORDS).read_text().splitlines(True)) == sorted(lines)


def test_files_of_one_name_are_not_taken_for_each_other(model, audio, tmp_path, capsys):
    write_noise(tmp_path / "other/a.wav", 1.1, seed=7)
    assert main(["transcribe", model, "audio/a.wav", "--out", "out"]) == 0
    before = written(tmp_path / "out")
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", model, "other/a.wav", "--out", "out"])
    message = f"has a.txt of '{audio / 'a.wav'}', which 'other/a.wav' would overwrite: give another"
    assert message in capsys.readouterr().err
    assert written(tmp_path / "out") == before


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_half_made_anew_is_not_finished_for_the_former_options(model, audio, monkeypatch):
    call = ["transcribe", model, "audio/a.wav", "--out", "out"]
    assert main(call) == 0
    with monkeypatch.context() as patch:  # it dies between the output and its record
        patch.setattr("speechbrain_pom.inference.jobs.ledger.Ledger.add", interrupt)
        with pytest.raises(SystemExit, match="130"):
            main([*call, "--window_s", "5"])
    before = written(audio.parent / "out")
    assert main(call) == 0
    assert rewritten(before, audio.parent / "out") == ["a.txt"]


def test_files_of_others_are_never_overwritten(model, audio, capsys):
    (audio / "deep/c.txt").write_text("the reference")
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", model, "audio", "--out", "audio"])
    message = "--out 'audio' has a file deep/c.txt that transcribe did not write: give another"
    assert message in capsys.readouterr().err
    assert (audio / "deep/c.txt").read_text() == "the reference"
    assert not (audio / RECORDS).exists()


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_files_are_named_and_the_rest_go_on(jobs, model, audio, tmp_path, capsys):
    (audio / "a.wav").write_bytes(b"no audio")
    (audio / "b.flac").write_bytes((audio / "b.flac").read_bytes()[:900])
    call = ["transcribe", model, "audio", "--out", "out", "--jobs", str(jobs)]
    assert main(call) == 1
    printed = capsys.readouterr()
    assert printed.out == "out: 1 of 3 files transcribed\n"
    failed = [line for line in printed.err.splitlines() if line.startswith("failed: ")]
    assert failed[0].startswith("failed: audio/a.wav: audio file 'audio/a.wav': unreadable audio")
    assert failed[1].startswith("failed: audio/b.flac: audio file 'audio/b.flac': truncated")
    assert len(failed) == 2
    talk = wanted(model, "audio/deep/c.wav")
    assert {name: text for name, (text, _) in written(tmp_path / "out").items()} == {
        "deep/c.txt": f"{talk.text}\n"
    }
    # They are tried again, and again named.
    assert main([*call[:-1], "1"]) == 1
    assert "out: 0 of 3 files transcribed, 1 were finished before" in capsys.readouterr().out
    assert main(["transcribe", model, "audio"]) == 1
    assert capsys.readouterr().out == f"audio/deep/c.wav\t{talk.text}\n"


def test_a_full_disk_fails_the_file(model, audio, capsys, monkeypatch):
    def refuse(source, target):
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patch:
        call = ["transcribe", model, "audio/a.wav", "--out", "out"]
        (audio.parent / "out").mkdir()
        (audio.parent / "out" / RECORDS).touch()
        replace = os.replace
        patch.setattr(
            os,
            "replace",
            lambda source, target: (refuse if target.suffix == ".txt" else replace)(source, target),
        )
        assert main(call) == 1
    assert (
        "failed: audio/a.wav: disk full: no room in 'out': make room, or give another --out\n"
    ) in capsys.readouterr().err
    assert written(audio.parent / "out") == {}
    assert main(call) == 0


def test_a_full_disk_for_temporary_files(model, audio, tmp_path, capsys, monkeypatch):
    """The frames of long files lie in a map there: without a check the process would die."""
    (tmp_path / "small").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "small"))

    def full(*_):
        raise OSError(28, "No space left on device")

    call = ["transcribe", model, "audio", "--window_s", "1", "--out", "out"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        assert main(call) == 1
    failed = [line for line in capsys.readouterr().err.splitlines() if "failed: " in line]
    sentence = f"disk full: no room in '{tmp_path / 'small'}': make room, or set TMPDIR to a folder"
    assert failed == [
        f"failed: audio/{name}: {sentence} on another disk" for name in ("b.flac", "deep/c.wav")
    ]
    assert os.listdir(tmp_path / "small") == []
    assert list(written(tmp_path / "out")) == ["a.txt"]
    assert main(call) == 0


def test_names_are_checked_before_the_work(model, audio, tmp_path, capsys):
    (audio / "a.wav").rename(audio / f"{'x' * 251}.wav")
    call = ["transcribe", model, "audio", "--out", "out"]
    assert main(call) == 0
    assert f"{'x' * 251}.txt" in written(tmp_path / "out")
    before = written(tmp_path / "out")
    with pytest.raises(SystemExit, match="2"):
        main([*call, "--format", "text", "json"])
    assert f"the name '{'x' * 251}.json' has 256 bytes, and names in" in capsys.readouterr().err
    assert written(tmp_path / "out") == before


def test_records_that_cannot_be_written_end_the_call(model, audio, capsys):
    (audio.parent / "out" / RECORDS).mkdir(parents=True)
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", model, "audio/a.wav", "--out", "out"])
    message = f"error: cannot write 'out/{RECORDS}' (Is a directory): make room, or give another"
    assert message in capsys.readouterr().err


def test_long_files_are_encoded_in_windows(model, audio, capsys):
    assert main(["transcribe", model, "audio/deep/c.wav", "--window_s", "0.5"]) == 0
    text = wanted(model, "audio/deep/c.wav", window_s=0.5).text
    assert capsys.readouterr().out == f"{text}\n"


def test_with_a_language_model(model, audio, tmp_path, capsys):
    pytest.importorskip("kenlm")
    write_arpa(tmp_path / "2-gram.arpa", {"THE SEA": -0.1})
    options = ["--lm", "2-gram.arpa", "--beam_size", "3", "--alpha", "0.5", "--beta", "0.1"]
    assert main(["transcribe", model, "audio/a.wav", *options]) == 0
    units = load_recogniser(model).units
    decode = make_beam_searcher(
        units, kenlm_model_path="2-gram.arpa", beam_size=3, alpha=0.5, beta=0.1
    )
    assert capsys.readouterr().out == f"{wanted(model, 'audio/a.wav', decode=decode).text}\n"
    # The same path with other content is another language model.
    call = ["transcribe", model, "audio/a.wav", *options, "--out", "out"]
    assert main(call) == 0
    write_arpa(tmp_path / "2-gram.arpa", {"THE SEA": -0.2, "THE SEE": -0.1})
    assert main(call) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "out: 1 of 1 files transcribed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav"], "no such file or folder: 'none.wav'"),
        (["audio", "--alpha", "1"], "--alpha is for a language model: give its file with --lm"),
        (["audio", "--beta", "1"], "--beta is for a language model: give its file with --lm"),
        (["audio", "--lm_words", "w.txt"], "--lm_words is for a language model: give its file"),
        (["audio", "--lm", "none.arpa"], "--lm: no such file: 'none.arpa'"),
        (["audio", "--beam_size", "0"], "beam_size is 0: give an integer of at least 1"),
        (["audio", "--window_s", "0"], "--window_s is 0.0: give seconds, more than 0"),
        (["audio", "--window_s", "nan"], "--window_s is nan: give seconds, more than 0"),
        (["audio", "--jobs", "0"], "--jobs is 0: give at least 1"),
        (["audio", "--device", "tpu9"], "--device tpu9 cannot be used: "),
        (["audio", "--out", "audio/a.wav"], "--out 'audio/a.wav' cannot be used (File exists)"),
        (["audio", "--format", "ass"], "invalid choice: 'ass'"),
        (["audio", "--format", "vtt"], "--format vtt of 3 file(s) cannot all go to stdout: give"),
        (["audio", "--format", "srt"], "--format srt of 3 file(s) cannot all go to stdout: give"),
        (
            ["audio/a.wav", "--format", "text", "json"],
            "--format text json of 1 file(s) cannot all go to stdout: give --out, a folder",
        ),
    ],
)
def test_bad_calls(arguments, message, model, audio, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", model, *arguments])
    printed = capsys.readouterr()
    assert f"error: {message}" in printed.err or message in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("out", [[], ["--out", "out"]])
def test_a_model_that_there_is_not(out, audio, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["transcribe", "results/none", "audio", *out])
    assert "'results/none' does not exist: give a run's folder" in capsys.readouterr().err
    assert not (audio.parent / "out").exists()
