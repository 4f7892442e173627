#!/usr/bin/env python3
"""Kill a training run again and again, and compare it with one that was left alone.

    python tests/endurance/kill_and_resume.py --kills 20 --out result.json
    python tests/endurance/kill_and_resume.py --kills 6 --processes 2 --out result.json
    python tests/endurance/kill_and_resume.py --stage ctc --kills 10 --out result.json
    python tests/endurance/kill_and_resume.py --stage wav2vec2 --processes 2 --out result.json

Two runs of the same command on a small corpus of synthetic speech, with a checkpoint after every
optimizer step. One goes straight to its end. The other is killed (SIGKILL) at seeded random
moments, in steps and in saves, and started again each time; with several processes it is one random
rank that is killed, and torchrun has to end by itself. At the end every tensor of the weights, the
optimizer, the statistics and the counters must be equal bit by bit, and so must the figures of each
epoch, except for those of time and memory, and the error rates of fine-tuning. The exit code is 0
if that is so, else 1.
"""

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
import yaml

ROOT = Path(__file__).parents[2]
ENCODER = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cnn_channels": 4}
COMMON = {
    "train_splits": "[train-clean-100]",
    "optimizer_step_limit": "null",
    "lr": 0.01,
    "precision": "fp32",
    "eval_precision": "fp32",
    "grad_accumulation_factor": 2,
    "ckpt_interval_steps": 1,
    "ckpt_interval_minutes": 0,
    "device": "cpu",
}
TINY = {
    "bestrq": {
        **ENCODER,
        **COMMON,
        "n_warmup_steps": 20,
        "max_batch_duration_s": 10,
        "valid_batch_duration_s": 60,
        "num_buckets": 3,
        "min_duration_s": 0,
        "mask_scope": "utterance",
        "cb_vocab": 16,
    },
    "wav2vec2": {
        **ENCODER,
        **COMMON,
        "optimizer_step_limit": 100000,
        "data_layout": "librispeech",
        "n_schedule_steps": 1000,
        "n_warmup_steps": 20,
        "max_batch_duration_s": 10,
        "valid_batch_duration_s": 60,
        "num_buckets": 3,
        "min_duration_s": 0,
        "layerdrop_prob": 0.3,
        "num_codes": 8,
        "code_size": 4,
        "target_size": 8,
        "num_negatives": 10,
    },
    "ctc": {
        **COMMON,
        "pretrained": "null",
        "architecture": "hparams/pom.yaml",
        "architecture_overrides": json.dumps(ENCODER),
        "dnn_neurons": 16,
        "lr_encoder": 0.005,
        "batch_size": 2,
        "sorting": "random",
        "beam_size": 4,
        "num_bootstrap": 20,
    },
}
YAMLS = {
    "bestrq": "hparams/pom.yaml",
    "wav2vec2": "hparams/wav2vec2.yaml",
    "ctc": "hparams/pom_ctc.yaml",
}
# Figures of an epoch that no two runs share.
NOT_COMPARED = ("audio_s_per_s", "peak_memory_mib")
LIFE_LIMIT_S = 300  # from start to end of one process: above it, something hangs
LAUNCHER_LIMIT_S = 30  # until torchrun has ended after one of its processes was killed


def command(args, data_folder, output_folder):
    """What a user would type."""
    launcher = [sys.executable]
    if args.processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone"]
        launcher += [f"--nproc-per-node={args.processes}"]
    options = {
        **TINY[args.stage],
        "number_of_epochs": args.epochs,
        "num_workers": args.num_workers,
        "data_folder": data_folder,
        "output_folder": output_folder,
    }
    pairs = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
    script = [f"recipes/LibriSpeech/train_{args.stage}.py", YAMLS[args.stage]]
    return [*launcher, *script, *pairs, "--noprogressbar"]


