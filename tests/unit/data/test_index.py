"""Manifests by column: the same rows as SpeechBrain's, in the memory of their characters."""

import re
import sys
import tracemalloc

import numpy as np
import pytest
from speechbrain.dataio.dataio import load_data_csv

from speechbrain_pom.data.index import is_index, read_facts, read_index, read_table, write_index
from speechbrain_pom.data.run_texts import RunTexts
from speechbrain_pom.data.table import read_csv
from speechbrain_pom.data.texts import Texts
from speechbrain_pom.training.dataset import audio_dataset, make_sampler
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.utils.errors import UserError

STRINGS = ["", "a", "ab", "a b", "é", "ü" * 300, "\U0001f600", "\uffff", "b"]


@pytest.fixture
def pyarrow():
    return pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")


def rows(num_rows, **columns):
    ids = [f"u{number:07d}" for number in range(num_rows)]
    lengths = [8000 + 16 * number for number in range(num_rows)]
    return {
        "ID": ids,
        "duration": [length / 16000 for length in lengths],
        "num_samples": lengths,
        "wav": [f"$data_root/{key}.flac" for key in ids],
        "wrd": ["" if number % 3 else f"WORD {number}" for number in range(num_rows)],
        **columns,
    }


def write_csv(path, columns):
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values()))]  # noqa: B905
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("separator", ["/", None])
@pytest.mark.parametrize("size", [0, 1, 63, 500])
def test_strings_that_begin_alike(size, separator):
    random = np.random.default_rng(size)
    folders = ["", "/", "a", "a/", "a/b/", "a/b", "a\0", "é/", "$data_root/" + 300 * "ü"]
    strings = [folders[i] + str(j) * k for i, j, k in random.integers(0, (9, 3, 2), (size, 3))]
    for mixed in (strings, sorted(strings)):
        parts = [Texts.of(mixed[: size // 3]), Texts.of(mixed[size // 3 :])]
        texts = RunTexts(parts, separator)
        assert list(texts) == mixed
        assert len(texts) == size
        assert texts.lengths.tolist() == [len(text.encode()) for text in mixed]
        positions = random.permutation(size)[: size // 2]
        assert texts.take(positions) == [mixed[i] for i in positions]
        news = [i for i in range(size) if i == 0 or mixed[i] != mixed[i - 1]]
        assert Texts.of(mixed).run_starts.tolist() == news
        with pytest.raises(IndexError):
            texts[size]


def test_folders_are_held_once():
    paths = [f"$data_root/books/{n // 50:06d}/{n:08d}.flac" for n in range(5000)]
    texts, whole = RunTexts([Texts.of(paths)], "/"), Texts.of(paths)
    assert texts.num_runs == 100
    assert texts.num_bytes < 0.5 * whole.num_bytes


@pytest.mark.parametrize("size", [1, 63, 500, 70_000])
def test_strings_are_kept_and_sorted_as_python_sorts_them(size):
    random = np.random.default_rng(size)
    strings = [STRINGS[i] + str(j) for i, j in random.integers(0, len(STRINGS), (size, 2))]
    texts = Texts.of(strings)
    assert texts == strings
    assert [texts[i] for i in (0, -1, size // 2)] == [strings[i] for i in (0, -1, size // 2)]
    assert [texts[i] for i in texts.order] == sorted(strings)
    positions = np.sort(random.permutation(size)[: size // 2 + 1])
    assert texts.take(positions) == [strings[i] for i in positions]
    assert texts.find(strings[-1]) in [i for i, s in enumerate(strings) if s == strings[-1]]
    with pytest.raises(KeyError):
        texts.find("no such string")
    with pytest.raises(IndexError):
        texts[size]
    repeated = sorted({s for s in strings if strings.count(s) > 1}) if size < 1000 else [...]
    assert (texts.first_repeated() in strings) if repeated else (texts.first_repeated() is None)


def test_increasing_strings_are_seen_across_chunks():
    strings = [f"{number:06d}" for number in range(140_000)]
    assert Texts.of(strings).is_increasing
    for place in (0, 65_534, 65_535, 65_536, 131_071, 139_998):
        swapped = strings.copy()
        swapped[place], swapped[place + 1] = swapped[place + 1], swapped[place]
        assert not Texts.of(swapped).is_increasing
        swapped[place] = swapped[place + 1]
        assert Texts.of(swapped).first_repeated() == swapped[place]


def test_rows_are_those_of_speechbrain(tmp_path):
    columns = rows(500, note=['"a, ""b"""' if n % 2 else " c $data_root $" for n in range(500)])
    path = write_csv(tmp_path / "a.csv", columns)
    theirs = load_data_csv(str(path), {"data_root": "/data"})
    ours = read_csv(path, {"data_root": "/data"})
    for row in theirs.values():
        row["num_samples"] = int(row["num_samples"])
    assert dict(ours) == theirs
    assert dict(ours.items()) == theirs
    assert list(ours.values()) == list(theirs.values())


def test_an_index_has_the_rows_of_the_manifest(pyarrow, tmp_path):
    columns = rows(500)
    manifest = read_table(write_csv(tmp_path / "a.csv", columns), "/data")
    order = np.random.default_rng(0).permutation(500)
    shuffled = {name: [values[i] for i in order] for name, values in columns.items()}
    path = write_index(tmp_path / "a.parquet", shuffled, {"source": "a"})
    assert is_index(path)
    assert not is_index(tmp_path / "a.csv")
    assert dict(read_table(path, "/data")) == dict(manifest)
    assert read_index(path)["u0000001"]["wav"] == f"{tmp_path}/u0000001.flac"
    assert read_facts(path)["source"] == "a"


def test_durations_that_are_not_those_of_the_samples_are_kept(pyarrow, tmp_path):
    stated = [0.1, 2.5, 3.3]
    path = write_index(tmp_path / "a.parquet", rows(3, duration=stated))
    assert read_index(path).column("duration").tolist() == stated
    assert [row["duration"] for row in read_index(path).values()] == stated


def test_batches_are_those_of_the_manifest(pyarrow, tmp_path):
    columns = rows(500)
    options = {"max_batch_duration_s": 20.0, "seed": 3}
    write_csv(tmp_path / "a.csv", columns)
    write_index(tmp_path / "a.parquet", columns)
    found = []
    for name in ("a.csv", "a.parquet"):
        dataset = audio_dataset(tmp_path / name, "/data", max_duration_s=0.9)
        found.append([[dataset.data_ids[i] for i in b] for b in make_sampler(dataset, **options)])
    keys = [key for key, s in zip(columns["ID"], columns["duration"], strict=True) if s <= 0.9]
    durations_s = [s for s in columns["duration"] if s <= 0.9]
    plain = BucketBatchSampler(durations_s, keys, **options)
    assert found[0] == found[1] == [[keys[i] for i in batch] for batch in plain]


def test_no_object_per_row(pyarrow, tmp_path):
    path = write_index(tmp_path / "a.parquet", rows(100_000))
    tracemalloc.start()
    table = read_index(path)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert taken < 100_000 * 100  # 8 + 4 + 8 bytes of numbers, 45 of strings, offsets
    keys = list(table)
    assert sum(map(sys.getsizeof, keys)) > 100_000 * 50  # the guard: strings of Python


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,wav\nu1,a\n", "is no manifest: its first line must name each column once, ID amo"),
        ("", "is no manifest: its first line must name each column once, ID among them (it has n"),
        ("ID,wav\nu1\n", "has a row of 1 values for 2 columns (u1): correct it"),
        ("ID,duration\nu1,long\n", "column duration: could not convert string to float: 'long'"),
        ("ID,wav\nu1,a\nu2,b\nu1,c\n", "has the ID 'u1' twice: keep one row"),
        ("ID,wav\nu1,$root/a\n", "holds '$root/a', where $root stands for nothing: write it out"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        read_csv(tmp_path / "a.csv", {"data_root": "/data"})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"ID": ["a", "b", "a"]}, "an index has the ID 'a' twice: IDs must be unique"),
        ({"ID": ["a", "", "c"]}, "an index has a row without an ID: give each utterance one"),
        ({"duration": [1.0, float("nan"), 1.0]}, "utterance 'u0000001' has duration nan: leave"),
        ({"num_samples": [5, 5, 0]}, "utterance 'u0000002' has num_samples 0: leave it out"),
    ],
)
def test_an_index_is_checked_when_it_is_written(pyarrow, tmp_path, columns, message):
    with pytest.raises(UserError, match=re.escape(message)):
        write_index(tmp_path / "a.parquet", rows(3, **columns))
    assert not list(tmp_path.iterdir())


def test_what_is_no_index_is_refused(pyarrow, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    with pytest.raises(UserError, match="an index needs the column duration: it has"):
        write_index(path, {"ID": ["a"]})
    path.write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"cannot be read .*: pack the data again"):
        read_table(path)
    pyarrow.parquet.write_table(pyarrow.table({"ID": ["a"]}), path)
    with pytest.raises(UserError, match="is no index: make one with python -m speechbrain_pom pac"):
        read_table(path)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match="need pyarrow: pip install 'speechbrain-pom"):
        read_table(path)


WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(["pyarrow", "pyarrow.parquet", "webdataset", "submitit"]))
for name in [name for name in sys.modules if name.startswith("speechbrain_pom")]:
    del sys.modules[name]
import speechbrain_pom.cli.transcribe, speechbrain_pom.training.dataset
from speechbrain_pom.__main__ import COMMANDS
from importlib import import_module
for command in COMMANDS.values():
    import_module(command.module)
"""


def test_importing_the_package_needs_no_optional_one(programs):
    result = programs.run(["-c", WITHOUT])
    assert result.returncode == 0, result.stderr
