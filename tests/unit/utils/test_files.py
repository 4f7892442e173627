"""A file is the old version or the new one."""

import os

import pytest

from speechbrain_pom.utils import files
from speechbrain_pom.utils.files import publish_folder, write_atomically


@pytest.mark.parametrize("content", ["täxt\n", b"\x00\xff"])
def test_writes_text_and_bytes(tmp_path, content):
    write_atomically(tmp_path / "file", content)
    expected = content.encode() if isinstance(content, str) else content
    assert (tmp_path / "file").read_bytes() == expected


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_version_and_leaves_nothing_else(tmp_path, monkeypatch, step):
    (tmp_path / "file").write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def new_folder(path, content):
    (path / "deep").mkdir(parents=True)
    (path / "deep" / "file").write_text(content)
    return path


def test_a_folder_takes_the_place_of_an_older_one(tmp_path):
    new_folder(tmp_path / "target", "old")
    publish_folder(new_folder(tmp_path / "new", "new"), tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target/deep/file").read_text() == "new"


def test_all_is_on_the_disk_before_the_folder_has_its_name(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr(files, "flush_to_disk", lambda path: order.append(os.path.basename(path)))
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *names: (order.append("rename"), rename(*names)))
    publish_folder(new_folder(tmp_path / "new", "new"), tmp_path / "target")
    assert order == ["new", "file", "deep", "rename", tmp_path.name]


def test_a_folder_that_cannot_be_published_leaves_the_old_one(tmp_path, monkeypatch):
    target = new_folder(tmp_path / "target", "old")
    new = new_folder(tmp_path / "new", "new")
    rename = os.rename

    def fail(source, target):
        if source == new:
            raise OSError(28, "No space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        publish_folder(new, target)
    assert (target / "deep/file").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "target"]
