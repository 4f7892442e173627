#!/usr/bin/env python3
"""Time and memory of whole training steps of wav2vec 2.0 and BEST-RQ with several mixers.

    python benchmarks/pretraining_cost.py --device cuda --dtype bf16 --batch_s 360
    python benchmarks/pretraining_cost.py --fraction 0.05 --layers 2 --batch_s 20 --repeats 3

A step is what the recipes do with a batch: features, masks, targets, forward and backward pass,
clipping, AdamW; data are random waveforms of --length_s each. The models are those of
hparams/wav2vec2.yaml and, with the same Conformer, hparams/pom.yaml, at the d_model of the
experiments' rows of 155 M; --fraction scales all widths by its square root, and the parameters are
recorded. Before, each model is checked: a finite loss, a finite gradient of every parameter, and an
utterance that is encoded alike alone and in a batch; else the exit code is 1 and nothing is timed.
Each model is a process of its own, and those of an objective are timed in turns.
"""

import argparse
import math
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path

import torch
import yaml
from encoders import TOLERANCE, autocast, relative_error
from hyperpyyaml import load_hyperpyyaml
from measuring import (
    FOLDER,
    RESULTS,
    OutOfMemory,
    Worker,
    describe_run,
    peak_memory_mib,
    release_memory,
    serve,
    timed,
    write_json,
)
from options import choices_of, whole_number
from tqdm import tqdm

from speechbrain_pom.objectives import Draw
from speechbrain_pom.utils.seeding import seed_step

ROOT = FOLDER.parent
SAMPLE_RATE, NHEAD = 16000, 8
OBJECTIVES = {"wav2vec2": "hparams/wav2vec2.yaml", "bestrq": "hparams/pom.yaml"}
MIXERS = {
    "SummaryMixing": "wav2vec2-summarymixing",
    "PoM": "wav2vec2-pom",
    "regularMHA": "wav2vec2-regularmha",
    "RelPosMHAXL": "wav2vec2-relposmha",
}
BASELINE = "regularMHA"
# arXiv 2407.13377, abstract: SummaryMixing against self-attention in pretraining
PUBLISHED = {"time": -0.18, "memory": -0.23}
MAX_GRAD_NORM = {"wav2vec2": 100.0, "bestrq": 10.0}


def sizes_of(mixer, fraction):
    """Attention spec and widths of a mixer: those of its experiment, scaled by sqrt(fraction)."""
    row = yaml.safe_load((ROOT / "experiments/table.yaml").read_text(encoding="utf-8"))
    overrides = row["experiments"][MIXERS[mixer]].get("overrides", {})
    with open(ROOT / OBJECTIVES["wav2vec2"], encoding="utf-8") as stream, torch.device("meta"):
        published = load_hyperpyyaml(stream, {**overrides, "output_folder": "unused"})
    scale = math.sqrt(fraction)
    widths = {
        key: max(1, round(scale * published[key] / (2 * NHEAD))) * 2 * NHEAD
        for key in ("d_model", "d_ffn")
    }
    return {"attention_type": published["attention_type"], **widths}


