#!/usr/bin/env python3
"""Streams: time of a chunk and size of the state, beside SpeechBrain's own streaming of attention.

    python benchmarks/streaming.py --check
    python benchmarks/streaming.py --report

The paper's Conformer encoders on the frames of the front end, one stream, fp32, through
SpeechBrain's `encode_streaming`. PoM and SummaryMixing hold running sums (left context: all of the
past, or limited); RelPosMHAXL and RoPEMHA hold the left frames and mix them again, and get a full
left context before they are timed. Each model is checked before: its stream must be its masked
pass (exit code 1). Times are medians of chunks in turns; states are counted in bytes.

Bounds, with --check (exit code 1): a chunk of PoM after an hour takes as long as at the start, with
a limited left context as long as with all of the past, and as long as one pass over its frames
(each at most 1.1 times); PoM's state is under 0.6 MB.

Besides: 1 to 64 streams of PoM in a pool, from samples on. With `--recogniser RUN --audio FOLDER`
(or files) the latency of words too: how long after the end of a word, by alignment, it is among the
stable words of an event, if nothing takes any time. `--report` writes the tables of
docs/streaming.md from the record.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from encoders import FRAMES_PER_SECOND, INPUT_SIZE, build, choose_d_model, relative_error
from measuring import RESULTS, describe_run, write_json
from options import choices_of, whole_number
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.attention.contexts import ChunkContext
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.inference.streaming import Final
from speechbrain_pom.ops.common.running_sums import RingSums, RunningSums
from speechbrain_pom.utils.files import replace_section

DOCUMENT = Path(__file__).parents[1] / "docs" / "streaming.md"
BEGIN, END = (
    "<!-- STREAMING: written by benchmarks/streaming.py --report -->",
    "<!-- /STREAMING -->",
)
MIXERS = ("PoM", "SummaryMixing", "RelPosMHAXL", "RoPEMHA")
SUMS = ("PoM", "SummaryMixing")
LEFT_S = (None, 10, 40)
TOLERANCE = 1e-4
LIMIT = 1.1
PACKET = 320  # samples: 20 ms
STATE_LIMIT_BYTES = 600_000
HOUR = 3600 * FRAMES_PER_SECOND


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--size", choices=("base", "small"), default="base", help="of the encoders: %(default)s")
    add("--mixers", type=choices_of(*MIXERS), default=list(MIXERS), help="with commas")
    sizes = {"type": lambda text: [whole_number(part) for part in text.split(",")]}
    add("--chunks", **sizes, default=[8, 16, 32], help="frames of a chunk: 8,16,32")
    add("--streams", **sizes, default=[1, 4, 16, 64], help="streams of a pool: 1,4,16,64")
    add("--repeats", type=whole_number, default=15, help="timed chunks: %(default)s")
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--out", type=Path, default=RESULTS / "streaming_cpu.json", metavar="FILE.json")
    add("--recogniser", metavar="RUN", help="a fine-tuned model, for the latency of words")
    add("--audio", nargs="+", type=Path, default=[], help="what it hears: files, folders of FLAC")
    add("--document", type=Path, default=DOCUMENT, metavar="FILE.md", help="of --report")
    add("--check", action="store_true", help="exit code 1 if a bound is exceeded")
    add("--report", action="store_true", help="measure nothing, write the tables of the record")
    args = parser.parse_args(words)
    if (args.recogniser is None) != (not args.audio):
        parser.error("--recogniser and --audio belong together: give both or none")
    return args


def left_chunks(left_s, chunk):
    """Seconds as whole chunks, at least as long."""
    return None if left_s is None else -(-left_s * FRAMES_PER_SECOND // chunk)


def find_error(model, chunk, left):
    """The relative error of a stream against the masked pass."""
    frames, config = torch.randn(1, 3 * chunk + 1, INPUT_SIZE), DynChunkTrainConfig(chunk, left)
    context = model.make_streaming_context(config)
    parts = [model.encode_streaming(part, context) for part in frames.split(chunk, dim=1)]
    expected = model.encode(frames, dynchunktrain_config=config)
    return relative_error(torch.cat(parts, dim=1), expected)


class Stream:
    """One stream whose left context is full, as after `num_frames` frames."""

    def __init__(self, model, chunk, left, num_frames):
        self.model = model
        self.frames = torch.randn(1, chunk, INPUT_SIZE)
        self.context = model.make_streaming_context(DynChunkTrainConfig(chunk, left))
        self.step()
        inner = self.context.encoder_context
        if isinstance(inner, ChunkContext):
            inner.states = [aged(state, num_frames) for state in inner.states]
            inner.num_frames = num_frames // chunk * chunk
        else:
            for layer in inner.layers:
                layer.mha_left_context = torch.randn(1, left * chunk, self.frames_width(layer))

    @staticmethod
    def frames_width(layer):
        """The width of a layer's frames."""
        return layer.mha_left_context.shape[2]

    def step(self):
        """The next chunk."""
        return self.model.encode_streaming(self.frames, self.context)

    def num_bytes(self):
        """All that is held between two chunks."""
        inner = self.context.encoder_context
        if isinstance(inner, ChunkContext):
            parts = [part for state in inner.states for part in (state.past, *state.mixed)]
        else:
            layers = inner.layers
            parts = [layer.mha_left_context for layer in layers]
            parts += [layer.dcconv_left_context for layer in layers]
        return sum(part.numel() * part.element_size() for part in parts)


