"""A file is the old version or the new one."""

import os

import pytest

from speechbrain_pom.utils.files import write_atomically


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
