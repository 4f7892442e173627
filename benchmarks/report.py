#!/usr/bin/env python3
"""docs/benchmarks.md and the README's first table, written from the files in benchmarks/results.

    python benchmarks/report.py
    python benchmarks/report.py --check

With --check nothing is written, and the exit code is 1 when a document is not that of the files.
"""

import argparse
import json
import re
from pathlib import Path

import yaml
from encoders import FLOOR, MODES, SIZES
from measuring import FOLDER, MIB, RESULTS

from speechbrain_pom.ops.polynomial.backends import FORMER_NAMES
from speechbrain_pom.utils.errors import UserError, exit_on_user_error
from speechbrain_pom.utils.files import replace_section

DOCUMENT = FOLDER.parent / "docs/benchmarks.md"
README = FOLDER.parent / "README.md"
TABLE = FOLDER.parent / "experiments/table.yaml"
BEGIN = "<!-- PERFORMANCE: written by benchmarks/report.py -->"
END = "<!-- /PERFORMANCE -->"
HEADLINE_BEGIN = "<!-- HEADLINE: written by benchmarks/report.py -->"
HEADLINE_END = "<!-- /HEADLINE -->"
HEADLINE_RECORD = "mixer_scaling_cpu_infer"
# Rows of the README's table: the experiment with the published error rates, and the mixer.
HEADLINE = {
    "base-relposmha": "RelPosMHAXL",
    "base-regularmha": "regularMHA",
    "base-summarymixing": "SummaryMixing",
    "base-pom": "PoM",
}
# What belongs into the section, and the commands that measure it. `make bench` runs those of CPUs.
SCALING = {
    "CPU": {
        "mixer_scaling_cpu_infer": "--mode infer --lengths 10,20,40,80",
        "mixer_scaling_cpu_train": "--mode train --lengths 10,20,40",
    },
    "GPU": {
        "mixer_scaling_cuda_infer-forward-train": (
            "--device cuda --dtype fp16 --batch 6 --mode infer,forward,train"
        ),
    },
}
OPS = {"mixer_op_cpu": "", "mixer_op_cuda": "--device cuda --dtype bf16 --batch 6"}
BOUNDS, BOUNDS_OPTIONS = "bounds_cpu", "--check"
KERNELS, KERNELS_OPTIONS = "gpu_kernels", "--out benchmarks/results/gpu_kernels.json"
COSTS = {
    "pretraining_cost_cpu": "--fraction 0.05 --layers 2 --batch_s 20 --repeats 3",
    "pretraining_cost_cuda": "--device cuda --dtype bf16 --batch_s 360",
}
LSTM, LSTM_OPTIONS = "lstm_cpu", "--threads 1"
LONG_AUDIO, LONG_AUDIO_OPTIONS = "long_audio_cpu", "--keep_memory --check"
# arXiv 2603.00683, read off its figure: batch 6 of 80 s, fp16 autocast, forward pass with its graph
PUBLISHED = {
    "RelPosMHAXL": ("0.475", "34.8"),
    "RoPEMHA": ("0.20", "30.3"),
    "regularMHA": ("0.165", "26.3"),
    "SummaryMixing": ("0.147", "11.9"),
    "PoM": ("0.127", "11.7"),
}
INTRODUCTION = (
    "This page is written by `python benchmarks/report.py` from the files in `benchmarks/results`; "
    "`make bench` measures the CPU's part again.\n"
    "Times are medians of passes in turns; memory is the growth of a fresh process to its peak "
    "(GPU: the peak of the allocator).\n"
    "Before anything is timed, PoM is compared with its definition, and registered mixers are "
    "tested with padding.\n"
    "What has not been measured is empty, above the command that measures it.\n"
)


def load(results, name):
    """The record of a benchmark; None if there is none yet."""
    path = results / f"{name}.json"
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path.name} is not JSON: measure it again ({error})") from None


