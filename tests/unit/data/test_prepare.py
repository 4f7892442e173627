"""Where a recipe's data come from: layouts, CSV files, one's own preparation, an earlier start."""

import re

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_pom.data import records
from speechbrain_pom.data.index import read_index
from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.data.packing import pack
from speechbrain_pom.data.prepare import Manifests, prepare_csvs, prepare_data
from speechbrain_pom.utils.errors import UserError

PACKING = {"show_progress": False, "num_workers": 1}


@pytest.fixture
def folder(tmp_path):
    """Audio, and a CSV file of it with a column `split`."""
    rng = np.random.default_rng(0)
    lines = ["id,path,split,text"]
    for name in ("train", "dev", "test"):
        soundfile.write(tmp_path / f"{name}.flac", rng.uniform(-0.5, 0.5, 8000), 16000)
        lines.append(f"u-{name},{name}.flac,{name},GO ON")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def no_layout(hparams, manifest_folder):
    raise AssertionError("asked for a layout")


def prepare(folder, layout=no_layout, need_transcripts=True, **keys):
    defaults = dict.fromkeys(("data_folder", "train_csv", "valid_csv", "test_csv", "prepare"), None)
    options = {"skip_prep": False, "max_bad_share": 0.0, "check_data": "headers"}
    hparams = {"output_folder": str(folder / "run"), **defaults, **options, **keys}

    def from_csv(*args):
        return prepare_csvs(*args, need_transcripts=need_transcripts)

    return prepare_data(hparams, layout, from_csv)


def ids(manifests):
    paths = {"train": manifests.train, "valid": manifests.valid, **manifests.tests}
    return {name: list(read_manifest(path)) for name, path in paths.items()}


def parts(folder):
    own = folder / "own.csv"
    return {"train": f"{own}?split=train", "valid": f"{own}?split=dev", "test": f"{own}?split=test"}


EXPECTED = {"train": ["u-train"], "valid": ["u-dev"], "own-test": ["u-test"]}


def test_csv_keys(folder):
    keys = {f"{part}_csv": path for part, path in parts(folder).items()}
    assert ids(prepare(folder, **keys)) == EXPECTED


def test_a_preparation_that_returns_its_files(folder):
    calls = []

    def own(data_folder, save_folder):
        calls.append((data_folder, save_folder))
        return parts(folder)

    assert ids(prepare(folder, prepare=own)) == EXPECTED
    assert calls == [(None, str(folder / "run/manifests/prepare"))]


def test_a_preparation_that_returns_nothing_as_those_of_speechbrain(folder):
    target = folder / "run/manifests/prepare"

    def own(data_folder, save_folder, skip_prep=False):
        target.mkdir(parents=True)
        for name in ("train", "dev"):
            (target / f"{name}.csv").write_text(
                f"ID, duration, wav, spk_id, wrd\nu-{name}, 0.5, $data_root/{name}.flac, s, GO ON\n"
            )

    keys = {"train_csv": str(target / "train.csv"), "valid_csv": str(target / "dev.csv")}
    manifests = prepare(folder, prepare=own, data_folder=str(folder), **keys)
    assert ids(manifests) == {"train": ["u-train"], "valid": ["u-dev"]}


def test_relative_paths_that_a_preparation_returns_start_where_it_ran(folder, monkeypatch):
    monkeypatch.chdir(folder)
    manifests = prepare(
        folder,
        prepare=lambda **_: {"train": "own.csv?split=train", "valid": ["own.csv?split=dev"]},
        data_folder=str(folder),
    )
    assert ids(manifests) == {"train": ["u-train"], "valid": ["u-dev"]}


def test_the_manifests_of_an_earlier_start(folder):
    keys = {f"{part}_csv": path for part, path in parts(folder).items()}
    first = prepare(folder, **keys)
    (folder / "own.csv").unlink()
    assert prepare(folder, skip_prep=True, **keys) == first
    first.valid.unlink()
    with pytest.raises(UserError, match=r"valid\.csv' is gone: give --skip_prep False"):
        prepare(folder, skip_prep=True)
    with pytest.raises(UserError, match="has no manifests of an earlier start: give"):
        prepare(folder / "elsewhere", skip_prep=True)