def start(call, log_path):
    """Start a run from the repository's root, with its output appended to a file."""
    with open(log_path, "a", encoding="utf-8") as log:
        return subprocess.Popen(
            call,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def run_to_the_end(call, log_path):
    """Run a command that has to succeed."""
    returncode = start(call, log_path).wait(timeout=LIFE_LIMIT_S)
    if returncode != 0:
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"exit code {returncode} instead of 0; the end of {log_path}:\n{tail}")


def is_saving(output_folder):
    """Whether a checkpoint is being written right now."""
    try:
        return any(name.startswith("CKPT") for name in os.listdir(output_folder / "save/.saving"))
    except FileNotFoundError:
        return False


def wait_for_moment(process, output_folder, num_saves, in_save, delay_s):
    """Wait until a number of saves have begun (and, for a step, the last one is complete).

    Returns
    -------
    bool
        False if the run ended before.
    """
    deadline = time.monotonic() + LIFE_LIMIT_S
    seen, saving = 0, is_saving(output_folder)  # what a former life left is not a new save
    while process.poll() is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no progress for {LIFE_LIMIT_S} s in {output_folder}")
        was_saving, saving = saving, is_saving(output_folder)
        seen += saving and not was_saving
        if seen >= num_saves and saving == in_save:
            time.sleep(delay_s)
            return process.poll() is None
        time.sleep(0.0005)
    return False


def child_pids(pid):
    """The processes that a process has started, by Linux's /proc."""
    return [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]


def kill_one(process, output_folder, processes, rng):
    """SIGKILL the run, or one rank of it.

    Returns
    -------
    tuple of (bool, float)
        Whether a save was hit, and the seconds until the launcher ended.
    """
    victim = process.pid if processes == 1 else rng.choice(sorted(child_pids(process.pid)))
    os.kill(victim, signal.SIGKILL)
    begin, in_save = time.monotonic(), is_saving(output_folder)
    returncode = process.wait(timeout=LAUNCHER_LIMIT_S)
    if returncode == 0:
        raise RuntimeError("the run ended with exit code 0 although a process of it was killed")
    return in_save, time.monotonic() - begin


