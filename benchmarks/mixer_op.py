#!/usr/bin/env python3
"""PoM's operator alone against its three bare matrix products, and both against a roofline.

    python benchmarks/mixer_op.py
    python benchmarks/mixer_op.py --device cuda --dtype bf16 --batch 6

At the paper's base size (d = 488, k = 2, D = 2), for each backend that runs here, after a
comparison with the definition. The products are those of the operator's shapes with F.linear, out
of place; in training their backward passes too. A ratio is the median over pairs, operator and
products in turns. Memory is the peak of a fresh process over what it had before, less what the
operator returns: its output, in training the gradients too. The roofline is the longer of two
times: of the products' operations at the measured rate of a large matrix product, and of the bytes
that the operator must read and write once at the measured rate of a copy in main memory.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from encoders import DTYPES, TOLERANCE, relative_error
from measuring import (
    MIB,
    RESULTS,
    OutOfMemory,
    Worker,
    WorkerError,
    describe_run,
    peak_memory_mib,
    serve,
    timed,
    write_json,
)
from options import choices_of, parse_lengths, whole_number

from speechbrain_pom.ops import available_backends, choose_backend, polynomial_mix

D_MODEL, DEGREE, EXPAND = 488, 2, 2
EXPANDED = DEGREE * EXPAND * D_MODEL
NUM_WEIGHTS = 3 * EXPANDED * D_MODEL
LOW_PRECISION_TOLERANCE = 2e-2  # bf16 keeps 8 bits of each input and of the output


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    lengths = "63,250,500,1000,2000,4000,8000"
    add("--frames", type=parse_lengths, default=lengths, help="of an utterance: %(default)s")
    add("--batch", type=whole_number, default=1, help="%(default)s")
    add("--mode", type=choices_of("infer", "train"), default="infer,train", help="%(default)s")
    add("--dtype", choices=DTYPES, default="fp32", help="of all tensors: %(default)s")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="%(default)s")
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--repeats", type=whole_number, default=7, help="pairs: %(default)s")
    add("--out", type=Path, metavar="FILE.json", help="default: benchmarks/results/mixer_op_*")
    args = parser.parse_args(words)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch sees no GPU here; choose cpu")
    if args.out is None:
        args.out = RESULTS / f"mixer_op_{args.device}.json"
    return args


def make_tensors(task):
    """Frames, weights, what stands for S * H in the last product, and gradients of the outputs."""
    torch.manual_seed(0)
    how = {"device": task["device"], "dtype": DTYPES[task["dtype"]]}
    shape = task["batch"], task["frames"]

    def weight(rows, columns):
        return torch.randn(rows, columns, **how) * columns**-0.5, torch.randn(rows, **how)

    tensors = {
        "frames": torch.randn(*shape, D_MODEL, **how),
        "poly": weight(EXPANDED, D_MODEL),
        "gate": weight(EXPANDED, D_MODEL),
        "out": weight(D_MODEL, EXPANDED),
    }
    leaves = [tensors["frames"], *tensors["poly"], *tensors["gate"], *tensors["out"]]
    for leaf in leaves:
        leaf.requires_grad_(task["mode"] == "train")
    return tensors, leaves, torch.randn(*shape, D_MODEL, **how)


def make_op(task):
    """The operator as a function without arguments: the output, in training with gradients."""
    tensors, leaves, grad = make_tensors(task)

    def forward():
        frames, (poly, gate) = tensors["frames"], ([tensors["poly"]], [tensors["gate"]])
        how = {"degree": DEGREE, "backend": task["backend"]}
        return polynomial_mix(frames, poly, gate, *tensors["out"], **how)

    return _with_mode(task["mode"], lambda: ([forward()], leaves, [grad]))


def make_products(task):
    """The three products that the operator cannot do without."""
    tensors, leaves, grad = make_tensors(task)
    frames = tensors["frames"]
    wide = torch.randn_like(frames[..., :1].expand(*frames.shape[:2], EXPANDED))
    hidden = wide.clone().requires_grad_(task["mode"] == "train")

    def forward():
        outputs = [F.linear(frames, *tensors[name]) for name in ("poly", "gate")]
        outputs.append(F.linear(hidden, *tensors["out"]))
        return outputs, [*leaves, hidden], [wide, wide, grad]

    return _with_mode(task["mode"], forward)


def _with_mode(mode, forward):
    def run():
        with torch.inference_mode(mode == "infer"):
            outputs, leaves, grads = forward()
        if mode == "infer":
            return outputs
        return [*outputs, *torch.autograd.grad(outputs, leaves, grads)]

    return run


def check(task):
    """Exit code 1 when a backend is not the definition, gradients included."""
    for backend in task["backends"]:
        found, expected = (
            make_op({**task, "mode": "train", "frames": 700, "backend": name})()
            for name in (backend, "reference")
        )
        error = max(
            relative_error(a.float(), b.float()) for a, b in zip(found, expected, strict=True)
        )
        limit = TOLERANCE if task["dtype"] == "fp32" else LOW_PRECISION_TOLERANCE
        if not error < limit:
            raise SystemExit(
                f"error: {backend}: output or gradients differ from the definition by "
                f"{error:.1e}; nothing was timed"
            )


def measure_limits(task):
    """GFLOP/s of a large product and GB/s (read and written) of a copy: the best of several."""
    how = {"device": task["device"], "dtype": DTYPES[task["dtype"]]}
    on_gpu = task["device"] == "cuda"
    side, size = (8192, 2**30) if on_gpu else (2048, 2**26)
    left, right = torch.randn(side, side, **how), torch.randn(side, side, **how)
    product = torch.empty_like(left)
    source = torch.ones(size // product.element_size(), **how)
    target = torch.empty_like(source)
    calls = {
        "gflops": (2 * side**3, lambda: torch.mm(left, right, out=product)),
        "gbytes_per_s": (2 * size, lambda: target.copy_(source)),
    }
    return {
        name: amount / 1e9 / min(timed(call, task["device"]) for _ in range(5))
        for name, (amount, call) in calls.items()
    }


def roofline(task, limits):
    """Times of the products and of the bytes at the limits, and the longer of the two, ms."""
    rows = task["batch"] * task["frames"]
    passes = 3 if task["mode"] == "train" else 1  # backward: one product per factor
    flops = passes * 2 * rows * NUM_WEIGHTS
    # Read frames and weights, write the output; backward: read them again and the output's
    # gradient, write the gradients of frames and weights.
    frames, weights = (2, 1) if task["mode"] == "infer" else (5, 3)
    values = frames * rows * D_MODEL + weights * NUM_WEIGHTS
    flops_ms = flops / limits["gflops"] / 1e6
    bytes_ms = values * DTYPES[task["dtype"]].itemsize / limits["gbytes_per_s"] / 1e6
    return {"flops_ms": flops_ms, "bytes_ms": bytes_ms, "roofline_ms": max(flops_ms, bytes_ms)}


def measure_point(task, repeats, limits):
    """A point in a fresh process: memory first, then pairs of times."""
    keys = ("frames", "mode", "backend")
    point = {key: task[key] for key in keys} | roofline(task, limits)
    try:
        with Worker("mixer_op.py", task) as worker:
            first = worker.ask()
            pairs = [worker.ask() for _ in range(repeats)]
    except (OutOfMemory, WorkerError) as error:
        return {**point, "time_ms": None, "skipped": str(error)}
    medians = {key: statistics.median(pair[key] for pair in pairs) for key in pairs[0]}
    return {
        **point,
        **first,
        **medians,
        "roofline_share": point["roofline_ms"] / medians["time_ms"],
    }


def prepare(task):
    """The worker of a task."""
    torch.set_num_threads(task["threads"])
    make_op({**task, "frames": 8})()  # libraries are in memory
    op, products = make_op(task), make_products(task)

    def passes():
        returned = []
        peak_mib = peak_memory_mib(lambda: returned.extend(op()), task["device"])
        output_mib = sum(t.numel() * t.element_size() for t in returned) / MIB
        returned.clear()
        yield {"extra_memory_mib": max(0.0, peak_mib - output_mib)}
        products()
        while True:
            op_ms, products_ms = (1e3 * timed(call, task["device"]) for call in (op, products))
            yield {
                "time_ms": op_ms,
                "products_ms": products_ms,
                "ratio": op_ms / products_ms,
            }

    return passes().__next__


def show(point):
    """One line per point."""
    where = f"{point['mode']:5} {point['frames']:5} frames  {point['backend']:9}"
    if "skipped" in point:
        print(f"{where} skipped: {point['skipped']}", flush=True)
        return
    print(
        f"{where} {point['time_ms']:8.2f} ms  products x {point['ratio']:.2f}  "
        f"+{point['extra_memory_mib']:.0f} MiB  roofline {point['roofline_share']:.0%}",
        flush=True,
    )


def main():
    """Check, measure, write."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    common = {name: getattr(args, name) for name in ("batch", "dtype", "device", "threads")}
    where = args.device, DTYPES[args.dtype]
    backends = available_backends(*where)
    if args.device == "cpu":  # there Triton would be its interpreter, which is for tests
        backends = [name for name in backends if name != "triton"]
    check({**common, "backends": [name for name in backends if name != "reference"]})
    limits, points = measure_limits(common), []
    print(", ".join(f"{name} {value:.1f}" for name, value in limits.items()), flush=True)
    for mode in args.mode:
        for frames in args.frames:
            for backend in backends:
                task = {**common, "mode": mode, "frames": frames, "backend": backend}
                points.append(measure_point(task, args.repeats, limits))
                show(points[-1])
    record = {"what": "mixer_op", **describe_run(args.device, args.threads)}
    record |= {"d_model": D_MODEL, "degree": DEGREE, "expand": EXPAND}
    record |= {key: common[key] for key in ("batch", "dtype", "device")}
    record |= {"repeats": args.repeats, "auto_backend": choose_backend("auto", *where)}
    write_json(args.out, {**record, "limits": limits, "points": points})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(prepare)
    else:
        main()
