#!/usr/bin/env python3
"""Bandwidth of PoM's Triton kernels on a GPU, and time of the fused projections.

    python benchmarks/gpu_kernels.py --out benchmarks/results/gpu_kernels.json

Each kernel is first compared with the definition in float64, in fp32, bf16 and fp16. Then come
6 utterances of 2000 frames at the widths of the paper's base and large models (k = 2, D = 2): bytes
that a kernel must move over its time, as a share of what a device-to-device copy of as many bytes
reaches in the same run (target: 80 %); and the fused projections beside F.linear with a kernel, and
beside the bare product. Figures are medians of interleaved repeats, timed with CUDA events.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import describe_run, write_json

from speechbrain_pom.ops import available_backends
from speechbrain_pom.ops.polynomial import launchers as kernels
from speechbrain_pom.ops.polynomial.features import Polynomial
from speechbrain_pom.ops.polynomial.reference import polynomial_features

BATCH, NUM_FRAMES, DEGREE, EXPAND = 6, 2000, 2, 2
WIDTHS = {"base": 488, "large": 688}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Of the largest value: sums in fp32 (tf32 is off), the rest rounded once to its dtype.
TOLERANCES = {"fp32": 1e-5, "bf16": 2**-7, "fp16": 2**-10}
TARGET_SHARE = 0.8
SUMS = (None, Polynomial(DEGREE, "gelu_product"))  # chunk_size, features


def make_tensors(d_model, dtype, batch=BATCH, num_frames=NUM_FRAMES):
    """Random inputs of all kernels."""
    expanded = DEGREE * EXPAND * d_model

    def random(*shape, scale=1.0, dtype=dtype):
        return (torch.randn(*shape, device="cuda") * scale).to(dtype)

    return {
        "frames": random(batch, num_frames, d_model),
        "weight": random(expanded, d_model, scale=d_model**-0.5),
        "bias": random(expanded),
        "projected": random(batch, num_frames, expanded),
        "grad": random(batch, num_frames, expanded),
        "state": random(batch, 1, expanded, dtype=torch.float32),
        "padding": torch.arange(num_frames, device="cuda").expand(batch, -1) >= num_frames - 3,
    }


def make_calls(t):
    """The kernels as functions without arguments: those bound by memory, and the products."""
    linear = t["weight"], t["bias"]
    projected, state, padding = t["projected"], t["state"], t["padding"]
    pointwise = {
        "sum_features": lambda: kernels.sum_features(projected, padding, *SUMS),
        "sum_features_backward": lambda: kernels.sum_features_backward(
            projected, padding, state, *SUMS
        ),
        "gate_state": lambda: kernels.gate_state(projected, state, None),
        "gate_state_backward": lambda: kernels.gate_state_backward(
            projected, state, t["grad"], None
        ),
    }
    products = {
        "project_and_sum_features": lambda: kernels.project_and_sum_features(
            t["frames"], *linear, padding, *SUMS
        ),
        "project_and_gate_state": lambda: kernels.project_and_gate_state(
            t["frames"], *linear, state, None
        ),
    }
    return pointwise, products


def expected_results(t):
    """What the calls must return, in float64 from the definition."""
    projected, state, grad, frames, weight, bias = (
        t[name].double() for name in ("projected", "state", "grad", "frames", "weight", "bias")
    )
    padding = t["padding"].unsqueeze(-1)
    identity = torch.eye(projected.shape[-1], dtype=torch.float64, device="cuda")

    def sums_of(x, w, b):
        features = polynomial_features(x, w, b, DEGREE)
        return features.masked_fill(padding, 0.0).sum(1, keepdim=True)

    projected.requires_grad_()
    state.requires_grad_()
    sums = sums_of(projected, identity, None)
    (grad_projected,) = torch.autograd.grad(sums, projected, state.detach())
    gated = torch.sigmoid(projected) * state
    return {
        "sum_features": [sums],
        "sum_features_backward": [grad_projected],
        "gate_state": [gated],
        "gate_state_backward": [*torch.autograd.grad(gated, (projected, state), grad), gated],
        "project_and_sum_features": [sums_of(frames, weight, bias)],
        "project_and_gate_state": [torch.sigmoid(F.linear(frames, weight, bias)) * state],
    }


def check_correctness():
    """Every kernel against the definition; raises where one is off."""
    for name, dtype in DTYPES.items():
        t = make_tensors(104, dtype, batch=3, num_frames=333)
        expected = expected_results(t)
        pointwise, products = make_calls(t)
        for kernel, call in {**pointwise, **products}.items():
            found = call()
            found = [found] if isinstance(found, torch.Tensor) else found
            for result, exact in zip(found, expected[kernel], strict=True):
                exact = exact.detach()
                error = ((result.double() - exact).abs().max() / exact.abs().max()).item()
                if not error <= TOLERANCES[name]:
                    raise SystemExit(f"{kernel} in {name} is off by {error:.2g}: nothing is timed")


def measure(calls, repeats):
    """Medians in milliseconds, calls interleaved.

    Before each call the GPU reads 1 GiB: no input is left in its cache, none of what it must still
    write is in there, and the calls are enqueued while it is busy, so that no launch is timed.
    """
    for call in calls.values():  # compile and warm up
        for _ in range(3):
            call()
    gibibyte = torch.zeros(2**28, device="cuda")
    events = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            gibibyte.sum()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            stop.record()
            events[name].append((start, stop))
    torch.cuda.synchronize()
    return {
        name: statistics.median(start.elapsed_time(stop) for start, stop in pairs)
        for name, pairs in events.items()
    }


def copy_of(num_bytes):
    """A copy that reads and writes so many bytes together."""
    source = torch.randint(0, 100, (num_bytes // 2,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure_bandwidth(model, dtype_name, repeats):
    """Rows of the table of kernels 1 to 4."""
    t = make_tensors(WIDTHS[model], DTYPES[dtype_name])
    pointwise, _ = make_calls(t)
    size = t["projected"].nbytes
    # Each (B, T, E) tensor read or written once; states and masks are thousandths of that.
    passes = {
        "sum_features": 1,
        "sum_features_backward": 2,
        "gate_state": 2,
        "gate_state_backward": 4,
    }
    copies = {f"copy {count}": copy_of(count * size) for count in set(passes.values())}
    times_ms = measure({**pointwise, **copies}, repeats)
    rows = []
    for kernel, count in passes.items():
        share = times_ms[f"copy {count}"] / times_ms[kernel]
        rows.append(
            {
                "kernel": kernel,
                "model": model,
                "dtype": dtype_name,
                "bytes": count * size,
                "time_ms": times_ms[kernel],
                "gb_per_s": count * size / times_ms[kernel] / 1e6,
                "copy_gb_per_s": count * size / times_ms[f"copy {count}"] / 1e6,
                "share_of_copy": share,
                "target_share": TARGET_SHARE,
                "meets_target": share >= TARGET_SHARE,
            }
        )
    return rows


def measure_products(model, dtype_name, repeats):
    """Rows of the table of kernels 5 and 6."""
    t = make_tensors(WIDTHS[model], DTYPES[dtype_name])
    _, fused = make_calls(t)
    linear = lambda: F.linear(t["frames"], t["weight"], t["bias"])  # noqa: E731
    two_steps = {
        "project_and_sum_features": lambda: kernels.sum_features(linear(), t["padding"], *SUMS),
        "project_and_gate_state": lambda: kernels.gate_state(linear(), t["state"], None),
    }
    calls = {f"fused {name}": call for name, call in fused.items()}
    calls |= {f"two {name}": call for name, call in two_steps.items()}
    times_ms = measure({**calls, "product": linear}, repeats)
    flops = 2 * t["frames"].numel() * t["weight"].shape[0]
    return [
        {
            "kernel": name,
            "model": model,
            "dtype": dtype_name,
            "time_ms": times_ms[f"fused {name}"],
            "linear_and_kernel_ms": times_ms[f"two {name}"],
            "product_alone_ms": times_ms["product"],
            "speedup": times_ms[f"two {name}"] / times_ms[f"fused {name}"],
            "tflop_per_s": flops / times_ms[f"fused {name}"] / 1e9,
        }
        for name in fused
    ]


def driver_version():
    """NVIDIA's driver; empty if it does not say."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.split("\n")[0]


