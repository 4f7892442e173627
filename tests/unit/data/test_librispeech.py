"""Manifests of LibriSpeech-layout folders: content, order, repetition, and every message."""

import json
import logging
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import merge_manifests, read_manifest

SCRIPT = Path(__file__).parents[3] / "recipes/LibriSpeech/librispeech_prepare.py"
LOGGER = "speechbrain_pom.data.manifest"


def write_audio(path, num_samples=1600, rate=16000, channels=1):
    rng = np.random.default_rng(num_samples)
    soundfile.write(path, 0.1 * rng.standard_normal((num_samples, channels)), rate, "PCM_16")


def add_chapter(root, split, speaker, chapter, lengths=(1600, 500, 63)):
    """Writes one chapter; returns its folder."""
    folder = root / split / str(speaker) / str(chapter)
    folder.mkdir(parents=True)
    ids = [f"{speaker}-{chapter}-{index:04d}" for index in range(len(lengths))]
    for utterance, num_samples in zip(ids, lengths, strict=True):
        write_audio(folder / f"{utterance}.flac", num_samples)
    lines = [f"{utterance} WORDS OF {index}\n" for index, utterance in enumerate(ids)]
    (folder / f"{speaker}-{chapter}.trans.txt").write_text("".join(lines))
    return folder


@pytest.fixture
def corpus(tmp_path):
    """Three splits, of which train-clean-100 has speakers 19 (two chapters) and 103."""
    root = tmp_path / "LibriSpeech"
    for speaker, chapter in ((103, 1240), (19, 198), (19, 227)):
        add_chapter(root, "train-clean-100", speaker, chapter)
    add_chapter(root, "train-other-500", 20, 205, lengths=(16000,))
    add_chapter(root, "dev-clean", 84, 121123)
    return root


def prepare(root, splits=("dev-clean",), out=None, **options):
    out = out or root.parent / "csv"
    return prepare_librispeech(root, list(splits), out, **{"show_progress": False, **options})


def transcripts(root):
    return root / "dev-clean/84/121123/84-121123.trans.txt"


def audio(root, index=0):
    return root / f"dev-clean/84/121123/84-121123-{index:04d}.flac"


def problems(root, split="dev-clean"):
    return json.loads((root.parent / "csv" / f"{split}.problems.json").read_text())


# --- content ---


def test_rows_are_typed_sorted_and_complete(corpus):
    paths = prepare(corpus, ["train-clean-100"])
    manifest = read_manifest(paths["train-clean-100"])
    assert list(manifest) == sorted(manifest)
    assert len(manifest) == 9
    assert manifest["19-227-0001"] == {
        "duration": 500 / 16000,
        "num_samples": 500,
        "wav": "$data_root/train-clean-100/19/227/19-227-0001.flac",
        "spk_id": "19",
        "wrd": "WORDS OF 1",
    }


def test_speechbrain_reads_it_from_a_moved_folder(corpus):
    path = prepare(corpus)["dev-clean"]
    moved = corpus.rename(corpus.with_name("elsewhere"))
    data = DynamicItemDataset.from_csv(path, {"data_root": str(moved)})
    data.set_output_keys(["wav", "duration", "wrd"])
    assert len(data) == 3
    for item in data:
        assert soundfile.info(item["wav"]).duration == item["duration"]
        assert item["wrd"].startswith("WORDS OF")


def test_only_the_splits_asked_for(corpus):
    paths = prepare(corpus, ["dev-clean", "train-other-500", "dev-clean"])
    assert list(paths) == ["dev-clean", "train-other-500"]
    written = {path.name for path in (corpus.parent / "csv").iterdir()}
    assert written == {f"{split}.{end}" for split in paths for end in ("csv", "json")}


def test_worker_count_does_not_change_a_byte(corpus, tmp_path):
    audio(corpus).write_bytes(b"broken")
    splits = ["train-clean-100", "dev-clean"]
    results = []
    for num_workers in (1, 2, None):
        out = tmp_path / f"out{num_workers}"
        prepare(corpus, splits, out, num_workers=num_workers, max_bad_share=0.5)
        results.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(results[0]) == 5
    assert results[0] == results[1] == results[2]


def test_another_folder_of_the_same_layout(tmp_path):
    add_chapter(tmp_path / "mine", "radio", "anna", "monday")
    manifest = read_manifest(prepare(tmp_path / "mine", ["radio"])["radio"])
    assert {row["spk_id"] for row in manifest.values()} == {"anna"}


