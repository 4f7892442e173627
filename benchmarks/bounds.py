#!/usr/bin/env python3
"""PoM against its bounds: what it costs beyond the matrix products that it cannot do without.

    python benchmarks/bounds.py --check

At the paper's base size on a CPU, in fp32, batch 1. Times are medians of ratios, both sides in
turns; memory is the growth of the resident memory of a fresh process.

- inference: the operator at 2000 frames against its three bare products; the extra memory, besides
  the output, at 8000 frames against that at 2000;
- training: forward and backward pass of the 12-layer Conformer on 40 s against the same model with
  the mixers left out plus the mixers' bare products; its peak memory against that of the model
  without mixers plus two kept tensors (T, E) per layer.

With --check the exit code is 1 if a bound is exceeded.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from encoders import FLOOR, FRAMES_PER_SECOND, SIZES
from measuring import MIB, RESULTS, Worker, describe_run, write_json
from mixer_op import EXPANDED, check
from options import whole_number

LENGTH_S = 40
LIMIT = 1.10
# Blocks are a fixed number of frames; the rest is what the allocator rounds up.
MEMORY_LIMIT = 1.5


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--size", choices=("base", "small"), default="base", help="of the encoder: %(default)s")
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--repeats", type=whole_number, default=7, help="pairs: %(default)s")
    add("--check", action="store_true", help="exit code 1 if a bound is exceeded")
    add("--out", type=Path, metavar="FILE.json", default=RESULTS / "bounds_cpu.json")
    return parser.parse_args(words)


def op_task(common, mode, frames):
    """The task of a worker of mixer_op.py."""
    return {**common, "mode": mode, "frames": frames, "backend": "fused"}


def measure_inference(common, repeats):
    """The operator alone: ratio of times, and extra memory at two lengths."""
    with Worker("mixer_op.py", op_task(common, "infer", 2000)) as worker:
        short_mib = worker.ask()["extra_memory_mib"]
        ratios = [worker.ask()["ratio"] for _ in range(repeats)]
    with Worker("mixer_op.py", op_task(common, "infer", 8000)) as worker:
        long_mib = worker.ask()["extra_memory_mib"]
    return [
        bound("inference: time at 2000 frames / bare products", statistics.median(ratios), LIMIT),
        bound(
            "inference: extra memory at 8000 frames / at 2000 frames",
            long_mib / short_mib,
            MEMORY_LIMIT,
            extra_memory_mib={"2000": short_mib, "8000": long_mib},
        ),
    ]


def measure_training(common, size, repeats):
    """The whole encoder: ratios of time and memory."""
    encoder = {**common, "mode": "train", "length_s": LENGTH_S, "size": size}
    tasks = {
        spec: {**encoder, "spec": spec, "d_model": SIZES[size].widths[spec]}
        for spec in ("PoM", FLOOR)
    }
    memory_mib, time_s = {}, {"PoM": [], FLOOR: [], "products": []}
    num_frames = LENGTH_S * FRAMES_PER_SECOND
    products = Worker("mixer_op.py", op_task(common, "train", num_frames))
    workers = {spec: Worker("encoders.py", task) for spec, task in tasks.items()}
    with products, workers["PoM"], workers[FLOOR]:
        products.ask()
        for spec, worker in workers.items():
            memory_mib[spec] = worker.ask()["memory_mib"]
        for _ in range(repeats):
            for spec, worker in workers.items():
                time_s[spec].append(worker.ask()["time_s"])
            time_s["products"].append(1e-3 * products.ask()["products_ms"])
    num_layers = SIZES[size].num_layers
    pairs = zip(*time_s.values(), strict=True)
    ratio = statistics.median(pom / (rest + num_layers * one) for pom, rest, one in pairs)
    kept_mib = num_layers * 2 * num_frames * EXPANDED * 4 / MIB
    share = memory_mib["PoM"] / (memory_mib[FLOOR] + kept_mib)
    medians = {name: statistics.median(values) for name, values in time_s.items()}
    return [
        bound(
            f"training, {LENGTH_S} s: time / (mixers left out + bare products)",
            ratio,
            LIMIT,
            time_s=medians,
        ),
        bound(
            f"training, {LENGTH_S} s: peak memory / (mixers left out + two kept tensors)",
            share,
            LIMIT,
            memory_mib=memory_mib | {"kept": kept_mib},
        ),
    ]


def bound(what, ratio, limit, **details):
    """One bound, printed."""
    met = ratio <= limit
    print(f"{what}: {ratio:.3f} (at most {limit:.2f}) {'met' if met else 'EXCEEDED'}", flush=True)
    return {"what": what, "ratio": ratio, "limit": limit, "met": met, **details}


def main():
    """Check, measure, write."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    common = {"batch": 1, "dtype": "fp32", "device": "cpu", "threads": args.threads}
    check({**common, "backends": ["fused"]})
    bounds = measure_inference(common, args.repeats)
    bounds += measure_training(common, args.size, args.repeats)
    record = {"what": "bounds", **describe_run("cpu", args.threads), "size": args.size}
    write_json(args.out, {**record, "repeats": args.repeats, "bounds": bounds})
    return int(args.check and not all(item["met"] for item in bounds))


if __name__ == "__main__":
    sys.exit(main())