def aged(state, num_frames):
    """A layer's state as after many frames: the same means, of sums that are as large."""
    mixed = state.mixed
    if not isinstance(mixed, (RunningSums, RingSums)):
        return state
    last = mixed.sums[:, -1:] / mixed.counts[:, -1:], mixed.counts[:, -1:]
    if isinstance(mixed, RunningSums):
        counts = torch.full_like(mixed.counts, num_frames)
        return state._replace(mixed=RunningSums(last[0] * num_frames, counts))
    shape = mixed.sums.shape
    return state._replace(
        mixed=RingSums((last[0] * last[1]).expand(shape).clone(), last[1].expand_as(mixed.counts))
    )


def timed_in_turns(functions, repeats):
    """Seconds of each function, called in turns after a call that is not timed."""
    times = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                times[name].append(time.perf_counter() - start)
    return times


def percentile(values, share):
    """The value below which a share of them is."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def measure_chunk(args, chunk):
    """Points of all mixers for a chunk size, and the bounds of PoM."""
    streams, passes = {}, {}
    for spec in args.mixers:
        torch.manual_seed(0)
        model = build(spec, args.size, choose_d_model(spec, args.size)).eval()
        frames = torch.randn(1, chunk, INPUT_SIZE)
        for left_s in LEFT_S if spec in SUMS else LEFT_S[1:]:
            left = left_chunks(left_s, chunk)
            error = find_error(model, chunk, None if left is None else min(left, 2))
            if error > TOLERANCE:
                raise SystemExit(f"error: {spec}, {chunk} frames: {error:.1e} from the masked pass")
            streams[spec, left_s, "start"] = Stream(model, chunk, left, chunk)
            if spec in SUMS and left_s is None:
                streams[spec, left_s, "hour"] = Stream(model, chunk, left, HOUR)
        if spec in SUMS:
            passes[spec] = lambda model=model, frames=frames: model.encode(frames)
    calls = {name: stream.step for name, stream in streams.items()} | passes
    times = timed_in_turns(calls, args.repeats)
    points = []
    for (spec, left_s, when), stream in streams.items():
        seconds = times[spec, left_s, when]
        median = statistics.median(seconds)
        points.append(
            {
                "mixer": spec,
                "chunk_frames": chunk,
                "left_s": left_s,
                "after": when,
                "ms_per_chunk": 1e3 * median,
                "ms_p95": 1e3 * percentile(seconds, 0.95),
                "real_time_factor": median * FRAMES_PER_SECOND / chunk,
                "state_bytes": stream.num_bytes(),
            }
        )
        show(points[-1])
    return points, bounds_of(times, streams, chunk) if "PoM" in passes else []


def show(point):
    """One line per point."""
    left = "all" if point["left_s"] is None else f"{point['left_s']} s"
    print(
        f"{point['mixer']:14} C {point['chunk_frames']:2} left {left:5} {point['after']:6}"
        f"{point['ms_per_chunk']:8.1f} ms  p95 {point['ms_p95']:8.1f} ms  "
        f"RTF {point['real_time_factor']:.3f}  state {point['state_bytes'] / 1e6:.3f} MB",
        flush=True,
    )


def bounds_of(times, streams, chunk):
    """The bounds of PoM for a chunk size, by ratios of calls in the same turn."""

    def ratio(above, below):
        return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))

    start = ("PoM", None, "start")
    found = {
        "a chunk after an hour / at the start": ratio(("PoM", None, "hour"), start),
        "left context of 10 s / all of the past": ratio(("PoM", 10, "start"), start),
        "left context of 40 s / all of the past": ratio(("PoM", 40, "start"), start),
        "a chunk / one pass over its frames": ratio(start, "PoM"),
    }
    bounds = [
        {"what": f"C {chunk}: {what}", "value": value, "limit": LIMIT}
        for what, value in found.items()
    ]
    size = streams[start].num_bytes()
    bounds.append({"what": f"C {chunk}: state", "value": size, "limit": STATE_LIMIT_BYTES})
    for bound in bounds:
        bound["met"] = bound["value"] <= bound["limit"]
        met = "met" if bound["met"] else "EXCEEDED"
        print(f"{bound['what']}: {bound['value']:.4g} (at most {bound['limit']:g}) {met}")
    return bounds


def speech_encoder(size):
    """PoM with features and a front end, for streams from samples on."""
    torch.manual_seed(0)
    normalize = InputNormalization(norm_type="global")
    normalize(5.0 + 3.0 * torch.randn(2, 50, 80), torch.ones(2), epoch=1)
    front_end = ConvolutionFrontEnd(
        [8, 10, 80], 2, 1, [64, 32], kernel_sizes=[3, 3], strides=[2, 2], residuals=[False, False]
    )
    transformer = build("PoM", size, choose_d_model("PoM", size))
    return SpeechEncoder(Fbank(n_mels=80), normalize, front_end, transformer).eval()


def measure_pool(args, chunk=16):
    """Seconds of a step of a pool, by its number of streams."""
    encoder = speech_encoder(args.size)
    chunk_s, points = chunk / FRAMES_PER_SECOND, []
    samples = chunk * encoder.samples_per_frame
    for count in args.streams:
        pool = encoder.stream_pool(chunk_s)
        keys = [pool.open() for _ in range(count)]
        seconds = []
        for turn in range(3 + max(3, args.repeats // 3)):
            for key in keys:
                pool.accept(key, 0.1 * torch.randn(samples + 40 * (turn == 0)))
            start = time.perf_counter()
            found = pool.step()
            seconds.append(time.perf_counter() - start)
            if len(found) != count:
                raise SystemExit(f"error: {len(found)} of {count} streams got frames")
        median = statistics.median(seconds[3:])
        points.append(
            {
                "streams": count,
                "chunk_frames": chunk,
                "ms_per_step": 1e3 * median,
                "real_time_streams": count * chunk_s / median,
            }
        )
        print(
            f"pool of {count:3}: {1e3 * median:8.1f} ms, {points[-1]['real_time_streams']:.1f} "
            "streams in real time",
            flush=True,
        )
    return points


def word_latencies(recogniser, path, chunk_s):
    """Seconds from the end of each word to the audio with which it became stable."""
    stream, finals, heard = recogniser.stream(chunk_s), [], []
    with AudioReader(path) as reader:
        for start in range(0, reader.num_samples, PACKET):
            packet = reader.read(start, min(start + PACKET, reader.num_samples))
            note(stream.accept(packet), stream, finals, heard)
    note(stream.finish(), stream, finals, heard)
    ends_s = [word.end_s for final in finals for word in final.words]
    return [told_s - end_s for told_s, end_s in zip(heard, ends_s, strict=True)]


def note(events, stream, finals, heard):
    """When each word, counted from the start of the stream, was stable for the first time."""
    for event in events:
        is_final = isinstance(event, Final)
        finals += [event] if is_final else []
        words = sum(len(final.words) for final in finals)
        words += 0 if is_final else len(event.stable.split())
        heard += [stream.duration_s] * (words - len(heard))


def measure_latency(args):
    """The latency of words, by the size of chunks."""
    if args.recogniser is None:
        return []
    recogniser, points = load_recogniser(args.recogniser, "cpu"), []
    paths = [path for given in args.audio for path in (sorted(given.rglob("*.flac")) or [given])]
    frame_s = recogniser.encoder.samples_per_frame / recogniser.encoder.sample_rate
    for chunk in args.chunks:
        found = [
            latency_s
            for path in paths
            for latency_s in word_latencies(recogniser, path, chunk * frame_s)
        ]
        if not found:
            raise SystemExit("error: the recogniser heard no word: give another --audio")
        p50, p95 = (percentile(found, share) for share in (0.5, 0.95))
        points.append({"chunk_s": chunk * frame_s, "words": len(found), "p50_s": p50, "p95_s": p95})
        print(f"words, chunks of {chunk * frame_s:.2f} s: p50 {p50:.2f} s, p95 {p95:.2f} s")
    return points


def report(args):
    """Write the tables of a record between the markers of the document."""
    record = json.loads(args.out.read_text(encoding="utf-8"))
    lines = ["| C | mixer | left context | ms per chunk | p95 | real-time factor | state (MB) |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for point in record["points"]:
        left = "all" if point["left_s"] is None else f"{point['left_s']} s"
        left += ", after an hour" if point["after"] == "hour" else ""
        times = f"{point['ms_per_chunk']:.1f} | {point['ms_p95']:.1f}"
        ends = f"{point['real_time_factor']:.3f} | {point['state_bytes'] / 1e6:.3f}"
        lines.append(f"| {point['chunk_frames']} | {point['mixer']} | {left} | {times} | {ends} |")
    lines += ["", "| streams in a pool | ms per step | streams in real time |"]
    lines += ["| --- | --- | --- |"]
    lines += [
        f"| {point['streams']} | {point['ms_per_step']:.1f} | {point['real_time_streams']:.1f} |"
        for point in record["pool"]
    ]
    if record["word_latency"]:
        lines += [
            "",
            "| chunks of | words | stable after: median | p95 |",
            "| --- | --- | --- | --- |",
        ]
        lines += [
            f"| {p['chunk_s']:.2f} s | {p['words']} | {p['p50_s']:.2f} s | {p['p95_s']:.2f} s |"
            for p in record["word_latency"]
        ]
    machine, versions = record["machine"], record["versions"]
    lines += [
        "",
        f"`{record['command']}` at {record['commit']} on {record['date']}: {machine['cpu']}, "
        f"threads: {machine['threads']}; torch {versions['torch']}, speechbrain "
        f"{versions['speechbrain']}.",
    ]
    replace_section(args.document, BEGIN, END, "\n".join(lines))


@torch.no_grad()
def main():
    """Check, measure, write; or write the tables."""
    args = parse_arguments()
    if args.report:
        report(args)
        return 0
    torch.set_num_threads(args.threads)
    points, bounds = [], []
    for chunk in args.chunks:
        more, limits = measure_chunk(args, chunk)
        points, bounds = points + more, bounds + limits
    record = {"what": "streaming", **describe_run("cpu", args.threads), "size": args.size}
    record |= {"repeats": args.repeats, "points": points, "bounds": bounds}
    record |= {"pool": measure_pool(args), "word_latency": measure_latency(args)}
    write_json(args.out, record)
    return int(args.check and not all(bound["met"] for bound in bounds))


if __name__ == "__main__":
    sys.exit(main())
