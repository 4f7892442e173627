#!/usr/bin/env python3
"""Hours of audio in one pass on the CPU: time, memory, and their growth with length.

    python benchmarks/long_audio.py
    python benchmarks/long_audio.py --small 10..60:10 --base none --check

Inference of PoM's Conformer encoders, one utterance of random frames in place of the front end's
output: a small model to 3 hours, the paper's base model to 1 hour. Each length is a fresh process:
its first pass gives the memory, the next ones the time (one, for more than 10 minutes of audio).
The model is checked before (exit code 1).
The exponents are those of the power law, fitted in logarithms to the lengths from --fit_from on:
1 is linear, 2 is quadratic. With --check, an exponent of 1.05 or more ends with exit code 1.
"""

import argparse
import statistics
from pathlib import Path

import torch
from encoders import SIZES, choose_d_model, count_parameters
from measuring import (
    RESULTS,
    OutOfMemory,
    Worker,
    WorkerError,
    describe_run,
    fit_exponent,
    write_json,
)
from options import parse_lengths, whole_number
from tqdm import tqdm

LIMIT = 1.05
REPEATED_TO_S = 600
# glibc gives tensors of more than 32 MiB back to the system, which clears their pages each time:
# system time per second of audio that grows with length. These keep them, for more memory.
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}


def lengths_or_none(text):
    """A type for argparse: lengths, or "none" for a model that is left out."""
    return [] if text == "none" else parse_lengths(text)


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    lengths = {"type": lengths_or_none, "help": "seconds of audio, or none: %(default)s"}
    add("--small", default="10,60,600,3600,10800", **lengths)
    add("--base", default="10,60,600,3600", **lengths)
    add("--mixer", default="PoM", metavar="SPEC", help="attention spec: %(default)s")
    add("--fit_from", type=whole_number, default=60, metavar="SECONDS", help="%(default)s")
    repeated = f"timed passes of each length to {REPEATED_TO_S} s: %(default)s"
    add("--repeats", type=whole_number, default=3, help=repeated)
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--out", type=Path, default=RESULTS / "long_audio_cpu.json", metavar="FILE.json")
    kept = "keep freed memory in the process (glibc): no fresh pages for each long tensor"
    add("--keep_memory", action="store_true", help=kept)
    add("--check", action="store_true", help=f"exit code 1 for an exponent from {LIMIT} on")
    args = parser.parse_args(words)
    for size in ("small", "base"):
        lengths = getattr(args, size)
        if lengths and len([length for length in lengths if length >= args.fit_from]) < 2:
            parser.error(
                f"--{size}: {lengths} has fewer than 2 lengths from {args.fit_from} s on, so no "
                "exponent: add longer ones or lower --fit_from"
            )
    return args


def measure_point(task, repeats, environment):
    """One length in a fresh process: the first pass gives the memory, the others the time."""
    point = {"length_s": task["length_s"], "time_s": None, "memory_mib": None}
    try:
        with Worker("encoders.py", task, environment) as worker:
            memory_mib = worker.ask()["memory_mib"]
            times_s = [worker.ask()["time_s"] for _ in range(repeats)]
    except (OutOfMemory, WorkerError) as error:
        return {**point, "skipped": str(error)}
    figures = {"time_s": statistics.median(times_s), "memory_mib": memory_mib}
    return {**point, **figures, "times_s": times_s}


def measure_size(size, lengths, args):
    """Points and exponents of a model size."""
    task = {"spec": args.mixer, "size": size, "d_model": choose_d_model(args.mixer, size)}
    model = {**task, "parameters": count_parameters(args.mixer, size, task["d_model"])}
    task |= {"batch": 1, "dtype": "fp32", "device": "cpu", "threads": args.threads}
    with Worker("encoders.py", {**task, "mode": "check"}) as worker:
        problem = worker.ask()["problem"]
    if problem is not None:
        raise SystemExit(f"error: {size}: {problem}; nothing was timed")
    points = []
    for length_s in tqdm(lengths, desc=size):
        repeats = args.repeats if length_s <= REPEATED_TO_S else 1
        asked = {**task, "mode": "infer", "length_s": length_s}
        points.append(measure_point(asked, repeats, KEEP_MEMORY if args.keep_memory else {}))
        show(size, points[-1])
    return {**model, "points": points, **exponents(points, args.fit_from)}


def show(size, point):
    """One line per point, above the progress bar."""
    where = f"{size} {point['length_s']:6} s "
    if "skipped" in point:
        tqdm.write(f"{where} skipped: {point['skipped']}")
    else:
        tqdm.write(f"{where} {point['time_s']:8.2f} s  {point['memory_mib']:6.0f} MiB")


def exponents(points, fit_from):
    """Exponents of time and memory; None where fewer than 2 points have figures."""
    fitted = [p for p in points if p["length_s"] >= fit_from and p["time_s"] is not None]
    if len(fitted) < 2:
        return {"time_exponent": None, "memory_exponent": None}
    lengths = [point["length_s"] for point in fitted]
    return {
        "time_exponent": fit_exponent(lengths, [point["time_s"] for point in fitted]),
        # A pass that fits into what the process already has grows by nothing: count 1 MiB.
        "memory_exponent": fit_exponent(lengths, [max(1, p["memory_mib"]) for p in fitted]),
    }


def failures(models):
    """What --check objects to, in words."""
    found = []
    for model in models:
        found += [
            f"{model['size']}: no figure for {p['length_s']} s"
            for p in model["points"]
            if "skipped" in p
        ]
        for key in ("time_exponent", "memory_exponent"):
            if model[key] is not None and model[key] >= LIMIT:
                found.append(f"{model['size']}: {key} is {model[key]:.3f}, not under {LIMIT}")
    return found


def main():
    """Measure, fit, write, check."""
    args = parse_arguments()
    sizes = {size: getattr(args, size) for size in SIZES if getattr(args, size, None)}
    models = [measure_size(size, lengths, args) for size, lengths in sizes.items()]
    for model in models:
        shown = (model["time_exponent"], model["memory_exponent"])
        texts = ["unknown" if value is None else f"{value:.3f}" for value in shown]
        print(f"{model['size']}: exponent of time {texts[0]}, of memory {texts[1]}")
    record = {
        "what": "long_audio",
        **describe_run("cpu", args.threads),
        "fit_from_s": args.fit_from,
        "keep_memory": args.keep_memory,
    }
    write_json(args.out, {**record, "models": models})
    found = failures(models) if args.check else []
    if found:
        raise SystemExit("error: " + "; ".join(found))


if __name__ == "__main__":
    main()
