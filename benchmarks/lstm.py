#!/usr/bin/env python3
"""The bidirectional LSTM of the downstream heads on a CPU, beside PyTorch's packed sequences.

    python benchmarks/lstm.py

Both have the same weights, in fp32, and are compared first: states and all gradients. Times are
medians of forward and backward passes in turns, over a batch of which no utterance but the first is
as long as the batch.
"""

import argparse
import statistics
from pathlib import Path

import torch
from measuring import RESULTS, describe_run, timed, write_json
from options import whole_number
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from speechbrain_pom.downstream.heads.frames import BiLSTM

# Hidden size, layers, batch, frames: heads of the downstream protocol, and MP3S's on 10 s.
SIZES = ((64, 1, 8, 400), (128, 1, 8, 250), (768, 2, 4, 250))
INPUT_SIZE = 96


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--repeats", type=whole_number, default=5, help="pairs: %(default)s")
    add("--max_frames", type=whole_number, help="shorten the batches to this")
    add("--out", type=Path, metavar="FILE.json", default=RESULTS / "lstm_cpu.json")
    return parser.parse_args(words)


def packed(head, frames, num_frames):
    """What the head does on a GPU."""
    batch = pack_padded_sequence(frames, num_frames, batch_first=True, enforce_sorted=False)
    states, _ = head.lstm.rnn(batch)
    return pad_packed_sequence(states, batch_first=True, total_length=frames.shape[1])[0]


def check(head, frames, num_frames):
    """End the benchmark if states or gradients of both ways differ."""
    results = []
    for function in (head, lambda *batch: packed(head, *batch)):
        states = function(frames, num_frames)
        gradients = torch.autograd.grad(states.square().sum(), [frames, *head.parameters()])
        results.append((states, *gradients))
    for found, expected in zip(*results, strict=True):
        error = (found - expected).abs().max() / expected.abs().max()
        if not error < 1e-5:
            raise SystemExit(f"error: states or gradients differ by {error:.1e}: nothing was timed")


def measure(hidden_size, num_layers, batch, num_frames, repeats):
    """One size: medians of both ways, and of their ratio."""
    torch.manual_seed(0)
    head = BiLSTM(INPUT_SIZE, hidden_size, num_layers)
    frames = torch.randn(batch, num_frames, INPUT_SIZE, requires_grad=True)
    lengths = torch.linspace(num_frames, num_frames / 2, batch).ceil().long()
    check(head, frames, lengths)
    ways = {
        "ours": lambda: head(frames, lengths).sum().backward(),
        "packed": lambda: packed(head, frames, lengths).sum().backward(),
    }
    time_s = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            time_s[name].append(timed(way, "cpu"))
    pairs = zip(time_s["packed"], time_s["ours"], strict=True)
    point = {
        "hidden_size": hidden_size,
        "layers": num_layers,
        "batch": batch,
        "frames": num_frames,
        "time_ms": {name: 1e3 * statistics.median(values) for name, values in time_s.items()},
        "speed_up": statistics.median(slow / fast for slow, fast in pairs),
    }
    print(f"{point}", flush=True)
    return point


def main():
    """Check, measure, write."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    points = [
        measure(*size, min(frames, args.max_frames or frames), args.repeats)
        for *size, frames in SIZES
    ]
    record = {"what": "lstm", **describe_run("cpu", args.threads), "dtype": "fp32"}
    write_json(args.out, {**record, "repeats": args.repeats, "points": points})


if __name__ == "__main__":
    main()