def run_with_kills(args, call, output_folder, log_path):
    """Kill and restart the run; then let it end.

    Returns
    -------
    dict
        What was hit: kills in saves and elsewhere, and how long the launchers took to end.
    """
    rng = random.Random(args.seed)
    kills = {"in_saves": 0, "in_steps": 0}
    ending_s = []
    most_saves = max(2, 6 * args.epochs // args.kills)  # on average half of the run's saves
    while sum(kills.values()) < args.kills:
        process = start(call, log_path)
        in_save = rng.random() < 0.5
        num_saves = rng.randint(1, most_saves)
        delay_s = rng.uniform(0, 0.01 if in_save else 0.05)
        if not wait_for_moment(process, output_folder, num_saves, in_save, delay_s):
            raise RuntimeError(
                f"the run ended (exit code {process.wait()}) after {sum(kills.values())} of "
                f"{args.kills} kills: raise --epochs, or look into {log_path}"
            )
        hit_save, seconds = kill_one(process, output_folder, args.processes, rng)
        ending_s.append(seconds)
        kills["in_saves" if hit_save else "in_steps"] += 1
        print(f"kill {sum(kills.values())} of {args.kills}: {kills}", flush=True)
    run_to_the_end(call, log_path)
    return {**kills, "longest_ending_s": round(max(ending_s, default=0.0), 1)}


def newest_states(output_folder):
    """All tensors and values of a run's newest checkpoint, by file and path."""
    folder = max(output_folder.glob("save/CKPT+*"), key=saved_at)
    states = {}
    for path in sorted(folder.glob("*.ckpt")):
        try:
            flatten(torch.load(path, weights_only=True), path.stem, states)
        except Exception:  # not a PyTorch file: the text of counters and sums
            states[path.stem] = path.read_text(encoding="utf-8")
    # Sums of the epoch, with its wall-clock time: their results are in the history.
    states.pop("sums", None)
    return states


def saved_at(checkpoint):
    """When a checkpoint was saved, in seconds since 1970."""
    return yaml.safe_load((checkpoint / "CKPT.yaml").read_text(encoding="utf-8"))["unixtime"]


def flatten(value, path, flat):
    """Collect the leaves of nested dicts and lists by their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            flatten(inner, f"{path}.{key}", flat)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            flatten(inner, f"{path}.{index}", flat)
    else:
        flat[path] = value


def history(output_folder):
    """The records of all epochs, without what no two runs share."""
    lines = (output_folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    for record in records:
        for name in NOT_COMPARED:
            record["train"].pop(name)
    return records


def error_rates(output_folder):
    """The results of fine-tuning; None for pretraining."""
    path = output_folder / "results.json"
    return path.read_text(encoding="utf-8") if path.is_file() else None


def compare_runs(first, second):
    """What differs between the newest checkpoints, the histories and the results of two runs.

    Returns
    -------
    tuple of (int, list of str)
        Number of values compared, and the names of those that are not equal bit by bit.
    """
    states = [newest_states(folder) for folder in (first, second)]
    different = sorted(states[0].keys() ^ states[1].keys())
    for key in states[0].keys() & states[1].keys():
        ours, theirs = states[0][key], states[1][key]
        if isinstance(ours, torch.Tensor):
            same = isinstance(theirs, torch.Tensor) and torch.equal(ours, theirs)
        else:
            same = ours == theirs
        if not same:
            different.append(key)
    num_compared = len(states[0].keys() | states[1].keys())
    for name, read in (("history.jsonl", history), ("results.json", error_rates)):
        num_compared += 1
        if read(first) != read(second):
            different.append(name)
    return num_compared, different


def commit():
    """The commit of the code, with a mark if files have changed since."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    return result.stdout.strip() or None


def make_record(args, kills, num_compared, different, duration_s):
    """The result, with what it takes to repeat it."""
    import speechbrain

    return {
        "date": date.today().isoformat(),
        "commit": commit(),
        "command": " ".join(["python", "tests/endurance/kill_and_resume.py", *args.given]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "speechbrain": speechbrain.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "stage": args.stage,
        "processes": args.processes,
        "num_workers": args.num_workers,
        "epochs": args.epochs,
        "kills": kills,
        "values_compared": num_compared,
        "values_different": different,
        "equal": not different,
        "duration_s": round(duration_s),
    }


def parse(argv):
    """The options; `given` keeps those that were given, for the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--stage", choices=sorted(YAMLS), default="bestrq")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="more than one: torchrun, gloo")
    parser.add_argument("--num_workers", type=int, default=0, help="of the data loader")
    parser.add_argument("--epochs", type=int, default=60, help="length of the runs")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--out", type=Path, help="write the record to this JSON file")
    parser.add_argument("--folder", type=Path, help="keep the runs here (default: temporary)")
    args = parser.parse_args(argv)
    args.given = argv if argv is not None else sys.argv[1:]
    return args


def main(argv=None):
    """Both runs and their comparison; returns the exit code."""
    args = parse(argv)
    from speechbrain_pom.data.mini_corpus.make import make_mini_corpus

    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        corpus = make_mini_corpus(
            folder / "LibriSpeech", duration_min=2.0, show_progress=False
        ).resolve()
        straight, killed = folder.resolve() / "straight", folder.resolve() / "killed"
        run_to_the_end(command(args, corpus, straight), folder / "straight.txt")
        call = command(args, corpus, killed)
        kills = run_with_kills(args, call, killed, folder / "killed.txt")
        num_compared, different = compare_runs(straight, killed)
    record = make_record(args, kills, num_compared, different, time.monotonic() - begin)
    text = json.dumps(record, indent=1) + "\n"
    print(text, end="")
    if args.out is not None:
        args.out.write_text(text, encoding="utf-8")
    return 0 if record["equal"] else 1


if __name__ == "__main__":
    sys.exit(main())
