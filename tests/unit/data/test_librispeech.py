"""Manifests of LibriSpeech-layout folders: content, order, repetition, and every message."""

import logging
import os
import pickle
import shutil
import tempfile
from pathlib import Path

import pytest
import soundfile
from speechbrain.dataio.dataio import load_pkl
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import read_manifest

LOGGER = "speechbrain_pom.data.records"


# --- content ---


def test_rows_are_typed_sorted_and_complete(corpus):
    paths = corpus.prepare(["train-clean-100"])
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
    path = corpus.prepare()["dev-clean"]
    moved = corpus.root.rename(corpus.root.with_name("elsewhere"))
    data = DynamicItemDataset.from_csv(path, {"data_root": str(moved)})
    data.set_output_keys(["wav", "duration", "wrd"])
    assert len(data) == 3
    for item in data:
        assert soundfile.info(item["wav"]).duration == item["duration"]
        assert item["wrd"].startswith("WORDS OF")


def test_only_the_splits_asked_for(corpus):
    paths = corpus.prepare(["dev-clean", "train-other-500", "dev-clean"])
    assert list(paths) == ["dev-clean", "train-other-500"]
    written = {path.name for path in corpus.out.iterdir()}
    assert written == {f"{split}.{end}" for split in paths for end in ("csv", "json")}


def test_worker_count_does_not_change_a_byte(corpus, tmp_path):
    corpus.audio().write_bytes(b"broken")
    splits = ["train-clean-100", "dev-clean"]
    results = []
    for num_workers in (1, 2, None):
        out = tmp_path / f"out{num_workers}"
        corpus.prepare(splits, out, num_workers=num_workers, max_bad_share=0.5)
        results.append({path.name: path.read_bytes() for path in out.iterdir()})
    assert len(results[0]) == 5
    assert results[0] == results[1] == results[2]


def test_another_folder_of_the_same_layout(new_corpus, tmp_path):
    mine = new_corpus(tmp_path / "mine")
    mine.add_chapter("radio", "anna", "monday")
    manifest = read_manifest(mine.prepare(["radio"])["radio"])
    assert {row["spk_id"] for row in manifest.values()} == {"anna"}


def test_commas_quotes_and_a_byte_order_mark_survive(corpus):
    lines = ['84-121123-0000 SO, "HE"  SAID', "84-121123-0001 É", "", "84-121123-0002 5 $ OFF"]
    corpus.transcripts.write_text("\r\n".join(lines), encoding="utf-8-sig")
    path = corpus.prepare()["dev-clean"]
    data = DynamicItemDataset.from_csv(path, {"data_root": "x"}, output_keys=["wrd"])
    assert [item["wrd"] for item in data] == ['SO, "HE" SAID', "É", "5 $ OFF"]


def test_transcripts_are_not_read_when_not_needed(corpus):
    corpus.transcripts.write_bytes(b"\xff\xfe\xfa")
    manifest = read_manifest(corpus.prepare(need_transcripts=False)["dev-clean"])
    assert [row["wrd"] for row in manifest.values()] == [""] * 3
    with pytest.raises(ValueError, match="is unreadable"):
        corpus.prepare()


def test_hidden_files_are_ignored(corpus):
    corpus.audio().with_name("._84-121123-0000.flac").write_bytes(b"not audio")
    assert len(read_manifest(corpus.prepare()["dev-clean"])) == 3


def test_progress_bar(corpus, capfd):
    corpus.prepare()
    assert capfd.readouterr().err == ""
    corpus.prepare(["train-clean-100"], show_progress=True)
    shown = capfd.readouterr().err
    assert "train-clean-100: 100%" in shown
    assert "9/9" in shown


# --- skipped and done again ---


def test_nothing_is_written_when_nothing_changed(corpus, caplog, monkeypatch):
    caplog.set_level(logging.INFO, LOGGER)
    corpus.prepare()
    assert "dev-clean: 3 utterances (0.000 h, 1 speakers); written to" in caplog.text
    before = corpus.stamps()

    def opened(path, *_):
        raise AssertionError(f"{path} opened")

    monkeypatch.setattr("speechbrain_pom.data.chapters.inspect_audio", opened)
    corpus.prepare(num_workers=1)
    assert corpus.stamps() == before
    assert "is kept" in caplog.text
    os.utime(corpus.audio())
    with pytest.raises(AssertionError, match="opened"):  # the guard above can fail
        corpus.prepare(num_workers=1)