def table(header, rows):
    """A table of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def command(script, options):
    """A block with the command of a benchmark."""
    return f"```bash\n{f'python benchmarks/{script}.py {options}'.strip()}\n```\n"


def source(name, record):
    """Where figures come from: file, date, commit, versions, machine, command."""
    if record is None:
        return "Not measured yet.\n"
    machine, versions = record["machine"], record["versions"]
    threads = f"threads: {machine['threads']}"
    memory = f"{machine['memory_mib'] / 1024:.0f} GiB"
    where = machine["gpu"] or f"{machine['cpu']}, {threads}, {memory}"
    commit = f"{record['commit']}{' with changes' if record['dirty'] else ''}"
    setting = [record[key] for key in ("size", "batch", "dtype") if key in record]
    if "batch" in record:
        setting[-2] = f"batch {record['batch']}"
    return (
        f"[{name}.json](../benchmarks/results/{name}.json): {', '.join([*setting, where])}; "
        f"torch {versions['torch']}, speechbrain {versions['speechbrain']}; {record['date']}, "
        f"commit {commit}; `{record['command']}`\n"
    )


def scaling_part(results, kind):
    """Time and memory of the encoders on a kind of device: a table, and the figures."""
    records = {name: load(results, name) for name in SCALING[kind]}
    columns, sources = [], []
    for name, options in SCALING[kind].items():
        for mode in re.search(r"--mode (\S+)", options)[1].split(","):
            columns.append(scaling_column(records[name], mode))
        if (results / f"{name}.svg").is_file():
            picture = f"../benchmarks/results/{name}.svg"
            sources.append(f"![Time and memory against length, {kind}]({picture})\n")
        sources += [source(name, records[name]), command("mixer_scaling", options)]
    measured = [mixer for record in records.values() if record for mixer in record["mixers"]]
    mixers = {name: {"d_model": width} for name, width in SIZES["base"].widths.items()}
    mixers = {mixer["mixer"]: mixer for mixer in measured} or mixers
    rows = []
    for name, mixer in mixers.items():
        size = f"{mixer['parameters'] / 1e6:.1f}" if "parameters" in mixer else ""
        shown = f"{name} (mixers left out)" if name == FLOOR else name
        cells = [cell for _, points in columns for cell in scaling_cells(points.get(name))]
        rows.append([shown, mixer["d_model"], size, *cells])
    header = ["mixer", "d_model", "parameters (M)"]
    for title, _ in columns:
        header += [f"{title}: time (s)", "memory (MiB)"]
    return "\n".join([f"{kind}:\n", table(header, rows), *sources])


def scaling_column(record, mode):
    """Title and points, by mixer, of the longest audio of a mode."""
    points = [point for point in record["points"] if point["mode"] == mode] if record else []
    if not points:
        return sentence(MODES[mode]), {}
    longest = max(point["length_s"] for point in points)
    found = {point["mixer"]: point for point in points if point["length_s"] == longest}
    return f"{sentence(MODES[mode])}, {longest} s", found


def scaling_cells(point):
    """Time and memory."""
    return figures(point, "time_s", ".2f", "memory_mib", ".0f")


def figures(point, *keys_and_formats):
    """Cells of a point; the reason, if it has no figures."""
    keys, formats = keys_and_formats[::2], keys_and_formats[1::2]
    if point is None:
        return [""] * len(keys)
    if "skipped" in point:
        return [point["skipped"].split(":")[0], *[""] * (len(keys) - 1)]
    return [format(point[key], spec) for key, spec in zip(keys, formats, strict=True)]


def sentence(text):
    """With a capital at its start."""
    return text[:1].upper() + text[1:]


def published_part(results):
    """The published figures, and those measured here in the same setting."""
    found = {}
    for path in sorted(results.glob("mixer_scaling_cuda*.json")):
        record = load(results, path.stem)
        if [record[key] for key in ("size", "batch", "dtype")] != ["base", 6, "fp16"]:
            continue
        for point in record["points"]:
            if (point["mode"], point["length_s"]) == ("forward", 80) and "skipped" not in point:
                gigabytes = point["memory_mib"] * MIB / 1e9
                found[point["mixer"]] = (f"{point['time_s']:.3f}", f"{gigabytes:.1f}")
    rows = [
        ["published", "time (s)", *(time_s for time_s, _ in PUBLISHED.values())],
        ["published", "memory (GB)", *(memory for _, memory in PUBLISHED.values())],
        ["here", "time (s)", *(found.get(name, ("", ""))[0] for name in PUBLISHED)],
        ["here", "memory (GB)", *(found.get(name, ("", ""))[1] for name in PUBLISHED)],
    ]
    return (
        "Published (arXiv 2603.00683, read off its figure): base models on a GPU, batch 6 of 80 s, "
        'fp16 autocast, forward pass with its graph kept. "Here" is the encoder alone, in the '
        "same setting:\n\n" + table(["", "", *PUBLISHED], rows)
    )


def op_part(results, name, options):
    """The operator against its products."""
    record = load(results, name)
    parts = []
    if record is not None:
        auto = [p for p in record["points"] if p["backend"] == record["auto_backend"]]
        modes = list(dict.fromkeys(point["mode"] for point in auto))
        keys = (
            "time_ms",
            ".2f",
            "ratio",
            ".2f",
            "extra_memory_mib",
            ".0f",
            "roofline_share",
            ".0%",
        )
        names = ("time (ms)", "over products", "extra memory (MiB)", "share of roofline")
        rows = []
        for frames in dict.fromkeys(point["frames"] for point in auto):
            of_mode = {point["mode"]: point for point in auto if point["frames"] == frames}
            cells = [cell for mode in modes for cell in figures(of_mode.get(mode), *keys)]
            rows.append([frames, *cells])
        header = ["frames", *(f"{mode}: {column}" for mode in modes for column in names)]
        limits = record["limits"]
        backend = FORMER_NAMES.get(record["auto_backend"], record["auto_backend"])
        parts.append(
            f"d_model {record['d_model']}, degree {record['degree']}, expand {record['expand']}, "
            f"backend {backend}; "
            f"large products reach {limits['gflops']:.0f} GFLOP/s, copies "
            f"{limits['gbytes_per_s']:.0f} GB/s:\n\n" + table(header, rows)
        )
    return "\n".join([*parts, source(name, record), command("mixer_op", options)])


def bounds_part(results):
    """What PoM costs beyond its products, and what it may cost."""
    record = load(results, BOUNDS)
    parts = ["What PoM may cost beyond its matrix products, base size, batch 1, fp32, CPU:\n"]
    if record is not None:
        rows = [
            [bound["what"], f"{bound['ratio']:.2f}", f"{bound['limit']:.2f}"]
            for bound in record["bounds"]
        ]
        parts.append(table(["", "ratio", "at most"], rows))
    return "\n".join([*parts, source(BOUNDS, record), command("bounds", BOUNDS_OPTIONS)])


def kernels_part(results):
    """The Triton kernels: correctness, bandwidth, and the products that run inside of them."""
    record = load(results, KERNELS)
    parts = ["Triton kernels on a GPU, pointwise ones against the bandwidth of a copy:\n"]
    if record is not None:
        rows = [
            [k["model"], k["dtype"], k["kernel"], f"{k['share_of_copy']:.0%}"]
            for k in record["bandwidth"]
        ]
        parts.append(table(["model", "dtype", "kernel", "share of a copy"], rows))
    return "\n".join([*parts, source(KERNELS, record), command("gpu_kernels", KERNELS_OPTIONS)])


def long_audio_part(results):
    """Hours in one pass, and the exponents."""
    record = load(results, LONG_AUDIO)
    parts = []
    if record is not None:
        models = record["models"]
        points = [{p["length_s"]: p for p in model["points"]} for model in models]
        rows = []
        for length_s in sorted(set().union(*points)):
            rows.append([length_s])
            for point in points:
                rows[-1] += scaling_cells(point.get(length_s))
        fitted = [model[key] for model in models for key in ("time_exponent", "memory_exponent")]
        first = f"exponent, from {record['fit_from_s']} s on"
        rows.append([first, *("" if value is None else f"{value:.3f}" for value in fitted)])
        header = ["length (s)"]
        for model in models:
            size = f"{model['spec']}, {model['parameters'] / 1e6:.1f} M parameters"
            header += [f"{size}: time (s)", "peak memory (MiB)"]
        parts.append(table(header, rows))
        if record["keep_memory"]:
            parts.append("Freed memory is kept in the process (`--keep_memory`).\n")
    return "\n".join(
        [*parts, source(LONG_AUDIO, record), command("long_audio", LONG_AUDIO_OPTIONS)]
    )


def cost_part(results, name, options):
    """Whole training steps of pretraining, and their ratios to attention."""
    record = load(results, name)
    parts = []
    if record is not None:
        rows = []
        for point in record["points"]:
            ratio = record["ratios"].get(point["objective"], {}).get(point["mixer"], {})
            cells = figures(point, "time_s", ".2f", "audio_s_per_s", ".1f", "memory_mib", ".0f")
            against = [f"{ratio[key]:+.0%}" if ratio else "" for key in ("time", "memory")]
            size = f"{point['parameters'] / 1e6:.1f}"
            rows.append([point["objective"], point["mixer"], size, *cells, *against])
        header = ["objective", "mixer", "parameters (M)", "step (s)", "s of audio per s"]
        against = f"against {record['baseline']}"
        header += ["memory (MiB)", f"time {against}", f"memory {against}"]
        parts.append(
            f"{record['batch_s']} s of audio in utterances of {record['length_s']} s, "
            f"{record['dtype']}, {record['layers']} layers, widths for {record['fraction']:.0%} of "
            "155 M (of 12 layers):\n"
        )
        parts.append(table(header, rows))
    return "\n".join([*parts, source(name, record), command("pretraining_cost", options)])


def lstm_part(results):
    """The LSTM of the downstream heads, beside packed sequences."""
    record = load(results, LSTM)
    parts = []
    if record is not None:
        sizes = ("layers", "hidden_size", "batch", "frames")
        rows = [
            [
                *(point[key] for key in sizes),
                *(f"{point['time_ms'][name]:.0f}" for name in ("ours", "packed")),
                f"{point['speed_up']:.1f}",
            ]
            for point in record["points"]
        ]
        header = ["layers", "hidden size", "utterances", "frames"]
        header += ["here (ms)", "packed (ms)", "times as fast"]
        parts.append(table(header, rows))
    return "\n".join([*parts, source(LSTM, record), command("lstm", LSTM_OPTIONS)])


def headline(results):
    """The README's table: published error rates, and what this machine measured."""
    experiments = yaml.safe_load(TABLE.read_text(encoding="utf-8"))["experiments"]
    record = load(results, HEADLINE_RECORD)
    title, points = scaling_column(record, "infer")
    rows = []
    for name, mixer in HEADLINE.items():
        published = experiments[name]["published"]
        rates = [
            f"{rate:.2f} ±{half:.2f}" for rate, half in (published["clean"], published["other"])
        ]
        rows.append([mixer, *rates, *scaling_cells(points.get(mixer))])
    audio = title.removeprefix("Inference, ")
    header = ["base model", "WER test-clean (%)", "WER test-other (%)"]
    header += [f"time for {audio} of audio (s)", "memory (MiB)"]
    note = "WER is published (arXiv 2603.00683, without a language model)"
    if record is None:
        return "\n".join([table(header, rows), f"{note}; time and memory are not measured yet."])
    machine = f"{record['machine']['threads']} threads of a CPU"
    return "\n".join(
        [table(header, rows), f"{note}; time and memory are measured, on {machine} in fp32."]
    )


