"""Many processes, many parts, many rows: what docs/scale.md says was simulated."""

import os
import random
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from speechbrain_pom.data.index import INDEX_FILE, read_index, write_index
from speechbrain_pom.data.packing import pack
from speechbrain_pom.utils.parts import Part
from tests.helpers import ROOT, recipes
from tests.helpers.pretraining import Pretraining
from tests.helpers.processes import train_together

pytestmark = pytest.mark.slow
pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")

NUM_PARTS = 64


def tones(folder, num_files, longest_s=3.0):
    """Short noises, in a folder each for a hundred of them."""
    numbers = np.random.default_rng(0)
    for number in range(num_files):
        path = folder / f"{number // 100}" / f"{number:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = int(16000 * numbers.uniform(0.5, longest_s))
        soundfile.write(path, 0.1 * numbers.standard_normal(size), 16000)
    return folder


def test_64_parts_with_kills_pack_what_one_call_packs(tmp_path):
    source, options = tones(tmp_path / "audio", 400), {"show_progress": False, "num_workers": 1}
    pack(source, tmp_path / "whole", shard_bytes=100_000, **options)
    out, draw, num_kills = tmp_path / "parts", random.Random(0), 0
    deadline = time.time() + 300
    while not (out / INDEX_FILE).is_file():
        assert time.time() < deadline
        pids = []
        for number in draw.sample(range(1, NUM_PARTS + 1), 8):
            pids.append(os.fork())
            if pids[-1] == 0:
                pack(source, out, shard_bytes=100_000, part=Part(number, NUM_PARTS), **options)
                os._exit(0)
        if num_kills < 40:
            time.sleep(draw.uniform(0, 0.1))
            for pid in draw.sample(pids, 4):
                os.kill(pid, signal.SIGKILL)
                num_kills += 1
        for pid in pids:
            os.waitpid(pid, 0)
    assert num_kills >= 40
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.tar")}
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == whole
    assert dict(read_index(out).items()).keys() == dict(read_index(tmp_path / "whole")).keys()


LISTING = """
import resource, sys
from pathlib import Path
from speechbrain_pom.data.pack_list import Item, freeze_list
import speechbrain_pom.data.packing, pyarrow
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
items = (Item(f"folder/{n:09d}.flac", f"/no/such/folder/{n:09d}.flac") for n in range(1_000_000))
freeze_list(Path(sys.argv[1]), items, 10**9)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_list_of_a_million_files_in_less_than_300_mb(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", LISTING, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert float(result.stdout) < 300


def test_a_restart_on_a_million_rows_in_15_s(tmp_path):
    from speechbrain_pom.data.prepare import prepare_shards
    from speechbrain_pom.training.dataset import audio_dataset, make_sampler

    lengths = np.random.default_rng(0).integers(32000, 320000, 1_000_000)
    ids = [f"u{number:08d}" for number in range(len(lengths))]
    columns = {"ID": ids, "duration": lengths / 16000, "num_samples": lengths}
    columns |= {"shard": lengths * 0, "offset": lengths * 0, "bytes": lengths}
    (tmp_path / "packed").mkdir()
    write_index(tmp_path / "packed" / INDEX_FILE, columns)
    keys = {"data_folder": tmp_path / "packed", "valid_share": 0.01, "output_folder": tmp_path}
    prepare_shards(keys, tmp_path / "manifests", [], "")
    start, cpu = time.perf_counter(), time.process_time()
    made = prepare_shards(keys, tmp_path / "manifests", [], "")
    sampler = make_sampler(audio_dataset(made.train, None), max_batch_duration_s=1400.0, seed=1)
    assert next(iter(sampler))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    assert cpu < 15, wall


@pytest.fixture
def packed(tmp_path):
    """A corpus in shards that is large enough for eight processes."""
    pack(
        tones(tmp_path / "audio", 150),
        tmp_path / "packed",
        shard_bytes=10**6,
        show_progress=False,
        num_workers=1,
    )
    return tmp_path / "packed"


def test_eight_processes_over_shards_then_four_then_two_with_kills(packed, tmp_path):
    options = {"data_layout": "shards", "valid_share": 0.2, "shard_window": 2}
    options |= {"batches_per_step": 8, "max_batch_duration_s": 6, "ckpt_interval_steps": 1}
    straight, changing = tmp_path / "straight", tmp_path / "changing"
    run = Pretraining(packed, tmp_path / "printed")
    codes, printed = train_together(run, straight, tmp_path, 1, **options)
    assert codes == [0], printed
    for world_size, kill_after in ((8, 2), (8, 3), (4, 5), (4, 7)):
        codes, printed = train_together(
            run, changing, tmp_path, world_size, kill_after=kill_after, **options
        )
        assert -signal.SIGKILL in codes, printed
    codes, printed = train_together(run, changing, tmp_path, 2, **options)
    assert codes == [0, 0], printed
    for first, second in zip(recipes.history(straight), recipes.history(changing), strict=True):
        assert first["steps"] == second["steps"]
        for part in ("train", "valid"):
            assert first[part]["loss"] == pytest.approx(second[part]["loss"], rel=1e-5)


CONFIGURATION = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"


def agent(port, log, words):
    """torchrun of one node of a run that may have one or two."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2", "--nproc-per-node=1"]
    launch += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=run"]
    launch += [f"--rdzv-conf={CONFIGURATION}", "--max-restarts=5", "--monitor-interval=0.5"]
    # With the store shared, torch 2.11 tells its address to the nodes of the first round alone.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    options = {"cwd": ROOT, "stderr": subprocess.STDOUT, "env": environment}
    with open(log, "w") as stream:
        return subprocess.Popen([*launch, *map(str, words)], stdout=stream, **options)


def wait_until(condition, *programs):
    deadline = time.time() + 600
    while not condition():
        assert time.time() < deadline
        assert all(program.poll() is None for program in programs)
        time.sleep(0.2)


def test_torchrun_with_nodes_that_come_and_go(packed, tmp_path):
    """Alone, with a second node, and alone again, each time from where it was."""
    options = {"data_layout": "shards", "data_folder": packed, "valid_share": 0.2}
    options |= {"train_splits": None, "batches_per_step": 2, "max_batch_duration_s": 6}
    options |= {"number_of_epochs": 8, "ckpt_interval_steps": 5}
    straight, changing = tmp_path / "straight", tmp_path / "changing"
    result = recipes.run(
        [*recipes.PYTHON, *recipes.arguments("bestrq", output_folder=straight, **options)],
        forked=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]

    words = recipes.arguments("bestrq", output_folder=changing, **options)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [tmp_path / "first.log", tmp_path / "second.log"]

    def times(text):
        return logs[0].read_text().count(text)

    first = agent(port, logs[0], words)
    wait_until(lambda: times("Saved checkpoint"), first)
    second = agent(port, logs[1], words)
    wait_until(lambda: times("Resumed after") == 1 and times("Saved checkpoint") > 3, first)
    second.send_signal(signal.SIGTERM)
    second.wait(timeout=300)
    assert first.wait(timeout=600) == 0, logs[0].read_text()[-3000:]
    text = logs[0].read_text()
    assert "Ended by SIGTERM after" in text
    assert times("Resumed after") == 2, text[-3000:]
    for before, after in zip(recipes.history(straight), recipes.history(changing), strict=True):
        assert before["steps"] == after["steps"]
        for part in ("train", "valid"):
            assert before[part]["loss"] == pytest.approx(after[part]["loss"], rel=1e-4)