def touch(corpus):
    os.utime(corpus.audio(), ns=(1, 1))


def lengthen(corpus):
    corpus.write_audio(corpus.audio(), 3200)


def correct_a_transcript(corpus):
    corpus.transcripts.write_text(corpus.transcripts.read_text().replace("OF 0", "OF NONE"))


def add(corpus):
    corpus.add_chapter("dev-clean", 84, 121550)


def remove(corpus):
    corpus.audio(2).unlink()
    lines = corpus.transcripts.read_text().splitlines(keepends=True)
    corpus.transcripts.write_text("".join(lines[:2]))


def damage_the_manifest(corpus):
    path = corpus.out / "dev-clean.csv"
    path.write_bytes(path.read_bytes()[:-5])


def lose_the_record(corpus):
    (corpus.out / "dev-clean.json").unlink()


def damage_the_record(corpus):
    (corpus.out / "dev-clean.json").write_text('{"source": ')


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
    path = corpus.prepare(splits)["dev-clean"]
    before, content = corpus.stamps(), path.read_bytes()
    change(corpus)
    corpus.prepare(splits)
    after = corpus.stamps()
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"dev-clean.csv", "dev-clean.json"}
    assert (path.read_bytes() == content) is same_manifest
    assert path.read_bytes() == corpus.prepare(out=tmp_path / "new")["dev-clean"].read_bytes()


def test_done_again_for_another_folder_or_setting(corpus, new_corpus, tmp_path):
    path = corpus.prepare()["dev-clean"]
    corpus.prepare(need_transcripts=False)
    assert "WORDS" not in path.read_text()
    corpus.prepare()
    assert "WORDS" in path.read_text()
    other, before = tmp_path / "other", corpus.stamps()
    shutil.copytree(corpus.root, other)  # with the same times
    new_corpus(other, path.parent).prepare()
    assert corpus.stamps()["dev-clean.json"] != before["dev-clean.json"]
    link, before = tmp_path / "link", corpus.stamps()
    link.symlink_to(other)
    new_corpus(link, path.parent).prepare()
    assert corpus.stamps() == before


def test_a_full_check_is_done_once_and_serves_for_less(corpus, monkeypatch):
    path = corpus.prepare()["dev-clean"]
    before, content = corpus.stamps(), path.read_bytes()
    corpus.prepare(check_data="decode")  # deeper than what is recorded
    after = corpus.stamps()
    assert after["dev-clean.json"] != before["dev-clean.json"]
    assert path.read_bytes() == content
    monkeypatch.setattr("speechbrain_pom.data.chapters.inspect_audio", None)
    for check_data in ("decode", "headers"):
        corpus.prepare(check_data=check_data, num_workers=1)
    assert corpus.stamps() == after


def test_code_in_a_pickle_cache_is_never_run(corpus, tmp_path):
    """SpeechBrain's preparation keeps its options in such a file, and loads it."""
    evil = pickle.dumps(TouchesAFile(tmp_path / "executed"))
    corpus.out.mkdir()
    names = [folder / "opt_librispeech_prepare.pkl" for folder in (corpus.root, corpus.out)]
    for name in names:
        name.write_bytes(evil)
    corpus.prepare(check_data="decode")
    corpus.prepare()
    assert not (tmp_path / "executed").exists()
    load_pkl(str(names[0]))
    assert (tmp_path / "executed").exists(), "SpeechBrain's cache runs it: the test can fail"


class TouchesAFile:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_an_interrupted_write_is_repeated(corpus, monkeypatch):
    path = corpus.prepare()["dev-clean"]
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
        corpus.prepare()
    monkeypatch.undo()
    assert [Path(target).suffix for target in calls] == [".csv", ".json"]
    assert path.read_bytes() != content
    before = corpus.stamps()
    corpus.prepare()
    assert corpus.stamps()["dev-clean.json"] != before["dev-clean.json"]
    assert set(corpus.stamps()) == {"dev-clean.csv", "dev-clean.json"}  # no temporary file is left


# --- folders and arguments ---


def test_missing_data_folder(corpus, new_corpus):
    missing = corpus.root / "nowhere"
    assert new_corpus(missing).refusal() == (
        f"data folder '{missing}' does not exist: pass the folder that holds dev-clean"
    )
    expected = f"data folder '{corpus.audio()}' is not a folder: pass"
    assert expected in new_corpus(corpus.audio(), corpus.out).refusal()


