#!/usr/bin/env python3
"""Time and peak memory of encoders with different mixers, at equal parameters, against length.

    python benchmarks/mixer_scaling.py --lengths 10..80 --batch 6 --mode infer,train
    python benchmarks/mixer_scaling.py --size small --lengths 1,2 --mixers PoM "PoM(degree=3)" none

The paper's Conformer encoders on random frames in place of the front end's output; "none" is the
encoder of PoM without its mixers, the floor. Every mixer is checked before anything is timed (exit
code 1). Each point is a fresh process: its first pass gives the memory; the following ones, in
turns with those of the other mixers, give the median time. Points without a figure say why in the
JSON.
"""

import argparse
import statistics
from pathlib import Path

import torch
from encoders import DTYPES, MODES, SIZES, choose_d_model, count_parameters, default_mixers
from figures import draw_scaling
from measuring import (
    RESULTS,
    OutOfMemory,
    Worker,
    WorkerError,
    describe_run,
    write_json,
)
from options import choices_of, parse_lengths, whole_number
from tqdm import tqdm

from speechbrain_pom.utils.errors import exit_on_user_error


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--lengths", type=parse_lengths, default="10..80", help="seconds of audio: %(default)s")
    add("--batch", type=whole_number, default=1, help="utterances in a batch: %(default)s")
    modes = ", ".join(f"{name} ({what})" for name, what in MODES.items())
    add("--mode", type=choices_of(*MODES), default="infer,train", help=f"%(default)s, of: {modes}")
    add("--mixers", nargs="+", metavar="SPEC", help="attention specs: all types, and none")
    add("--size", choices=SIZES, default="base", help="%(default)s")
    add("--dtype", choices=DTYPES, default="fp32", help="by autocast: %(default)s")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s")
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--repeats", type=whole_number, default=3, help="timed passes of a point: %(default)s")
    add("--out", type=Path, metavar="FILE.json", help="default: benchmarks/results/mixer_scaling_*")
    args = parser.parse_args(words)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; choose cpu")
    if args.out is None:
        args.out = RESULTS / f"mixer_scaling_{args.device}_{'-'.join(args.mode)}.json"
    elif args.out.suffix != ".json":
        parser.error(f"--out {str(args.out)!r}: give a name that ends in .json")
    args.mixers = list(dict.fromkeys(args.mixers or default_mixers()))
    return args


def check(mixers, common):
    """End the script with code 1 when a mixer does not compute what it should."""
    for mixer in tqdm(mixers, desc="checks"):
        task = {**common, "spec": mixer["mixer"], "d_model": mixer["d_model"], "mode": "check"}
        with Worker("encoders.py", task) as worker:
            try:
                problem = worker.ask()["problem"]
            except (WorkerError, OutOfMemory) as error:
                problem = str(error)
        if problem is not None:
            raise SystemExit(f"error: {mixer['mixer']}: {problem}; nothing was timed")


def measure_group(mixers, task, repeats):
    """The points of all mixers at one length in one mode, timed in turns."""
    points, workers = {}, {}
    shown = {"mode": task["mode"], "length_s": task["length_s"]}
    for mixer in mixers:
        spec = mixer["mixer"]
        points[spec] = {"mixer": spec, **shown, "time_s": None, "memory_mib": None}
        workers[spec] = Worker("encoders.py", {**task, "spec": spec, "d_model": mixer["d_model"]})
        _ask(workers, spec, points[spec])
    for _ in range(repeats):
        for spec in list(workers):
            _ask(workers, spec, points[spec])
    for worker in workers.values():
        worker.close()
    for point in points.values():
        if "skipped" not in point:
            point["time_s"] = statistics.median(point["times_s"])
    return list(points.values())


def _ask(workers, spec, point):
    """One more pass for a point; without an answer it has a reason, and no worker any more."""
    try:
        reply = workers[spec].ask()
    except (OutOfMemory, WorkerError) as error:
        workers.pop(spec).close()
        point["skipped"] = str(error)
        return
    if "memory_mib" in reply:
        point["memory_mib"] = reply["memory_mib"]
    else:
        point.setdefault("times_s", []).append(reply["time_s"])


def measure(mixers, common, args):
    """All points. A mixer that ran out of memory is not asked for more."""
    points = []
    for mode in args.mode:
        given_up = {}
        for length_s in args.lengths:
            left = [mixer for mixer in mixers if mixer["mixer"] not in given_up]
            task = {**common, "mode": mode, "length_s": length_s}
            group = measure_group(left, task, args.repeats)
            group += [
                {"mixer": spec, "mode": mode, "length_s": length_s, "time_s": None}
                | {"memory_mib": None, "skipped": reason}
                for spec, reason in given_up.items()
            ]
            for point in group:
                show(point)
                if point.get("skipped", "").startswith("out of memory"):
                    where = f"out of memory at {length_s} s and above"
                    given_up.setdefault(point["mixer"], where)
            points += group
    return points


def show(point):
    """One line per point."""
    where = f"{point['mode']:7} {point['length_s']:5} s  {point['mixer']:24}"
    if "skipped" in point:
        print(f"{where} skipped: {point['skipped']}", flush=True)
    else:
        print(f"{where} {point['time_s']:8.3f} s  {point['memory_mib']:8.0f} MiB", flush=True)


@exit_on_user_error()
def main():
    """Check, measure, write, draw."""
    args = parse_arguments()
    mixers = [{"mixer": s, "d_model": choose_d_model(s, args.size)} for s in args.mixers]
    for mixer in mixers:
        mixer["parameters"] = count_parameters(mixer["mixer"], args.size, mixer["d_model"])
    common = {name: getattr(args, name) for name in ("size", "batch", "dtype", "device", "threads")}
    check(mixers, common)
    record = {
        "what": "mixer_scaling",
        **describe_run(args.device, args.threads),
        **{key: common[key] for key in ("size", "batch", "dtype", "device")},
        "repeats": args.repeats,
        "mixers": mixers,
        "points": measure(mixers, common, args),
    }
    write_json(args.out, record)
    for path in draw_scaling(record, args.out):
        print(f"written: {path}")


if __name__ == "__main__":
    main()
