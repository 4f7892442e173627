"""Manifests are written, read, merged and refused."""

import pytest

from speechbrain_pom.data.manifest import (
    COLUMNS,
    manifest_bytes,
    merge_manifests,
    read_manifest,
    write_manifest,
)


def make_row(utterance, num_samples=500, **others):
    values = (utterance, num_samples / 16000, num_samples, f"$data_root/{utterance}", "1", "A, B")
    return {**dict(zip(COLUMNS, values, strict=True)), **others}


def stamp(path):
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_rows_come_back_typed_and_sorted(tmp_path):
    path = write_manifest(tmp_path / "a.csv", [make_row("b", 63), make_row("a", 1)])
    manifest = read_manifest(path)
    assert list(manifest) == ["a", "b"]
    assert manifest["b"] == {k: v for k, v in make_row("b", 63).items() if k != "ID"}


def test_more_columns_come_last(tmp_path):
    path = write_manifest(tmp_path / "a.csv", [make_row("a", sample_rate=8000)])
    assert path.read_text().splitlines()[0] == ",".join((*COLUMNS, "sample_rate"))
    assert read_manifest(path)["a"]["sample_rate"] == "8000"
    assert manifest_bytes([]).decode() == ",".join(COLUMNS) + "\n"


def test_merge(tmp_path):
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    write_manifest(paths[0], [make_row("c"), make_row("a")])
    write_manifest(paths[1], [make_row("b", 1)])
    out = merge_manifests(paths, tmp_path / "train.csv")
    assert list(read_manifest(out)) == ["a", "b", "c"]
    assert read_manifest(out) == {**read_manifest(paths[0]), **read_manifest(paths[1])}
    before = stamp(out)
    merge_manifests(reversed(paths), out)
    assert stamp(out) == before
    merge_manifests(paths[:1], out)
    assert stamp(out) != before


def test_merge_refuses_the_same_id(tmp_path):
    path, copy = (write_manifest(tmp_path / name, [make_row("a")]) for name in ("a.csv", "b.csv"))
    with pytest.raises(ValueError, match="merge manifests of different utterances") as caught:
        merge_manifests([path, copy], tmp_path / "train.csv")
    assert f"ID 'a' is both in '{path}' and in '{copy}'" in str(caught.value)
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
