#!/usr/bin/env python3
"""Manifests of millions of utterances: time and memory from the index to the first batch.

    python benchmarks/scale.py
    python benchmarks/scale.py --files
    python benchmarks/scale.py --rows 200000 --check

A synthetic index is written (Parquet, of audio packed in shards or, with --files, of audio files),
and read in a fresh process: from opening it to the first batch of an epoch; the plan of an epoch
for 1, 64 and 1,024 ranks; and the memory that a forked worker of a loader copies of its parent,
while it reads the rows of 200 batches. The memory is the peak of the whole process, imports
included. Times are those of the processor, of one thread, and beside them those of the clock.
With --check, more than 30 s, 2.5 GB, 15 s or 50 MB ends with exit code 1.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import RESULTS, describe_run, write_json
from options import whole_number

LIMITS = {
    "first_batch_s": 30,
    "first_batch_mb": 2500,
    "set_epoch_s": 15,
    "copied_by_worker_mb": 50,
}
RANKS = (1, 64, 1024)
NUM_BATCHES = 200
SAMPLE_RATE = 16000


def write_synthetic_index(path, num_rows, files):
    """An index of utterances of 2 to 20 s."""
    from speechbrain_pom.data.index import import_pyarrow, write_index

    pa = import_pyarrow()
    random = np.random.default_rng(0)
    num_samples = random.integers(2 * SAMPLE_RATE, 20 * SAMPLE_RATE, num_rows)
    numbers = range(num_rows)
    ids = pa.array((f"{n // 4000:04d}-{n // 50:06d}-{n:08d}" for n in numbers), pa.large_string())
    columns = {"ID": ids, "duration": num_samples / SAMPLE_RATE, "num_samples": num_samples}
    if files:
        path_of = "$data_root/{:04d}/{:06d}/{:08d}.flac".format
        paths = (path_of(n // 4000, n // 50, n) for n in numbers)
        columns["wav"] = pa.array(paths, pa.large_string())
    else:
        num_bytes = num_samples.astype(np.int64)  # FLAC: about one per sample
        columns["shard"] = (np.cumsum(num_bytes) // 10**9).astype(np.int32)
        columns["offset"] = np.cumsum(num_bytes) % 10**9
        columns["bytes"] = num_bytes
    columns["spk_id"] = pa.array((f"{n // 4000:04d}" for n in numbers), pa.large_string())
    columns["wrd"] = pa.array([""], pa.large_string()).take(pa.array(np.zeros(num_rows, np.int8)))
    return write_index(path, columns)


def peak_mb():
    """Peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def copied_mb(work):
    """Memory that a forked process copies of its parent, or allocates, during `work`; in MB."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = private_mb()
        work()
        os.write(writing, f"{private_mb() - before:.1f}".encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    return float(os.read(reading, 64))


def private_mb():
    """Memory that no other process shares, in MB."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private")) * 1024 / 1e6


def clock():
    """Seconds of processor time, and of time: others may be at work on the machine."""
    return time.process_time(), time.perf_counter()


def since(start):
    """Both times since a call of `clock`."""
    cpu, wall = (round(now - then, 1) for now, then in zip(clock(), start, strict=True))
    return {"cpu": cpu, "wall": wall}


def measure(index):
    """What a run does with an index before its first step; prints JSON."""
    from speechbrain_pom.training.dataset import audio_dataset, make_sampler

    imports_mb, start = peak_mb(), clock()
    dataset = audio_dataset(index, "/data", min_duration_s=2.0, max_duration_s=19.5)
    options = {"max_batch_duration_s": 1400.0, "num_buckets": 150, "seed": 1}
    sampler = make_sampler(dataset, **options)
    sampler.set_epoch(0)
    batches = iter(sampler)
    first = next(batches)
    figures = {
        "rows": len(dataset),
        "utterances_of_first_batch": len(first),
        "imports_mb": round(imports_mb),
        "first_batch_s": since(start),
        "first_batch_mb": round(peak_mb()),
    }

    def read_rows():
        for _, batch in zip(range(NUM_BATCHES), batches, strict=False):
            for index in batch:
                dataset.data.row(index), dataset.data_ids[index]

    figures["copied_by_worker_mb"] = copied_mb(read_rows)
    figures["set_epoch_s"] = {}
    for world_size in RANKS:
        sampler = batches = None  # one at a time
        sampler = make_sampler(dataset, **options, world_size=world_size)
        start = clock()
        sampler.set_epoch(1)
        figures["set_epoch_s"][world_size] = since(start)
    figures["peak_mb"] = round(peak_mb())
    print(json.dumps(figures))


def exceeded(figures):
    """The names of the figures that are above their limits."""
    slowest = max(times["cpu"] for times in figures["set_epoch_s"].values())
    values = {**figures, "first_batch_s": figures["first_batch_s"]["cpu"], "set_epoch_s": slowest}
    return [name for name, limit in LIMITS.items() if values[name] > limit]


def main():
    """Write the index, measure in a fresh process, and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--rows", type=whole_number, default=20_000_000, help="%(default)s")
    parser.add_argument("--files", action="store_true", help="audio files, with paths, no shards")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.json", help="scale.json, scale_files.json"
    )
    parser.add_argument("--check", action="store_true", help="exit code 1 above the limits")
    parser.add_argument("--measure", metavar="INDEX", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        index, start = Path(folder) / "index.parquet", time.perf_counter()
        writing = os.fork()  # its memory is not that of the measurement
        if writing == 0:
            write_synthetic_index(index, args.rows, args.files)
            os._exit(0)
        os.waitpid(writing, 0)
        written_s = round(time.perf_counter() - start, 1)
        size_mb = round(index.stat().st_size / 1e6)
        command = [sys.executable, __file__, "--measure", str(index)]
        figures = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    kind = "files" if args.files else "shards"
    figures = {"kind": kind, "index_mb": size_mb, "index_written_s": written_s, **figures}
    print(json.dumps(figures, indent=1))
    out = args.out or RESULTS / ("scale_files.json" if args.files else "scale.json")
    write_json(out, {**describe_run("cpu", 1), "limits": LIMITS, "figures": figures})
    failed = exceeded(figures)
    if failed and args.check:
        print(f"above the limits: {', '.join(failed)}")
    return 1 if failed and args.check else 0


if __name__ == "__main__":
    sys.exit(main())