def test_commas_quotes_and_a_byte_order_mark_survive(corpus):
    lines = ['84-121123-0000 SO, "HE"  SAID', "84-121123-0001 É", "", "84-121123-0002 5 $ OFF"]
    transcripts(corpus).write_text("\r\n".join(lines), encoding="utf-8-sig")
    path = prepare(corpus)["dev-clean"]
    data = DynamicItemDataset.from_csv(path, {"data_root": "x"}, output_keys=["wrd"])
    assert [item["wrd"] for item in data] == ['SO, "HE" SAID', "É", "5 $ OFF"]


def test_transcripts_are_not_read_when_not_needed(corpus):
    transcripts(corpus).write_bytes(b"\xff\xfe\xfa")
    manifest = read_manifest(prepare(corpus, need_transcripts=False)["dev-clean"])
    assert [row["wrd"] for row in manifest.values()] == [""] * 3
    with pytest.raises(ValueError, match="is unreadable"):
        prepare(corpus)


def test_hidden_files_are_ignored(corpus):
    audio(corpus).with_name("._84-121123-0000.flac").write_bytes(b"not audio")
    assert len(read_manifest(prepare(corpus)["dev-clean"])) == 3


def test_progress_bar(corpus, capfd):
    prepare(corpus)
    assert capfd.readouterr().err == ""
    prepare(corpus, ["train-clean-100"], show_progress=True)
    shown = capfd.readouterr().err
    assert "train-clean-100: 100%" in shown
    assert "9/9" in shown


# --- skipped and done again ---


def stamps(root):
    return {
        p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (root.parent / "csv").iterdir()
    }


def test_nothing_is_written_when_nothing_changed(corpus, caplog, monkeypatch):
    caplog.set_level(logging.INFO, LOGGER)
    prepare(corpus)
    assert "dev-clean: 3 utterances (0.000 h, 1 speakers); written to" in caplog.text
    before = stamps(corpus)

    def opened(path):
        raise AssertionError(f"{path} opened")

    monkeypatch.setattr(soundfile, "SoundFile", opened)
    prepare(corpus, num_workers=1)
    assert stamps(corpus) == before
    assert "is kept" in caplog.text
    os.utime(audio(corpus))
    with pytest.raises(AssertionError, match="opened"):  # the guard above can fail
        prepare(corpus, num_workers=1)


def touch(root):
    os.utime(audio(root), ns=(1, 1))


def lengthen(root):
    write_audio(audio(root), 3200)


def correct_a_transcript(root):
    transcripts(root).write_text(transcripts(root).read_text().replace("OF 0", "OF NONE"))


def add(root):
    add_chapter(root, "dev-clean", 84, 121550)


def remove(root):
    audio(root, 2).unlink()
    lines = transcripts(root).read_text().splitlines(keepends=True)
    transcripts(root).write_text("".join(lines[:2]))


def damage_the_manifest(root):
    path = root.parent / "csv/dev-clean.csv"
    path.write_bytes(path.read_bytes()[:-5])


def lose_the_record(root):
    (root.parent / "csv/dev-clean.json").unlink()


def damage_the_record(root):
    (root.parent / "csv/dev-clean.json").write_text('{"source": ')


@pytest.mark.parametrize(
    ("change", "same_manifest"),
    [
        (touch, True),
        (lengthen, False),
        (correct_a_transcript, False),
        (add, False),
        (remove, False),
        (damage_the_manifest, True),
        (lose_the_record, True),
        (damage_the_record, True),
    ],
)
def test_done_again_after_a_change_and_only_there(corpus, tmp_path, change, same_manifest):
    splits = ["dev-clean", "train-other-500"]
    path = prepare(corpus, splits)["dev-clean"]
    before, content = stamps(corpus), path.read_bytes()
    change(corpus)
    prepare(corpus, splits)
    after = stamps(corpus)
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"dev-clean.csv", "dev-clean.json"}
    assert (path.read_bytes() == content) is same_manifest
    assert path.read_bytes() == prepare(corpus, out=tmp_path / "new")["dev-clean"].read_bytes()