def write_section(results):
    """The whole section, without its markers."""
    parts = [INTRODUCTION, "## Encoders at equal parameters\n"]
    parts += [scaling_part(results, kind) for kind in SCALING]
    parts += [published_part(results), "## The operator alone\n"]
    parts += [op_part(results, name, options) for name, options in OPS.items()]
    parts += [bounds_part(results), kernels_part(results)]
    parts += ["## Long audio\n", "Inference in one pass, batch 1, fp32, CPU:\n"]
    parts += [long_audio_part(results), "## A training step of pretraining\n"]
    parts.append(
        "Published (arXiv 2407.13377), SummaryMixing against self-attention in wav2vec 2.0: 18 % "
        "less time, 23 % less memory.\n"
    )
    parts += [cost_part(results, name, options) for name, options in COSTS.items()]
    parts += ["## The LSTM of downstream heads\n"]
    parts += ["Forward and backward pass of a bidirectional LSTM over a padded batch, CPU:\n"]
    parts += [lstm_part(results)]
    return "\n".join(parts).strip("\n")


@exit_on_user_error()
def main(words=None):
    """Write both documents, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 if it differs"
    )
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="with the markers")
    parser.add_argument("--readme", type=Path, default=README, help="with those of its table")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    args = parser.parse_args(words)
    sections = [
        (args.document, BEGIN, END, write_section(args.results)),
        (args.readme, HEADLINE_BEGIN, HEADLINE_END, headline(args.results)),
    ]
    for document, begin, end, section in sections:
        current = replace_section(document, begin, end, section, args.check)
        if args.check and not current:
            raise SystemExit(
                f"error: {document.name} differs from the results: run python benchmarks/report.py"
            )


if __name__ == "__main__":
    main()