def test_missing_split_names_those_there(corpus, new_corpus):
    assert corpus.refusal(["dev-clean", "dev-other", "test-clean"]) == (
        f"data folder '{corpus.root}' has no split 'dev-other', 'test-clean' "
        "(it has dev-clean, train-clean-100, train-other-500): "
        "unpack what is missing there, or ask for other splits"
    )
    empty = corpus.root.parent / "empty"
    empty.mkdir()
    assert "(it has no SPLIT/SPEAKER/CHAPTER/*.flac)" in new_corpus(empty).refusal()


def test_folder_above_and_split_itself_are_recognised(corpus, new_corpus):
    assert new_corpus(corpus.root.parent).refusal() == (
        f"data folder '{corpus.root.parent}' has no split 'dev-clean', but '{corpus.root}' has: "
        "pass that folder instead"
    )
    split = corpus.root / "dev-clean"
    assert new_corpus(split).refusal() == (
        f"data folder '{split}' has no split 'dev-clean', it is itself a split: "
        f"pass the folder above it, '{corpus.root}'"
    )


def test_split_without_audio(corpus):
    (corpus.root / "dev-other/1/2").mkdir(parents=True)
    (corpus.root / "dev-other/1/2/1-2.trans.txt").write_text("1-2-0000 A\n")
    assert corpus.refusal(["dev-clean", "dev-other"]) == (
        f"split 'dev-other' in '{corpus.root}' holds no SPEAKER/CHAPTER/*.flac: "
        "unpack it again, or ask for other splits"
    )
    assert not corpus.out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": ()}, "splits is []: pass a list of names, such as ['train-clean-100']"),
        ({"splits": ["a/b"]}, "split 'a/b' is not a folder name: pass names such as 'dev-clean'"),
        ({"splits": [".."]}, "split '..' is not a folder name: pass names such as 'dev-clean'"),
        ({"splits": [100]}, "split 100 is not a folder name: pass names such as 'dev-clean'"),
        ({"num_workers": 0}, "num_workers is 0: it must be an integer of at least 1"),
        ({"num_workers": "2"}, "num_workers is '2': it must be an integer of at least 1"),
        ({"max_bad_share": 1.0}, "max_bad_share is 1.0: it must be a share, 0 <= x < 1"),
        ({"max_bad_share": "0"}, "max_bad_share is '0': it must be a share, 0 <= x < 1"),
        ({"check_data": "all"}, "check_data is 'all': choose headers or decode"),
    ],
)
def test_wrong_arguments(corpus, options, message):
    assert corpus.refusal(**options) == message


def test_splits_as_one_string(corpus):
    with pytest.raises(ValueError, match="splits is 'dev-clean': pass a list of names"):
        prepare_librispeech(corpus.root, "dev-clean", corpus.root / "csv")


def test_manifest_folder_in_the_way(corpus):
    out = corpus.audio() / "csv"
    assert corpus.refusal(out=out) == (
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


def test_no_permission(plain_user, new_corpus):
    folder, drop_rights = plain_user
    out, closed = folder / "csv", folder / "closed"
    corpus, locked = new_corpus(folder / "LibriSpeech"), new_corpus(closed, out)
    corpus.add_chapter("dev-clean", 84, 121123)
    corpus.prepare(out=out)
    for path in (out, closed):
        path.mkdir(exist_ok=True)
    os.chmod(out, 0o555)
    (closed / "dev-other").mkdir()
    os.chmod(closed / "dev-other", 0)
    drop_rights()
    corpus.prepare(out=out)  # up to date: nothing to write
    expected = f"manifest folder '{out}' cannot be written (Permission denied): choose another"
    assert expected in corpus.refusal(out=out, need_transcripts=False)
    expected = f"'{closed / 'dev-other'}' cannot be listed (Permission denied): check its permissi"
    assert expected in locked.refusal(["dev-other"])
    assert "(it has no SPLIT/SPEAKER/CHAPTER/*.flac)" in locked.refusal(["dev-clean"])
    if os.getuid() == 0:
        os.seteuid(0)
    os.chmod(out, 0o755)
    os.chmod(closed / "dev-other", 0o755)