def build(task):
    """The objective of a task with its optimizer, and the keys of its hparams file."""
    overrides = {"output_folder": "unused", "num_encoder_layers": task["layers"], "nhead": NHEAD}
    overrides |= {key: task[key] for key in ("attention_type", "d_model", "d_ffn")}
    if task["objective"] == "wav2vec2":
        overrides["cnn_channels"] = 16 * max(1, round(32 * math.sqrt(task["fraction"])))
    with open(ROOT / OBJECTIVES[task["objective"]], encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    objective = hparams["objective"].to(task["device"])
    return objective, hparams["optimizer"](objective.parameters())


def batch_of(task, length_s, batch_s):
    """Random waveforms, their lengths and ids."""
    num = max(1, batch_s // length_s)
    wavs = torch.randn(num, length_s * SAMPLE_RATE, device=task["device"])
    num_samples = torch.full([num], length_s * SAMPLE_RATE, device=task["device"])
    return wavs, num_samples, [f"utterance{number}" for number in range(num)]


def make_step(objective, optimizer, task, batch):
    """A training step as a function without arguments; it returns the loss."""
    scaler = torch.amp.GradScaler(task["device"], enabled=task["dtype"] == "fp16")
    parameters = [one for one in objective.parameters() if one.requires_grad]
    steps = iter(range(1, 10**9))

    def step():
        number = next(steps)
        seed_step(1, 1, number, 0)
        with autocast(task["device"], task["dtype"]):
            loss = objective(*batch, Draw(1, 1, number, 0, True, number - 1)).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM[task["objective"]])
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def find_error(objective, task):
    """What is wrong with a model, in words; None if nothing is."""
    seed_step(1, 1, 1, 0)
    batch = batch_of(task, length_s=2, batch_s=4)
    with autocast(task["device"], task["dtype"]):
        loss = objective(*batch, Draw(1, 1, 1)).loss
    if not torch.isfinite(loss):
        return f"the loss is {loss.item()}"
    loss.backward()
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and parameter.grad is None:
            return f"{name} has no gradient"
        # Those of fp16 may overflow without a scaler, which makes training skip the step.
        checked = task["dtype"] != "fp16" and parameter.requires_grad
        if checked and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} is not finite"
    objective.zero_grad(set_to_none=True)
    encoder = objective.encoder.eval()
    wavs, num_samples = batch[0][:2], torch.tensor([32000, 21000], device=task["device"])
    with torch.no_grad():
        together, num_frames = encoder(wavs, num_samples)
        alone, _ = encoder(wavs[1:, : int(num_samples[1])])
    error = relative_error(together[1:, : int(num_frames[1])], alone)
    return f"an utterance alone and in a batch differ by {error:.1e}" if error > TOLERANCE else None


def prepare(task):
    """The worker of a task: the check, then memory, then times."""
    torch.manual_seed(0)
    torch.set_num_threads(task["threads"])
    objective, optimizer = build(task)
    if task["mode"] == "check":
        parameters = sum(one.numel() for one in objective.parameters())
        return lambda: {"problem": find_error(objective, task), "parameters": parameters}
    objective.train()
    make_step(objective, optimizer, task, batch_of(task, 2, 2))()  # the optimizer has its moments
    release_memory(task["device"])
    batch = batch_of(task, task["length_s"], task["batch_s"])
    step = make_step(objective, optimizer, task, batch)

    def measure():
        yield {"memory_mib": peak_memory_mib(step, task["device"])}
        while True:
            yield {"time_s": timed(step, task["device"])}

    return measure().__next__


def check_objective(objective, args):
    """The tasks of an objective and their points, still without times: all models are right."""
    points, tasks = [], []
    for mixer in args.mixers:
        task = {"objective": objective, **sizes_of(mixer, args.fraction), "layers": args.layers}
        task |= {key: getattr(args, key) for key in ("device", "dtype", "threads", "fraction")}
        task |= {"length_s": args.length_s, "batch_s": args.batch_s, "mode": "train"}
        with Worker(Path(__file__).name, {**task, "mode": "check"}) as worker:
            found = worker.ask()
        if found["problem"] is not None:
            raise SystemExit(f"error: {objective}, {mixer}: {found['problem']}; nothing was timed")
        tasks.append(task)
        points.append({"objective": objective, "mixer": mixer, "d_model": task["d_model"]})
        points[-1] |= {"parameters": found["parameters"], "time_s": None, "memory_mib": None}
    return tasks, points


