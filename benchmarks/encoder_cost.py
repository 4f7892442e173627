#!/usr/bin/env python3
"""Time and peak memory of Conformer encoders with different mixers, at equal parameters.

    python benchmarks/encoder_cost.py --duration_s 80 --mixers PoM RelPosMHAXL

Inference of the paper's base encoder (12 layers, d_ffn 2048, kernel 31; d_model of each mixer from
its table), batch 1, fp32, on the CPU. Every measurement is a process of its own, repeats are
interleaved, and the figures are medians. Memory is the growth of the peak resident memory over the
start of the measurement. Before anything is timed, PoM's fast path is compared with its definition.
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch

import speechbrain_pom
from speechbrain_pom.attention import parse_spec

# d_model of the base models with about 95 M parameters (PoM for speech, table of settings)
BASE_D_MODEL = {
    "PoM": 488,
    "RelPosMHAXL": 576,
    "RoPEMHA": 576,
    "regularMHA": 576,
    "hypermixing": 672,
}
FRAMES_PER_SECOND = 25  # 10 ms hop, stride 4
RESULTS = Path(__file__).parent / "results"


def build(spec, num_layers):
    """The encoder of one mixer, in eval mode."""
    from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

    torch.manual_seed(0)
    name = parse_spec(spec, num_layers)[-1].name
    return TransformerASR(
        tgt_vocab=1,
        input_size=640,
        d_model=BASE_D_MODEL[name],
        nhead=8,
        num_encoder_layers=num_layers,
        num_decoder_layers=0,
        d_ffn=2048,
        activation=torch.nn.GELU,
        conformer_activation=torch.nn.GELU,
        encoder_module="conformer",
        attention_type=spec,
        normalize_before=True,
        causal=False,
    ).eval()


def peak_rss_mib():
    """Peak resident memory of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(spec, duration_s, num_layers):
    """One measurement, in this process: seconds and MiB of one forward pass."""
    encoder = build(spec, num_layers)
    num_frames = round(duration_s * FRAMES_PER_SECOND)
    frames = torch.randn(1, num_frames, 640)
    with torch.inference_mode():
        encoder.encode(frames[:, :50])  # libraries and weights are in memory from here on
        before_mib = peak_rss_mib()
        start = time.perf_counter()
        output = encoder.encode(frames)
        time_s = time.perf_counter() - start
    if not torch.isfinite(output).all():
        raise RuntimeError(f"{spec}: the output is not finite")
    return {
        "time_s": time_s,
        "peak_memory_mib": peak_rss_mib() - before_mib,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "d_model": BASE_D_MODEL[parse_spec(spec, num_layers)[-1].name],
    }


def check_correctness():
    """PoM's blocks against the definition, on a padded batch longer than a block."""
    torch.manual_seed(0)
    mixer = speechbrain_pom.PolynomialMixer(64)
    frames = torch.randn(2, 700, 64)
    padding = torch.arange(700) >= torch.tensor([[700], [431]])
    poly = [(proj.weight, proj.bias) for proj in mixer.poly_proj]
    gate = [(proj.weight, proj.bias) for proj in mixer.gate_proj]
    with torch.inference_mode():
        slow, fast = (
            speechbrain_pom.ops.polynomial_mix(
                frames,
                poly,
                gate,
                mixer.out_proj.weight,
                mixer.out_proj.bias,
                degree=2,
                key_padding_mask=padding,
                backend=backend,
            )
            for backend in ("reference", "fused")
        )
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


def run_isolated(spec, args):
    """`measure` in a fresh process."""
    command = [sys.executable, __file__, "--measure", spec]
    command += ["--duration_s", str(args.duration_s), "--num_layers", str(args.num_layers)]
    command += ["--threads", str(args.threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{spec} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def git_commit():
    """The commit of this tree, with a + if it has changes."""
    folder = Path(__file__).parent
    run = lambda *words: subprocess.run(  # noqa: E731
        ["git", *words], cwd=folder, capture_output=True, text=True, check=False
    ).stdout.strip()
    return run("rev-parse", "--short", "HEAD") + ("+" if run("status", "--porcelain") else "")


def cpu_name():
    """What the system calls its processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--mixers", nargs="+", default=["PoM", "RelPosMHAXL"], metavar="SPEC")
    parser.add_argument("--duration_s", type=float, default=80.0, help="seconds of audio")
    parser.add_argument("--num_layers", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "encoder_cost_cpu.json")
    parser.add_argument("--measure", metavar="SPEC", help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.measure:
        print(json.dumps(measure(args.measure, args.duration_s, args.num_layers)))
        return
    check_correctness()
    runs = {spec: [] for spec in args.mixers}
    for _ in range(args.repeats):
        for spec, results in runs.items():
            results.append(run_isolated(spec, args))
    rows = []
    for spec, results in runs.items():
        medians = {
            key: statistics.median(result[key] for result in results)
            for key in ("time_s", "peak_memory_mib")
        }
        fixed = {key: results[0][key] for key in ("d_model", "parameters")}
        rows.append({"mixer": spec, **fixed, **medians})
        print(
            f"{spec:14} d_model {fixed['d_model']}  {fixed['parameters'] / 1e6:5.1f} M  "
            f"{medians['time_s']:6.2f} s  {medians['peak_memory_mib']:6.0f} MiB"
        )
    record = {
        "what": "encoder inference, batch 1, fp32",
        "duration_s": args.duration_s,
        "num_layers": args.num_layers,
        "repeats": args.repeats,
        "machine": {"cpu": cpu_name(), "threads": args.threads},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "date": date.today().isoformat(),
        "commit": git_commit(),
        "command": "python " + " ".join(sys.argv),
        "results": rows,
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"written: {args.out}")


if __name__ == "__main__":
    main()
