"""Manifests from CSV files of one's own: columns, filters, paths, and what is refused."""

import re

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.csv_manifest import parse_source, parse_sources, prepare_csv
from speechbrain_pom.data.manifest import read_manifest

SECONDS = {"a": 0.5, "b": 0.75, "c": 1.0}


@pytest.fixture
def folder(tmp_path):
    """Three files of noise, and two CSV files that name them in two ways."""
    rng = np.random.default_rng(0)
    for name, duration_s in SECONDS.items():
        samples = rng.uniform(-0.5, 0.5, int(16000 * duration_s))
        soundfile.write(tmp_path / f"{name}.flac", samples, 16000)
    (tmp_path / "own.csv").write_text(
        "id,path,duration_s,split,speaker,text,label\n"
        "u-a,a.flac,0.500,train,s1,GO ON,x\n"
        "u-b,b.flac,0.750,dev,s2, STOP  IT ,y\n"
    )
    (tmp_path / "brain.csv").write_text(
        "ID, duration, wav, spk_id, wrd\nu-c, 1.0, $data_root/c.flac, s3, YES\n"
    )
    return tmp_path


def prepare(folder, value, **options):
    options = {"show_progress": False, "num_workers": 1, **options}
    return prepare_csv("data", parse_sources(value), folder / "manifests", **options)


def test_both_families_of_columns_make_one_manifest(folder):
    sources = [str(folder / "own.csv"), str(folder / "brain.csv")]
    rows = read_manifest(prepare(folder, sources))
    assert {key: row["num_samples"] for key, row in rows.items()} == {
        f"u-{name}": int(16000 * duration_s) for name, duration_s in SECONDS.items()
    }
    assert [rows[key]["wrd"] for key in ("u-a", "u-b", "u-c")] == ["GO ON", "STOP IT", "YES"]
    assert [rows[key]["spk_id"] for key in ("u-a", "u-c")] == ["s1", "s3"]
    assert [rows[key]["label"] for key in ("u-a", "u-c")] == ["x", ""]
    assert rows["u-c"]["wav"] == str(folder / "c.flac")


def test_the_column_of_the_labels_can_be_another_one(folder):
    rows = read_manifest(prepare(folder, str(folder / "own.csv"), label_columns=["tone", "split"]))
    assert [row["label"] for row in rows.values()] == ["train", "dev"]
    with pytest.raises(ValueError, match=r"own\.csv' has no column tone: its first line must name"):
        prepare(folder, str(folder / "own.csv"), label_columns=["tone"])


def test_rows_are_chosen_by_any_columns(folder):
    assert list(read_manifest(prepare(folder, f"{folder}/own.csv?split=dev"))) == ["u-b"]
    both = f"{folder}/own.csv?split=train&label=x"
    assert list(read_manifest(prepare(folder, both))) == ["u-a"]
    assert parse_source(both).name == "own-train-x"


def test_relative_paths_start_in_the_data_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert list(read_manifest(prepare(folder, "brain.csv", data_folder=folder))) == ["u-c"]
    nearby = folder.parent / "own.csv"
    nearby.write_text("id,path\nu,a.flac\n")
    advice = "with data_folder, relative paths start there; leave it out or give the whole path"
    with pytest.raises(ValueError, match=f"no such CSV file: 'elsewhere/own.csv': {advice}"):
        prepare(folder, "own.csv", data_folder="elsewhere")


def test_a_manifest_is_made_again_when_anything_changed(folder):
    path = prepare(folder, f"{folder}/own.csv?split=train")
    stamp = path.stat().st_mtime_ns
    assert prepare(folder, f"{folder}/own.csv?split=train").stat().st_mtime_ns == stamp
    soundfile.write(folder / "a.flac", np.ones(8000) / 3, 16000)
    assert prepare(folder, f"{folder}/own.csv?split=train").stat().st_mtime_ns != stamp
    assert list(read_manifest(prepare(folder, f"{folder}/own.csv?split=dev"))) == ["u-b"]


def test_other_formats_are_converted_on_reading(folder):
    soundfile.write(folder / "wide.wav", np.full((44101, 2), 0.25), 44100)
    (folder / "wide.csv").write_text("id,path\nw,wide.wav\n")
    assert read_manifest(prepare(folder, f"{folder}/wide.csv"))["w"]["num_samples"] == 16001


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,path\n", "own.csv' has no row: check the file and the filter"),
        (
            "id,file\nu,a.flac\n",
            "has no column wav or path: its first line must name it (it has id",
        ),
        ("path\na.flac\n", "own.csv' has no column ID or id: its first line"),
        ("id,path\nu,a.flac\nu,b.flac\n", "have the ID 'u' twice ('b.flac'): IDs must be unique"),
        ("id,path\n,a.flac\n", "have a row without an ID ('a.flac'): IDs must be unique"),
        ("id,path\nu,gone.flac\n", "u (gone.flac): the file is missing"),
        (
            "id,path,duration\nu,a.flac,0.9\n",
            "lasts 0.500 s, but the CSV says 0.9 s: fix one of them",
        ),
        (
            "id,path,duration\nu,a.flac,long\n",
            "its stated duration 'long' is not a number of seconds: fix it",
        ),
        ("id,path,text\nu,a.flac,\n", "has no transcript: add it or remove the row"),
        ("id,path,text\nu,a.flac,COSTS $FIVE\n", "its wrd 'COSTS $FIVE' holds '$', a placeholder"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(folder, text, message):
    (folder / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        prepare(folder, f"{folder}/own.csv", need_transcripts=True)


def test_filters_that_choose_nothing_are_refused(folder):
    with pytest.raises(ValueError, match=r"own\.csv' has no row with split = test: check"):
        prepare(folder, f"{folder}/own.csv?split=test")
    with pytest.raises(ValueError, match="has no column 'part', by which its rows are chosen: it"):
        prepare(folder, f"{folder}/own.csv?part=test")
    with pytest.raises(ValueError, match=r"no such CSV file: '/nowhere/x\.csv': check the path"):
        prepare(folder, "/nowhere/x.csv")


@pytest.mark.parametrize("text", ["", "?split=train", "a.csv?", "a.csv?split", "a.csv?=train"])
def test_malformed_sources(text):
    with pytest.raises(ValueError, match=r"is not a source of data: give FILE\.csv or FILE\.csv\?"):
        parse_source(text)


def test_lists_of_sources():
    with pytest.raises(ValueError, match="the list of CSV files is empty: give at least one"):
        parse_sources([])
    with pytest.raises(ValueError, match="are called 'a': rename one file"):
        parse_sources(["x/a.csv", "y/a.csv"])


def test_a_share_may_be_left_out_and_is_named(folder):
    with open(folder / "own.csv", "a") as stream:
        stream.write("u-d,gone.flac,1.0,train,s1,NO,z\n")
    path = prepare(folder, f"{folder}/own.csv", max_bad_share=0.5)
    assert "u-d" not in read_manifest(path)
    assert '"u-d"' in path.with_suffix(".problems.json").read_text()
