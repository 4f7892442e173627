"""`check` in parts: the report of the whole, whatever was killed in between."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechbrain_pom.__main__ import main
from speechbrain_pom.data import check_parts
from speechbrain_pom.data.check import check_data
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.locks import acquire, release
from speechbrain_pom.utils.parts import Part


def write(path, rate=16000, num_samples=3200, value=0.1):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(num_samples, value), rate)


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Two splits of several chapters, with problems of many kinds, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "corpus"
    for split, speaker in (("dev-clean", 84), ("dev-clean", 90), ("test-clean", 84)):
        for chapter in range(3):
            folder = root / f"{split}/{speaker}/{chapter}"
            names = [f"{speaker}-{chapter}-{index:04d}" for index in range(3)]
            for index, name in enumerate(names):
                write(folder / f"{name}.flac", rate=8000 if index == chapter == 1 else 16000)
            texts = "".join(f"{name} A WORD\n" for name in names[chapter == 2 :])
            (folder / f"{speaker}-{chapter}.trans.txt").write_text(texts)
    # The same ID in two chapters, and in two splits, where it is no problem.
    write(root / "dev-clean/90/2/90-0-0001.flac")
    with open(root / "dev-clean/90/2/90-2.trans.txt", "a") as stream:
        stream.write("90-0-0001 AGAIN\n")
    (root / "test-clean/84/0/84-0-0000.flac").write_bytes(b"no audio")
    return root


def own_folder(corpus):
    folder = corpus.parent / "own"
    for index in range(7):
        write(folder / f"{index % 2}/{index}.wav", value=0.0 if index == 5 else 0.1)
    return folder


def manifest(corpus):
    rows = ["ID,duration,wav,wrd"]
    for index, path in enumerate(sorted((corpus / "dev-clean").rglob("*.flac"))):
        seconds = 0.9 if index == 4 else 0.2
        rows.append(
            f"u{index},{seconds},$data_root/{path.relative_to(corpus)},{'A' * (index != 6)}"
        )
    path = corpus.parent / "train.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def report_of(path):
    report = json.loads(Path(path).read_text())
    report["bad"].sort(key=lambda item: item["file"])
    report["kinds"] = dict(sorted(report["kinds"].items()))
    return report


CALLS = {
    "splits": lambda corpus: [corpus],
    "one split": lambda corpus: [corpus, "--splits", "dev-clean", "--no_transcripts"],
    "folder": lambda corpus: [own_folder(corpus), "--min_duration_s", "0.1"],
    "manifest": lambda corpus: [corpus, "--manifest", manifest(corpus)],
}


@pytest.mark.parametrize("kind", CALLS)
def test_parts_report_what_the_whole_reports(corpus, capsys, monkeypatch, kind):
    monkeypatch.setattr(check_parts, "_SLICE", 2)
    words = [*map(str, CALLS[kind](corpus)), "--max_bad_share", "0.9", "--num_workers", "1"]
    assert main(["check", *words, "--out", "whole.json"]) == 0
    whole, draw = capsys.readouterr().out, random.Random(kind)
    for number in (3, 1, 2):
        assert main(["check", *words, "--part", f"{number}/3", "--out", "parts.json"]) == 0
        path = Path("parts.json.parts", f"{Part(number, 3).name}.jsonl")
        if number == 2:
            break
        assert capsys.readouterr().out == f"part {number}/3 is done; other parts are not finished\n"
        # Killed while it wrote: what was complete is not done again.
        text = path.read_bytes()
        path.write_bytes(text[: draw.randrange(len(text))])
        assert main(["check", *words, "--part", f"{number}/3", "--out", "parts.json"]) == 0
        assert path.read_bytes() == text
        capsys.readouterr()
    parts = capsys.readouterr().out
    assert parts.splitlines()[0] == whole.splitlines()[0]
    assert parts.splitlines()[-2] == whole.splitlines()[-2]  # kept and dropped
    assert report_of("parts.json") == report_of("whole.json")
    assert len(report_of("whole.json")["bad"]) > (kind == "manifest")
    if kind == "splits":
        (same,) = [item for item in report_of("parts.json")["bad"] if "same ID" in item["problems"]]
        assert same["file"] == "dev-clean/90/2/90-0-0001.flac"


def test_what_was_done_is_not_done_again(corpus, monkeypatch):
    monkeypatch.setattr(check_parts, "_SLICE", 1)
    records, folder = corpus.parent / "records", own_folder(corpus)
    seen = []
    group = check_parts.Group

    def counted(title, units, check, **more):
        def count(units, bar):
            seen.extend(units)
            if len(seen) == 3:
                raise KeyboardInterrupt
            return check(units, bar)

        return group(title, units, count, **more)

    monkeypatch.setattr("speechbrain_pom.data.check.Group", counted)
    how = {"num_workers": 1, "show_progress": False, "part": Part(1, 2), "records": records}
    with pytest.raises(KeyboardInterrupt):
        check_data(folder, **how)
    assert check_data(folder, **how) is None
    assert len(seen) == 5
    assert seen[2] == seen[3]
    assert check_data(folder, **how) is None
    assert len(seen) == 5


def test_parts_that_do_not_belong_together(corpus):
    records, folder = corpus.parent / "records", own_folder(corpus)
    how = {"num_workers": 1, "show_progress": False, "records": records}
    assert check_data(folder, part=Part(1, 2), **how) is None
    write(folder / "new.wav")
    with pytest.raises(UserError, match="the records of another check, or the data have changed"):
        check_data(folder, part=Part(1, 2), **how)
    with pytest.raises(UserError, match="the records of another check, or the data have changed"):
        check_data(folder, part=Part(2, 2), **how)
    with pytest.raises(UserError, match="part is 1/2: give records, a folder that all parts share"):
        check_data(folder, part=Part(1, 2))
    lock = records / ".part-00001-of-00002.lock"
    acquire(lock)
    with pytest.raises(UserError, match="another process works on part 1/2 in "):
        check_data(folder, part=Part(1, 2), **how)
    release(lock)


@pytest.mark.parametrize("show_progress", [True, False])
def test_progress_bars_of_a_part(corpus, tmp_path, capsys, show_progress):
    check_data(
        corpus,
        num_workers=1,
        part=Part(1, 2),
        records=tmp_path / "records",
        show_progress=show_progress,
    )
    assert ("dev-clean 0/" in capsys.readouterr().err) == show_progress
