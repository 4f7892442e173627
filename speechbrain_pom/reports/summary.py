"""What a run has reached, as text, and where its files are."""

import json
from pathlib import Path

from speechbrain_pom.data.mini_corpus.files import read_manifest
from speechbrain_pom.encoder.chunks import describe_training, trained_chunks
from speechbrain_pom.encoder.loading import find_checkpoints
from speechbrain_pom.reports.chunks import format_chunks, has_chunks
from speechbrain_pom.runs.logs import EpochHistory, training_time
from speechbrain_pom.runs.metrics import read_metrics
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.utils.errors import UserError

_OF_ENCODER = ("attention_type", "d_model", "num_encoder_layers")
# What a run leaves besides its checkpoints, in the order of interest.
_FILES = (
    "results.json",
    "wer_*.txt",
    "answers_*.csv",
    "scores_*.txt",
    "curves.png",
    "train_log.txt",
    "tensorboard",
)


def summarize(folder: str | Path) -> str:
    """What a run has reached so far, as text.

    That is encoder, data, the course of the metrics of its task over the epochs, the results of
    the tests with their 95 % intervals, time, and where the files are; for tests with dynamic
    chunks also a table of the error rates by chunk size and left context.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> history = EpochHistory(folder / "history.jsonl")
    >>> history.append({"epoch": 1, "steps": 9, "train": {"loss": 5.2}, "valid": {"loss": 5.0}})
    >>> history.append({"epoch": 2, "steps": 18, "train": {"loss": 4.1}, "valid": {"loss": 4.3}})
    >>> print("\\n".join(summarize(folder).splitlines()[1:]))
      trained  to epoch 2, 18 steps
      loss     train 5.200 -> 4.100 nats, valid 5.000 -> 4.300 nats; best 4.300 nats in epoch 2
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no such folder: '{folder}': give the output folder of a run")
    records = EpochHistory(folder / "history.jsonl").records()
    if not records:
        raise UserError(
            f"'{folder}' holds no finished epoch of a run (no history.jsonl): give the "
            "output_folder of train_bestrq.py or train_ctc.py"
        )
    options = read_tree(folder / "hyperparams.yaml") if _has(folder, "hyperparams.yaml") else {}
    task = read_metrics(folder, logged=records[-1].get("valid", {}))
    results = _results(folder)
    rows = [*_setting(options), *_course(folder, records, task), *_tests(results, task)]
    rows += _places(folder)
    width = max(len(label) for label, _ in rows)
    lines = [f"{folder}", *(f"  {label:{width}}  {text}" for label, text in rows)]
    by_chunk = format_chunks(results, task)
    return "\n".join([*lines, *(["", by_chunk] if by_chunk else [])])


def _has(folder, name):
    return (folder / name).is_file()


def _setting(options):
    """The encoder, its start, and the data."""
    encoder = _encoder(options)
    if encoder:
        attention_type, d_model, num_layers = (encoder[key] for key in _OF_ENCODER)
        yield "encoder", f"{attention_type}, d_model {d_model}, {num_layers} layers"
    chunks = trained_chunks(options)
    if chunks:
        yield "trained with chunks", describe_training(chunks)
    if "pretrained" in options:
        yield "started from", options["pretrained"] or "scratch"
    if options.get("data_folder"):
        try:
            read_manifest(options["data_folder"])
            note = " (synthetic mini corpus: its numbers say nothing about LibriSpeech)"
        except ValueError:
            note = ""
        yield "data", f"{options['data_folder']}{note}"
    if options.get("train_csv"):
        csvs = options["train_csv"]
        yield "trained on", csvs if isinstance(csvs, str) else ", ".join(csvs)


def _encoder(node):
    """The first section of a YAML's tree that describes an encoder, or None.

    That is the whole file in pretraining, and the Transformer in fine-tuning.
    """
    if isinstance(node, dict) and node.keys() >= set(_OF_ENCODER):
        return node
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return next((found for part in parts if (found := _encoder(part))), None)


def _course(folder, records, task):
    """Epochs, steps and time; and each metric that its task shows."""
    last = records[-1]
    duration = training_time(folder / "log.txt")
    time = f", {duration} in all runs of this folder" if duration else ""
    yield "trained", f"to epoch {last['epoch']}, {last['steps']} steps{time}"

    for metric in task.metrics:
        texts = [
            f"{'' if part == 'epoch' else f'{part} '}{text}"
            for part in metric.parts
            if (text := _change(metric, part, records))
        ]
        if texts:
            yield metric.label, ", ".join(texts) + _beside(metric, task, records)


def _change(metric, part, records):
    """A metric from the first epoch to the last, or in the last alone; empty if not logged."""
    stats = [record if part == "epoch" else record.get(part, {}) for record in records]
    values = [one[metric.name] for one in stats if metric.name in one]
    if not values or metric.summary == "none":
        return ""
    if metric.summary == "last" or len(values) == 1:
        return metric.format(values[-1])
    return f"{metric.number(values[0])} -> {metric.format(values[-1])}"


def _beside(metric, task, records):
    """What belongs to a metric's course: the value to compare with, and the best epoch."""
    valid = [record.get("valid", {}) for record in records]
    text = ""
    for other in task.of("valid"):
        if other.name == metric.compared_with and other.name in valid[-1]:
            text = f" ({other.label} {other.format(valid[-1][other.name])})"
    best = task.best_of(valid)
    if metric is task.best_metric and best is not None:
        text += (
            f"; best {metric.format(valid[best][metric.name])} in epoch {records[best]['epoch']}"
        )
    return text


def _results(folder):
    """The contents of results.json, if there is one."""
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _tests(results, task):
    """What each test gave; the intervals are of 95 %. Those with chunks have their own table."""
    for (test, *details), found in task.find_results(results):
        if not has_chunks(found):
            yield test, ", ".join([task.format_results(found), *details])


def _places(folder):
    """Where the newest checkpoint and the files to look at are."""
    if checkpoints := find_checkpoints(folder):
        yield "checkpoint", list(checkpoints)[-1]
    label = "files"
    for pattern in _FILES:
        for path in sorted(folder.glob(pattern)):
            yield label, path
            label = ""