def test_done_again_for_another_folder_or_setting(corpus, tmp_path):
    path = prepare(corpus)["dev-clean"]
    prepare(corpus, need_transcripts=False)
    assert "WORDS" not in path.read_text()
    prepare(corpus)
    assert "WORDS" in path.read_text()
    other, before = tmp_path / "other", stamps(corpus)
    shutil.copytree(corpus, other)  # with the same times
    prepare(other, out=path.parent)
    assert stamps(corpus)["dev-clean.json"] != before["dev-clean.json"]
    link, before = tmp_path / "link", stamps(corpus)
    link.symlink_to(other)
    prepare(link, out=path.parent)
    assert stamps(corpus) == before


def test_an_interrupted_write_is_repeated(corpus, monkeypatch):
    path = prepare(corpus)["dev-clean"]
    content = path.read_bytes()
    correct_a_transcript(corpus)
    replace, calls = os.replace, []

    def stop_before_the_record(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stop_before_the_record)
    with pytest.raises(KeyboardInterrupt):
        prepare(corpus)
    monkeypatch.undo()
    assert [Path(target).suffix for target in calls] == [".csv", ".json"]
    assert path.read_bytes() != content
    before = stamps(corpus)
    prepare(corpus)
    assert stamps(corpus)["dev-clean.json"] != before["dev-clean.json"]
    assert set(stamps(corpus)) == {"dev-clean.csv", "dev-clean.json"}  # no temporary file is left


# --- folders and arguments ---


def refusal(*arguments, **options):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the text is what the tests look at)
        prepare(*arguments, **options)
    return str(caught.value)


def test_missing_data_folder(corpus):
    missing = corpus / "nowhere"
    assert refusal(missing) == (
        f"data folder '{missing}' does not exist: pass the folder that holds dev-clean"
    )
    assert f"data folder '{audio(corpus)}' is not a folder: pass" in refusal(audio(corpus))


def test_missing_split_names_those_there(corpus):
    assert refusal(corpus, ["dev-clean", "dev-other", "test-clean"]) == (
        f"data folder '{corpus}' has no split 'dev-other', 'test-clean' "
        "(it has dev-clean, train-clean-100, train-other-500): "
        "unpack what is missing there, or ask for other splits"
    )
    empty = corpus.parent / "empty"
    empty.mkdir()
    assert "(it has no SPLIT/SPEAKER/CHAPTER/*.flac)" in refusal(empty)


def test_folder_above_and_split_itself_are_recognised(corpus):
    assert refusal(corpus.parent) == (
        f"data folder '{corpus.parent}' has no split 'dev-clean', but '{corpus}' has: "
        "pass that folder instead"
    )
    split = corpus / "dev-clean"
    assert refusal(split) == (
        f"data folder '{split}' has no split 'dev-clean', it is itself a split: "
        f"pass the folder above it, '{corpus}'"
    )


def test_split_without_audio(corpus):
    (corpus / "dev-other/1/2").mkdir(parents=True)
    (corpus / "dev-other/1/2/1-2.trans.txt").write_text("1-2-0000 A\n")
    assert refusal(corpus, ["dev-clean", "dev-other"]) == (
        f"split 'dev-other' in '{corpus}' holds no SPEAKER/CHAPTER/*.flac: "
        "unpack it again, or ask for other splits"
    )
    assert not (corpus.parent / "csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ()}, "splits is []: pass a list of names, such as ['train-clean-100']"),
        ({"splits": ["a/b"]}, "split 'a/b' is no folder name: pass names such as 'dev-clean'"),
        ({"splits": [".."]}, "split '..' is no folder name: pass names such as 'dev-clean'"),
        ({"splits": [100]}, "split 100 is no folder name: pass names such as 'dev-clean'"),
        ({"num_workers": 0}, "num_workers is 0: it must be an integer of at least 1"),
        ({"num_workers": "2"}, "num_workers is '2': it must be an integer of at least 1"),
        ({"max_bad_share": 1.0}, "max_bad_share is 1.0: it must be a share, 0 <= x < 1"),
        ({"max_bad_share": "0"}, "max_bad_share is '0': it must be a share, 0 <= x < 1"),
    ],
)
def test_wrong_arguments(corpus, options, message):
    assert refusal(corpus, **options) == message


def test_splits_as_one_string(corpus):
    with pytest.raises(ValueError, match="splits is 'dev-clean': pass a list of names"):
        prepare_librispeech(corpus, "dev-clean", corpus / "csv")


