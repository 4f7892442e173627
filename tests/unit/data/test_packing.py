"""Audio in shards: packed once whatever is killed, read in any order, equal to the files."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")

from speechbrain_pom.data import shards as shards_module
from speechbrain_pom.data.index import INDEX_FILE, read_index
from speechbrain_pom.data.packing import pack
from speechbrain_pom.data.prepare import prepare_shards
from speechbrain_pom.data.shards import ShardReader, open_store, shard_name
from speechbrain_pom.training.dataset import audio_dataset, make_sampler
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.locks import locked
from speechbrain_pom.utils.parts import Part, parse_part
from tests.helpers.range_server import RangeServer

LENGTHS = [1600, 1, 63, 500, 48000, 16000, 8001, 3200, 12345, 20000, 7000, 9000]
OPTIONS = {"show_progress": False, "num_workers": 1}


@pytest.fixture
def source(tmp_path):
    """A CSV file of audio in several formats and rates."""
    random = np.random.default_rng(0)
    lines = ["id,path,speaker,text,split"]
    for number, length in enumerate(LENGTHS):
        name = f"u{number:02d}.{('flac', 'wav', 'mp3')[number % 3 if length > 5000 else 0]}"
        rate = (16000, 8000)[number % 2]
        soundfile.write(tmp_path / name, random.uniform(-0.5, 0.5, length), rate)
        lines.append(f"a/{name},{name},s{number % 4},GO {number},{('train', 'dev')[number % 2]}")
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "own.csv"


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def signals(dataset, batches=None):
    loader = torch.utils.data.DataLoader(
        dataset, batch_sampler=batches or [[i] for i in range(len(dataset))], collate_fn=list
    )
    return {item["id"]: item["sig"] for batch in loader for item in batch}


def test_packed_audio_is_that_of_the_files(source, tmp_path):
    index = pack(source, tmp_path / "packed", shard_bytes=40_000, **OPTIONS)
    assert sum(1 for _ in (tmp_path / "packed").glob("*.tar")) > 2
    files = pack(source, tmp_path / "files", index_only=True, **OPTIONS)
    packed, plain = (audio_dataset(path, None) for path in (index, files))
    assert packed.data_ids == plain.data_ids == sorted(plain.data_ids)
    assert len(packed) == len(LENGTHS)
    sampler = make_sampler(packed, max_batch_duration_s=6.0, seed=1)
    expected, found = signals(plain), signals(packed, list(sampler))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    row = packed.data["a/u03.flac"]
    assert (row["spk_id"], row["wrd"]) == ("s3", "GO 3")
    packed.set_output_keys(["id", "duration"])  # audio that is not asked for is not read
    for shard in (tmp_path / "packed").glob("*.tar"):
        shard.unlink()
    assert packed[0]["id"] == packed.data_ids[0]


def test_webdataset_reads_the_shards(source, tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="not installed")
    index = pack(source, tmp_path / "packed", shard_bytes=40_000, **OPTIONS)
    urls = sorted(map(str, (tmp_path / "packed").glob("*.tar")))
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False, empty_check=False):
        audio = next(sample[kind] for kind in ("flac", "wav", "mp3") if kind in sample)
        found[json.loads(sample["json"])["ID"]] = audio
    assert found == {
        key: (tmp_path / key.removeprefix("a/")).read_bytes() for key in read_index(index)
    }


def test_parts_and_kills_leave_what_one_call_writes(source, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pack(source, whole, shard_bytes=20_000, **OPTIONS)
    num_shards = sum(1 for _ in whole.glob("*.tar"))
    for attempt in range(40):
        pid = os.fork()
        if pid == 0:
            slow = ShardReaderDelay(monkeypatch)
            slow.install()
            pack(source, parts, shard_bytes=20_000, part=Part(attempt % 3 + 1, 3), **OPTIONS)
            os._exit(0)
        time.sleep(0.05 if attempt < 6 else 0)
        if attempt < 6:
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if (parts / INDEX_FILE).is_file():
            break
    assert attempt >= 6
    assert sum(1 for _ in parts.glob("*.tar")) == num_shards
    hidden = [path for path in contents(parts) if path.name.startswith(".")]
    found = {path: data for path, data in contents(parts).items() if path not in hidden}
    assert found == contents(whole)
    before = (parts / INDEX_FILE).stat().st_mtime_ns
    pack(source, parts, shard_bytes=20_000, **OPTIONS)
    assert (parts / INDEX_FILE).stat().st_mtime_ns == before


class ShardReaderDelay:
    """Makes packing slow enough to be killed in the middle of a shard."""

    def __init__(self, patch):
        self.patch = patch

    def install(self):
        read = Path.read_bytes
        self.patch.setattr(Path, "read_bytes", lambda path: time.sleep(0.01) or read(path))


def test_windows_of_shards_read_each_utterance_once_and_few_shards_at_a_time(source, tmp_path):
    index = pack(source, tmp_path / "packed", shard_bytes=12_000, **OPTIONS)
    dataset = audio_dataset(index, None)
    shards = dataset.data.column("shard")
    num_shards = int(shards.max()) + 1
    assert num_shards >= 6
    options = {"batch_size": 2, "seed": 1, "shard_window": 2}
    orders = []
    for world_size in (1, 2):
        ranks = [
            make_sampler(dataset, rank=rank, world_size=world_size, **options)
            for rank in range(world_size)
        ]
        for epoch in (1, 2):
            for sampler in ranks:
                sampler.set_epoch(epoch)
            steps = list(zip(*ranks, strict=True))
            flat = [index for step in steps for batch in step for index in batch]
            assert sorted(flat) == list(range(len(dataset)))
            order = list(dict.fromkeys(shards[flat].tolist()))  # as they are opened
            window = [order.index(shard) // 2 for shard in shards[flat]]
            assert window == sorted(window)  # a window is left for good
            assert len(order) == num_shards
            orders.append(tuple(flat))
            resumed = make_sampler(dataset, world_size=world_size, **options)
            resumed.set_start(epoch, 2)
            resumed.set_epoch(epoch)
            assert list(resumed) == list(ranks[0])[2:]
    assert len(set(orders)) == 4
    free = make_sampler(dataset, batch_size=2, seed=1)
    assert list(free) != list(make_sampler(dataset, **options))


@pytest.mark.parametrize("faults", [[], ["cut", "503", "cut", "503", "close"]])
def test_a_store_behind_a_network(source, tmp_path, monkeypatch, faults):
    pytest.importorskip("aiohttp", reason="fsspec needs it for http")
    monkeypatch.setattr(shards_module, "_FIRST_WAIT_S", 0.01)
    pack(source, tmp_path / "packed", shard_bytes=40_000, **OPTIONS)
    with RangeServer(tmp_path / "packed", faults=faults, delay_s=0.03) as server:
        found = read_index(tmp_path / "packed")
        found.reader = ShardReader(server.url)
        local, remote = (
            audio_dataset(tmp_path / "packed", None),
            audio_dataset(tmp_path / "packed", None),
        )
        remote.data = found
        start = time.perf_counter()
        expected = signals(local)
        batch = list(range(len(LENGTHS)))
        answers = signals(remote, [batch])
        wall_s = time.perf_counter() - start
        assert all(torch.equal(answers[key], expected[key]) for key in expected)
        assert server.num_requests >= len(LENGTHS) + len(faults) - 1
        if not faults:
            assert server.most_at_once > 3, wall_s  # the ranges of a batch go together


def test_a_store_that_never_answers_ends_with_the_name(source, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp", reason="fsspec needs it for http")
    monkeypatch.setattr(shards_module, "_FIRST_WAIT_S", 0.001)
    expected = pytest.raises(OSError, match=r"shard-000007.tar': 5 bytes from 3 could not be read")
    with RangeServer(tmp_path, faults=["503"] * 100) as server, expected:
        ShardReader(server.url).read([(7, 3, 5)])
    with pytest.raises(UserError, match=r"cannot be read .*pip install 'speechbrain-pom"):
        open_store("nosuchstore://bucket")


def test_a_shard_that_is_cut_is_named(source, tmp_path):
    index = pack(source, tmp_path / "packed", **OPTIONS)
    path = tmp_path / "packed" / shard_name(0)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(OSError, match=r"shard-000000.tar' ends before byte"):
        signals(audio_dataset(index, None))


def test_both_sides_of_an_index_are_those_of_a_folder(source, tmp_path):
    from speechbrain_pom.data.audio_folder import prepare_audio_folder

    folder = tmp_path / "audio"
    folder.mkdir()
    for path in [*tmp_path.glob("u*.*")]:
        path.rename(folder / path.name)
    pack(folder, tmp_path / "packed", **OPTIONS)
    plain = prepare_audio_folder(folder, tmp_path / "csv", valid_share=0.3, show_progress=False)
    keys = {"data_folder": tmp_path / "packed", "valid_share": 0.3, "output_folder": tmp_path}
    made = prepare_shards(keys, tmp_path / "manifests", ["train"], "dev")
    for name in ("train", "valid"):
        theirs, ours = audio_dataset(plain[name], folder), audio_dataset(getattr(made, name), None)
        assert theirs.data_ids == ours.data_ids
    stamp = made.train.stat().st_mtime_ns
    assert prepare_shards(keys, tmp_path / "manifests", ["train"], "dev").train == made.train
    assert made.train.stat().st_mtime_ns == stamp  # the hash is enough
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    pack(source.parent / "audio", tmp_path / "other", index_only=True, **OPTIONS)
    (tmp_path / "other" / INDEX_FILE).replace(tmp_path / "packed" / INDEX_FILE)
    with pytest.raises(UserError, match="is not the index that this run was begun with: put that"):
        prepare_shards(keys, tmp_path / "manifests", ["train"], "dev")
    keys["data_folder"] = tmp_path / "audio"
    with pytest.raises(UserError, match=r"train_splits \['a', 'b'\]: of data in shards there is"):
        prepare_shards(keys, tmp_path / "manifests", ["a", "b"], "dev")
    with pytest.raises(UserError, match=r"has no index.parquet: pack the data with python -m"):
        prepare_shards(keys, tmp_path / "manifests", ["train"], "dev")


def test_bad_utterances_are_listed_and_counted(source, tmp_path):
    (tmp_path / "u03.flac").write_bytes(b"")
    (tmp_path / "u05.mp3").unlink(missing_ok=True)
    for path in tmp_path.glob("u05.*"):
        path.unlink()
    with pytest.raises(UserError, match=r"2 of 12 utterances are bad, more than max_bad_share=0 "):
        pack(source, tmp_path / "packed", **OPTIONS)
    assert {bad[0] for bad in json.loads((tmp_path / "packed/problems.json").read_text())["bad"]}
    index = pack(source, tmp_path / "packed", max_bad_share=0.2, **OPTIONS)
    assert len(read_index(index)) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "none.csv"}, "no such CSV file: '"),
        ({"source": "own.csv?split=test"}, "there is nothing to pack: give a source with audio"),
        ({"source": "own.csv?side=a"}, "has no column 'side', by which rows are chosen"),
        ({"splits": ["a"]}, "--splits are for folders, and '"),
        ({"text": "id\nu1\n"}, "has no column wav or path: its first line must name it"),
        ({"text": "id,path\nu1,a\nu1,b\n"}, "has the ID 'u1' twice: keep one row"),
    ],
)
def test_sources_that_cannot_be_packed(source, tmp_path, change, message):
    if "text" in change:
        source.write_text(change["text"])
    path = tmp_path / change.get("source", "own.csv")
    with pytest.raises(UserError, match=re.escape(message)):
        pack(path, tmp_path / "packed", splits=change.get("splits"), **OPTIONS)


def test_an_id_of_two_splits_is_refused(tmp_path):
    for split in ("a", "b"):
        chapter = tmp_path / split / "1" / "2"
        chapter.mkdir(parents=True)
        soundfile.write(chapter / "1-2-0000.flac", np.ones(800) / 2, 16000)
        (chapter / "1-2.trans.txt").write_text("1-2-0000 GO\n")
    with pytest.raises(UserError, match="the ID '1-2-0000' occurs twice in the source"):
        pack(tmp_path, tmp_path / "packed", splits=["a", "b"], **OPTIONS)


def test_a_part_is_packed_by_one_process(source, tmp_path):
    part = Part(1, 2)
    pack(source, tmp_path / "packed", part=part, **OPTIONS)
    with locked(tmp_path / f"packed/.{part.name}.lock"):
        with pytest.raises(UserError, match=f"another process packs {part.name}: wait for it"):
            pack(source, tmp_path / "packed", part=part, **OPTIONS)
        assert pack(source, tmp_path / "packed", part=Part(2, 2), **OPTIONS)


def test_a_folder_of_other_options_is_left_alone(source, tmp_path):
    pack(source, tmp_path / "packed", **OPTIONS)
    with pytest.raises(UserError, match=r"was packed with shard_bytes 1000000000, this call has 5"):
        pack(source, tmp_path / "packed", shard_bytes=5, **OPTIONS)


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/64", {}, Part(3, 64)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "8",
                  "SLURM_ARRAY_TASK_COUNT": "4"}, Part(2, 4)),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "0", "AWS_BATCH_JOB_ARRAY_SIZE": "5"}, Part(1, 5)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, Part(8, 8)),
        ("auto", {"JOB_COMPLETION_INDEX": "7"}, "JOB_COMPLETIONS is not set: give auto/N"),
        ("auto", {}, "none of SLURM_ARRAY_TASK_ID, "),
        ("0/4", {}, "part 0 of 4: parts count from 1 to N"),
        ("5/4", {}, "part 5 of 4: parts count from 1 to N"),
        ("half", {}, "give I/N such as 3/64, or auto in a job array"),
        ("3", {}, "give I/N such as 3/64, or auto in a job array"),
    ],
)  # fmt: skip
def test_parts_of_command_lines_and_batch_systems(text, environment, expected):
    if isinstance(expected, Part):
        assert parse_part(text, environment) == expected
        return
    with pytest.raises(UserError, match=re.escape(expected)):
        parse_part(text, environment)


def test_the_command(source, tmp_path, programs):
    command = ["-m", "speechbrain_pom", "pack", source, tmp_path / "packed", "--shard_mb", "1"]
    first = programs.run([*command, "--part", "1/2", "--num_workers", "1"])
    assert first.returncode == 0, first.stderr
    result = programs.run([*command, "--part", "2/2", "--num_workers", "1"])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "packed" / INDEX_FILE).is_file()
    refused = programs.run([*command[:-1], "0"])
    assert refused.returncode == 2
    assert "--shard_mb is 0: give at least 1" in refused.stderr