def test_a_layout_is_asked_where_there_are_no_csv_files(folder):
    def layout(hparams, manifest_folder):
        return prepare_csvs(hparams | {"data_folder": None}, manifest_folder, parts(folder))

    made = prepare(folder, layout, data_folder="/data")
    assert isinstance(made, Manifests)
    assert prepare(folder, skip_prep=True, data_folder="/data") == made


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"prepare": "my_corpus"}, "prepare is 'my_corpus': give a function, as '!name:my_corpus."),
        ({"prepare": lambda **_: {}}, "prepare returned no CSV file for 'train', and train_csv is"),
        ({"prepare": lambda **_: "a.csv"}, "prepare returned 'a.csv': return CSV files by part"),
        (
            {"prepare": lambda **_: {"dev": "a.csv"}},
            "(parts: train, valid, test, verification), or",
        ),
        (
            {"prepare": lambda **_: {"train": "a.csv"}},
            "train_csv is given, but valid_csv is not: give both",
        ),
        (
            {"train_csv": "a.csv", "valid_csv": "b.csv", "test_csv": "train.csv"},
            "a test set is called 'train', which is the name of another manifest",
        ),
    ],
)
def test_what_cannot_be_used_is_refused(folder, keys, message):
    with pytest.raises(UserError, match=re.escape(message)):
        prepare(folder, **keys)


def test_an_error_in_a_preparation_keeps_its_traceback(folder):
    def own(**_):
        return {}["corpus"]

    with pytest.raises(KeyError, match="corpus"):
        prepare(folder, prepare=own)


def test_an_index_is_taken_as_it_is(folder):
    pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")
    for part in ("train", "dev", "test"):
        pack(f"{folder / 'own.csv'}?split={part}", folder / part, **PACKING)
    keys = {"train_csv": f"{folder}/train", "valid_csv": f"{folder}/dev/index.parquet"}
    keys["test_csv"] = {"mine": str(folder / "test")}
    made = prepare(folder, **keys)
    assert made.train == folder / "train/index.parquet"
    assert list(read_index(made.tests["mine"])) == ["u-test"]
    assert prepare(folder, skip_prep=True, **keys).train.samefile(made.train)
    (folder / "run/save/CKPT+1").mkdir(parents=True)
    assert prepare(folder, **keys) == made
    (folder / "dev/index.parquet").replace(folder / "train/index.parquet")
    with pytest.raises(UserError, match="is not the index that this run was begun with: put that"):
        prepare(folder, **{**keys, "valid_csv": f"{folder}/test"})
    assert prepare(folder, resume_anyway=True, **{**keys, "valid_csv": f"{folder}/test"})
    for value, message in (
        (f"{folder / 'train/index.parquet'}?split=a", "an index stands alone, without a filter"),
        ("none.parquet", "no such index: 'none.parquet': check the path, or pack the data first"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            prepare(folder, **{**keys, "train_csv": value})


def test_an_index_without_what_is_needed_is_refused(folder):
    pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")
    (folder / "own.csv").write_text("id,path\nu1,train.flac\nu2,dev.flac\n")
    pack(folder / "own.csv", folder / "packed", **PACKING)
    keys = dict.fromkeys(("train_csv", "valid_csv"), f"{folder}/packed")
    with pytest.raises(
        UserError, match=r"train: 2 of 2 utterances in .* have no wrd, u1 among the"
    ):
        prepare(folder, **keys)
    assert prepare(folder, need_transcripts=False, **keys).train.is_file()


def test_a_long_preparation_is_refused_where_others_would_wait(folder, monkeypatch):
    keys = {f"{part}_csv": path for part, path in parts(folder).items()}
    monkeypatch.setattr(records, "_INSPECTION_S", {"headers": 1e4, "decode": 1e4})
    expected = "minutes to prepare, and all processes of the run would wait for it until they time"
    with monkeypatch.context() as patch:
        patch.setattr(torch.distributed, "is_initialized", lambda: True)
        with pytest.raises(UserError, match=expected):
            prepare(folder, **keys)
    assert ids(prepare(folder, **keys)) == EXPECTED  # alone it may take its time
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert ids(prepare(folder, **keys)) == EXPECTED  # nothing is left to prepare