def show(bandwidth, products):
    """Both tables."""
    for row in bandwidth:
        print(
            f"{row['kernel']:24} {row['model']:5} {row['dtype']}  {row['time_ms']:7.3f} ms  "
            f"{row['gb_per_s']:6.0f} GB/s  {row['share_of_copy']:4.0%} of a copy "
            f"(target {TARGET_SHARE:.0%})"
        )
    for row in products:
        print(
            f"{row['kernel']:24} {row['model']:5} {row['dtype']}  {row['time_ms']:7.3f} ms  "
            f"F.linear + kernel {row['linear_and_kernel_ms']:7.3f} ms  "
            f"product alone {row['product_alone_ms']:7.3f} ms"
        )


def main():
    """Check, measure, print two tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--repeats", type=int, default=50)
    args = parser.parse_args()
    if not torch.cuda.is_available() or "triton" not in available_backends("cuda"):
        print(
            "error: no CUDA GPU with Triton here: run this on a machine that has one",
            file=sys.stderr,
        )
        raise SystemExit(2)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.fp32_precision = "ieee"  # SpeechBrain allows tf32
    check_correctness()
    bandwidth, products = [], []
    for model in WIDTHS:
        for dtype_name in DTYPES:
            bandwidth += measure_bandwidth(model, dtype_name, args.repeats)
            products += measure_products(model, dtype_name, args.repeats)
    show(bandwidth, products)
    if args.out:
        record = {
            "what": "gpu_kernels",
            "batch": BATCH,
            "num_frames": NUM_FRAMES,
            "degree": DEGREE,
            "expand": EXPAND,
            "d_model": WIDTHS,
            "fp32_products": "ieee",
            "repeats": args.repeats,
            **describe_run("cuda", torch.get_num_threads()),
            "driver": driver_version(),
            "bandwidth": bandwidth,
            "products": products,
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