def test_manifest_folder_in_the_way(corpus):
    out = audio(corpus) / "csv"
    assert refusal(corpus, out=out) == (
        f"manifest folder '{out}' cannot be written (Not a directory): "
        "choose another one or change its permissions"
    )


@pytest.fixture
def plain_user():
    """Drops root's rights, to which permissions mean nothing; yields a folder it may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        root = os.geteuid() == 0
        if root:
            try:
                os.seteuid(65534)
            except OSError:
                pytest.skip("this machine has no user without rights")
            os.seteuid(0)
        yield Path(folder), (lambda: os.seteuid(65534)) if root else (lambda: None)
        if root:
            os.seteuid(0)


def test_no_permission(plain_user):
    folder, drop_rights = plain_user
    root, out, closed = folder / "LibriSpeech", folder / "csv", folder / "closed"
    add_chapter(root, "dev-clean", 84, 121123)
    prepare(root, out=out)
    for path in (out, closed):
        path.mkdir(exist_ok=True)
    os.chmod(out, 0o555)
    (closed / "dev-other").mkdir()
    os.chmod(closed / "dev-other", 0)
    drop_rights()
    prepare(root, out=out)  # up to date: nothing to write
    expected = f"manifest folder '{out}' cannot be written (Permission denied): choose another"
    assert expected in refusal(root, out=out, need_transcripts=False)
    expected = f"'{closed / 'dev-other'}' cannot be listed (Permission denied): check its permissi"
    assert expected in refusal(closed, ["dev-other"], out=out)
    assert "(it has no SPLIT/SPEAKER/CHAPTER/*.flac)" in refusal(closed, ["dev-clean"], out=out)
    if os.getuid() == 0:
        os.seteuid(0)
    os.chmod(out, 0o755)
    os.chmod(closed / "dev-other", 0o755)


# --- bad utterances ---


def resample(root):
    write_audio(audio(root), 800, rate=8000)


def make_stereo(root):
    write_audio(audio(root), channels=2)


def break_audio(root):
    audio(root).write_bytes(audio(root).read_bytes()[:10])


def empty_file(root):
    audio(root).write_bytes(b"")


def no_samples(root):
    soundfile.write(audio(root), np.zeros(0), 16000, format="WAV")


def no_length(root):
    header = bytearray(audio(root).read_bytes())
    header[21] &= 0xF0  # STREAMINFO: the 36 bits of the total number of samples
    header[22:26] = bytes(4)
    audio(root).write_bytes(header)


def dangling_link(root):
    audio(root).unlink()
    audio(root).symlink_to("gone.flac")


def change_lines(root, change):
    lines = transcripts(root).read_text().splitlines()
    transcripts(root).write_text("\n".join(change(lines)))


def missing_line(root):
    change_lines(root, lambda lines: lines[1:])


def empty_transcript(root):
    change_lines(root, lambda lines: ["84-121123-0000 ", *lines[1:]])


def two_transcripts(root):
    change_lines(root, lambda lines: [lines[0], *lines])


def placeholder(root):
    change_lines(root, lambda lines: ["84-121123-0000 COSTS $5", *lines[1:]])


def missing_audio(root):
    audio(root).unlink()


BAD = [
    (resample, "sample rate 8000 Hz is not 16000 Hz: resample it"),
    (make_stereo, "has 2 channels: mix it down to mono"),
    (break_audio, "unreadable audio (Format not recognised): restore it"),
    (empty_file, "unreadable audio (Format not recognised): restore it"),
    (no_samples, "holds no samples: restore or remove it"),
    (no_length, "its header does not say how long it is: encode it again"),
    (dangling_link, "unreadable audio (System error): restore it"),
    (missing_line, "no transcript: add its line to dev-clean/84/121123/84-121123.trans.txt"),
    (empty_transcript, "empty transcript: add its words, or remove line and audio"),
    (two_transcripts, "2 transcripts in its chapter: keep one line"),
    (placeholder, "transcript 'COSTS $5' holds '$', a placeholder in manifests: write it out"),
    (missing_audio, "has a transcript but no audio: restore it"),
]


@pytest.mark.parametrize(("spoil", "problem"), BAD, ids=[spoil.__name__ for spoil, _ in BAD])
def test_bad_utterance(corpus, spoil, problem):
    spoil(corpus)
    report = corpus.parent / "csv/dev-clean.problems.json"
    headline, item = refusal(corpus).split(" | ")
    assert headline.startswith(
        "dev-clean: 2 utterances (0.000 h, 1 speakers) are good, 1 (0.000 h)"
    )
    assert headline.endswith(
        "are bad: more than max_bad_share=0 allows; mend them or set max_bad_share "
        f"to 0.3334 to leave them out; all are listed in '{report}'"
    )
    file = "dev-clean/84/121123/84-121123-0000.flac"
    assert item == f"84-121123-0000 ({file}): {problem}"
    assert problems(corpus)["bad"][0]["problems"] == [problem]
    assert not (corpus.parent / "csv/dev-clean.csv").exists()

    kept = read_manifest(prepare(corpus, max_bad_share=0.3334)["dev-clean"])
    assert list(kept) == ["84-121123-0001", "84-121123-0002"]


def test_missing_transcript_file_names_each_utterance(corpus):
    transcripts(corpus).unlink()
    headline, *items = refusal(corpus).split(" | ")
    assert "; mend them; all are listed" in headline  # no share below 1 would leave anything
    name = "dev-clean/84/121123/84-121123.trans.txt"
    assert [item.split(": ", 1)[1] for item in items] == [
        f"no transcript: {name} is missing, restore it"
    ] * 3
    assert len(read_manifest(prepare(corpus, need_transcripts=False)["dev-clean"])) == 3


def test_every_problem_of_every_split_at_once(corpus):
    write_audio(audio(corpus), 800, rate=8000, channels=2)
    missing_line(corpus)
    (corpus / "train-other-500/20/205/20-205.trans.txt").unlink()
    parts = refusal(corpus, ["dev-clean", "train-clean-100", "train-other-500"]).split(" | ")
    names = [part.split()[0] for part in parts]
    assert names == ["dev-clean:", "84-121123-0000", "train-other-500:", "20-205-0000"]
    for problem in ("8000 Hz", "2 channels", "add its line"):
        assert problem in parts[1]
    assert (corpus.parent / "csv/train-clean-100.csv").exists()


def test_ten_are_shown_and_all_are_written(corpus):
    folder = add_chapter(corpus, "dev-clean", 84, 9, lengths=[3600] * 12)
    for path in folder.glob("*.flac"):
        write_audio(path, 3600, rate=8000)
    parts = refusal(corpus).split(" | ")
    assert len(parts) == 12
    assert parts[-1] == "and 2 more"
    report = problems(corpus)
    assert [item["utterance"] for item in report["bad"]] == [f"84-9-{i:04d}" for i in range(12)]
    assert report["dropped_utterances"] == 12
    assert report["kept_utterances"] == 3
    assert report["dropped_h"] == pytest.approx(12 * 3600 / 8000 / 3600)
    assert report["kept_h"] == pytest.approx((1600 + 500 + 63) / 16000 / 3600)


def test_same_id_twice(corpus):
    folder = add_chapter(corpus, "dev-clean", 85, 1, lengths=(1600,))
    (folder / "85-1-0000.flac").rename(folder / "84-121123-0000.flac")
    (folder / "85-1.trans.txt").write_text("84-121123-0000 TWICE\n")
    assert refusal(corpus).split(" | ")[1] == (
        "84-121123-0000 (dev-clean/85/1/84-121123-0000.flac): "
        "has the same ID as dev-clean/84/121123/84-121123-0000.flac: rename one"
    )


@pytest.mark.parametrize("name", ["a$b.flac", "a\nb.flac", os.fsdecode(b"a\xff.flac")])
def test_paths_that_a_manifest_cannot_hold(corpus, name):
    audio(corpus, 2).rename(audio(corpus).with_name(name))
    message = refusal(corpus, need_transcripts=False)
    assert "its path holds '$' or an unprintable character: rename it" in message
    assert len(message.splitlines()) == 1
    assert message.encode("utf-8")  # it can be printed
    assert problems(corpus)["bad"][0]["utterance"] == name.removesuffix(".flac")


def test_a_share_may_be_left_out_and_is_never_silent(corpus, caplog):
    resample(corpus)
    prepare(corpus, max_bad_share=0.5)
    expected = (
        "dev-clean: 2 utterances (0.000 h, 1 speakers) are good, 1 (0.000 h) are bad and left out, "
        "see 'dev-clean.problems.json'; "
    )
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert expected in caplog.text
    before = stamps(corpus)
    prepare(corpus, max_bad_share=0.5)  # kept, and said again
    assert stamps(corpus) == before
    assert caplog.text.count(expected) == 2
    assert "max_bad_share=0 allows" in refusal(corpus)  # a stricter call does not reuse it

    write_audio(audio(corpus))
    prepare(corpus)
    assert not (corpus.parent / "csv/dev-clean.problems.json").exists()


# --- reading and merging ---


def test_merge(corpus, tmp_path):
    paths = prepare(corpus, ["train-clean-100", "train-other-500"])
    out = merge_manifests(paths.values(), tmp_path / "train.csv")
    merged = read_manifest(out)
    assert list(merged) == sorted(merged)
    assert merged == {
        **read_manifest(paths["train-clean-100"]),
        **read_manifest(paths["train-other-500"]),
    }
    before = out.stat()
    merge_manifests(reversed(paths.values()), out)
    assert (out.stat().st_ino, out.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_merge_refuses_the_same_id(corpus, tmp_path):
    path = prepare(corpus)["dev-clean"]
    copy = tmp_path / "copy.csv"
    copy.write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match="merge manifests of different utterances") as caught:
        merge_manifests([path, copy], tmp_path / "train.csv")
    assert f"ID '84-121123-0000' is both in '{path}' and in '{copy}'" in str(caught.value)
    with pytest.raises(ValueError, match=r"no manifest to merge into '.*': pass at least one path"):
        merge_manifests([], tmp_path / "train.csv")
    assert not (tmp_path / "train.csv").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist: prepare the data first"),
        ("", r"lacks the column\(s\) ID, duration, num_samples, wav, spk_id, wrd: its first line"),
        ("ID,duration,wav,spk_id,wrd\n", r"lacks the column\(s\) num_samples: its first line must"),
        ("ID,duration,num_samples,wav,spk_id,wrd\na,1.0,16000,x,1,A\na,1.0,16000,x,1,A\n",
         "has the ID 'a' twice: keep one row"),
        ("ID,duration,num_samples,wav,spk_id,wrd\na,1 s,16000,x,1,A\n",
         "ID 'a': duration '1 s' must be seconds and num_samples '16000' an integer"),
        ("ID,duration,num_samples,wav,spk_id,wrd\na,1.0\n", "num_samples 'None' an integer"),
    ],
)  # fmt: skip
def test_read_refuses_what_is_no_manifest(tmp_path, content, message):
    path = tmp_path / "a.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(path)


# --- the recipe's script ---


def test_script_merges_the_training_splits(corpus, tmp_path):
    prepare_all = runpy.run_path(str(SCRIPT))["prepare"]
    splits = ["train-clean-100", "train-other-500", "dev-clean"]
    paths = prepare_all(corpus, tmp_path / "csv", splits, show_progress=False)
    assert list(paths) == [*splits, "train"]
    assert len(read_manifest(paths["train"])) == 10
    assert "train" not in prepare_all(corpus, tmp_path / "dev", ["dev-clean"])
    paths = prepare_all(corpus, tmp_path / "csv", splits, ["dev-clean", "train-other-500"])
    assert len(read_manifest(paths["train"])) == 4
    with pytest.raises(ValueError, match="training split 'test-clean' is not in splits"):
        prepare_all(corpus, tmp_path / "csv", splits, ["test-clean"])


def test_script_with_a_split_called_train(corpus, tmp_path):
    prepare_all = runpy.run_path(str(SCRIPT))["prepare"]
    (corpus / "train-other-500").rename(corpus / "train")
    path = prepare_all(corpus, tmp_path / "csv", ["train", "dev-clean"])["train"]
    assert list(read_manifest(path)) == ["20-205-0000"]
    with pytest.raises(ValueError, match=r"split 'train' beside the .*; rename that folder"):
        prepare_all(corpus, tmp_path / "csv", ["train", "train-clean-100"])


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script_as_a_command(corpus, tmp_path, monkeypatch, capsys):
    command = [corpus, tmp_path / "csv", "--splits", "dev-clean", "--num_workers", "1"]
    transcripts(corpus).unlink()
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, *command)
    errors = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(errors) == 1
    assert errors[0].startswith("error: dev-clean: 0 utterances (0.000 h, 0 speakers) are good, 3 ")
    run_script(monkeypatch, *command, "--no_transcripts")
    assert len(read_manifest(tmp_path / "csv/dev-clean.csv")) == 3
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, *command, "--no_trans")  # no abbreviations