def measure_objective(objective, args):
    """The points of an objective, timed in turns."""
    tasks, points = check_objective(objective, args)
    with ExitStack() as stack:
        workers = [stack.enter_context(Worker(Path(__file__).name, task)) for task in tasks]
        times = {place: [] for place in range(len(points))}
        bar = tqdm(range(args.repeats + 1), desc=objective)
        for turn in bar:
            for place in list(times):
                try:
                    reply = workers[place].ask()
                except OutOfMemory as error:
                    points[place]["skipped"] = str(error)
                    del times[place]
                    continue
                if turn == 0:
                    points[place] |= reply
                else:
                    times[place].append(reply["time_s"])
    audio_s = max(1, args.batch_s // args.length_s) * args.length_s
    for place, times_s in times.items():
        time_s = statistics.median(times_s)
        points[place] |= {"time_s": time_s, "times_s": times_s, "audio_s_per_s": audio_s / time_s}
    return points


def ratios(points):
    """Time and memory of each mixer against those of attention, less 1, by objective."""
    found = {}
    for point in points:
        base = next(
            (one for one in points if one["mixer"] == BASELINE
             and one["objective"] == point["objective"]), None,
        )  # fmt: skip
        if base is None or point is base or None in (base["time_s"], point["time_s"]):
            continue
        found.setdefault(point["objective"], {})[point["mixer"]] = {
            "time": point["time_s"] / base["time_s"] - 1,
            "memory": point["memory_mib"] / base["memory_mib"] - 1,
        }
    return found


def show(points, found):
    """A line for each point, with its ratios."""
    for point in points:
        ratio = found.get(point["objective"], {}).get(point["mixer"])
        against = f"  {ratio['time']:+.0%} time, {ratio['memory']:+.0%} memory" if ratio else ""
        where = f"{point['objective']:9}{point['mixer']:14}{point['parameters'] / 1e6:7.1f} M"
        if point["time_s"] is None:
            print(f"{where}  skipped: {point['skipped']}")
        else:
            speed = f"{point['time_s']:7.2f} s a step, {point['audio_s_per_s']:7.1f} s of audio/s"
            print(f"{where}{speed}, {point['memory_mib']:7.0f} MiB{against}")
    print(
        f"published, SummaryMixing against attention: {PUBLISHED['time']:+.0%} time, "
        f"{PUBLISHED['memory']:+.0%} memory (arXiv 2407.13377)"
    )


def share(text):
    """A type for argparse: a number above 0 and at most 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number above 0 and at most 1")
    return value


def parse_arguments(words=None):
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--objectives", type=choices_of(*OBJECTIVES), default=list(OBJECTIVES))
    add("--mixers", type=choices_of(*MIXERS), default=list(MIXERS))
    add("--fraction", type=share, default=1.0, help="of the 155 M parameters: %(default)s")
    add("--layers", type=whole_number, default=12, help="of the Conformer: %(default)s")
    add("--batch_s", type=whole_number, default=360, help="seconds of audio: %(default)s")
    add("--length_s", type=whole_number, default=20, help="of an utterance: %(default)s")
    add("--repeats", type=whole_number, default=5, help="timed steps: %(default)s")
    add("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="autocast")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--threads", type=whole_number, default=torch.get_num_threads(), help="%(default)s")
    add("--out", type=Path, metavar="FILE.json", help="default: in benchmarks/results")
    args = parser.parse_args(words)
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no GPU; leave it out")
    args.out = args.out or RESULTS / f"pretraining_cost_{args.device}.json"
    return args


def main():
    """Check, measure, compare, write."""
    args = parse_arguments()
    points = [point for name in args.objectives for point in measure_objective(name, args)]
    found = ratios(points)
    show(points, found)
    setting = ("fraction", "layers", "batch_s", "length_s", "repeats", "dtype")
    record = {"what": "pretraining_cost", **describe_run(args.device, args.threads)}
    record |= {key: getattr(args, key) for key in setting}
    record |= {"baseline": BASELINE, "published": PUBLISHED, "points": points, "ratios": found}
    write_json(args.out, record)


if __name__ == "__main__":
    serve(prepare) if sys.argv[1:2] == ["--worker"] else main()
