"""`summary`: what runs have reached, and where their files lie."""

import json
import re
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from speechbrain_pom.ctc.scoring import format_summary
from speechbrain_pom.data.mini_corpus.files import read_manifest
from speechbrain_pom.pretrained import find_checkpoint
from speechbrain_pom.probe.metrics import format_scores
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom summary results/bestrq_pom/1000 results/ctc_pom/1000

It reads what the recipes write, also while they run, and changes nothing."""

# What a run leaves besides its checkpoints, in the order in which one looks at it.
_FILES = ("results.json", "wer_*.txt", "curves.png", "train_log.txt", "tensorboard")
_RUN_START = "Applied quirks ("  # SpeechBrain writes it into log.txt when a run starts or resumes


def add_arguments(parser):
    """Add the arguments of `summary`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="output folder of a run")


def run(args):
    """Print the summaries of runs.

    Arguments
    ---------
    args : argparse.Namespace
        With folders.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If a folder is not that of a run.
    """
    print("\n\n".join(summarize(folder) for folder in args.folders))
    return 0


def summarize(folder):
    """What a run has reached, as text.

    Arguments
    ---------
    folder : str or pathlib.Path
        Output folder of `train_bestrq.py` or `train_ctc.py`.

    Returns
    -------
    str
        Encoder, data, the course of loss and accuracy or error rates over the epochs, the error
        rates of the tests with their 95 % intervals, speed, time, and where the files are.

    Raises
    ------
    UserError
        If there is no such folder, or no epoch of a run in it.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> history = EpochHistory(folder / "history.jsonl")
    >>> history.append({"epoch": 1, "steps": 9, "train": {"loss": 5.2}, "valid": {"loss": 5.0}})
    >>> history.append({"epoch": 2, "steps": 18, "train": {"loss": 4.1}, "valid": {"loss": 4.3}})
    >>> print("\\n".join(summarize(folder).splitlines()[1:]))
      trained       to epoch 2, 18 steps
      loss          train 5.200 -> 4.100, valid 5.000 -> 4.300
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
    rows = [*_setting(options), *_course(folder, records, options), *_tests(folder)]
    rows += [*_cost(records[-1]["train"]), *_places(folder)]
    return "\n".join([f"{folder}", *(f"  {label:13} {text}" for label, text in rows)])


def _has(folder, name):
    return (folder / name).is_file()


def _setting(options):
    """The encoder, its start, and the data."""
    if "attention_type" in options:
        yield (
            "encoder",
            f"{options['attention_type']}, d_model {options['d_model']}, "
            f"{options['num_encoder_layers']} layers",
        )
    if "pretrained" in options:
        yield "started from", options["pretrained"] or "scratch"
    if options.get("data_folder"):
        try:
            read_manifest(options["data_folder"])
            note = " (synthetic mini corpus: its figures say nothing about LibriSpeech)"
        except ValueError:
            note = ""
        yield "data", f"{options['data_folder']}{note}"
    if options.get("train_csv"):
        csvs = options["train_csv"]
        yield "trained on", csvs if isinstance(csvs, str) else ", ".join(csvs)


def _course(folder, records, options):
    """Epochs, steps and time; and each figure from the first epoch to the last."""
    first, last = records[0], records[-1]
    duration = training_time(folder / "log.txt")
    time = f", {duration} in all runs of this folder" if duration else ""
    yield "trained", f"to epoch {last['epoch']}, {last['steps']} steps{time}"

    def change(part, name, scale=1.0, digits=3):
        return " -> ".join(f"{scale * end[part][name]:.{digits}f}" for end in (first, last))

    valid = last["valid"]
    name = "masked loss" if "accuracy" in valid else "loss"
    yield name, f"train {change('train', 'loss')}, valid {change('valid', 'loss')}"
    if "accuracy" in valid:
        yield (
            "accuracy",
            f"train {change('train', 'accuracy', 100, 1)} %, valid "
            f"{change('valid', 'accuracy', 100, 1)} % of the masked frames "
            f"(always guessing the commonest code: {100 * valid['top_code_share']:.1f} %)",
        )
        yield (
            "codes",
            f"{valid['codes_in_use']} of {options.get('cb_vocab', '?')} in use, "
            f"perplexity {valid['code_perplexity']:.0f}",
        )
    if "error_rate" in valid:
        train, valid = (change(part, "error_rate", digits=2) for part in ("train", "valid"))
        yield "errors", f"train {train} %, valid {valid} %"
    if "wer" in valid:
        best = min(records, key=lambda record: record["valid"]["wer"])
        yield (
            "valid",
            f"greedy WER {change('valid', 'wer', digits=2)} %, CER "
            f"{change('valid', 'cer', digits=2)} %; best WER {best['valid']['wer']:.2f} % in epoch "
            f"{best['epoch']}",
        )


def _tests(folder):
    """Error rates of each test set with each decoder; the intervals are of 95 %."""
    if not _has(folder, "results.json"):
        return
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if "task" in results:
        yield from _probe(results)
        return
    for split, decoders in results.items():
        for decoder, summary in decoders.items():
            with_lm = "without LM" if decoder == "no_lm" else "with LM"
            yield split, f"{format_summary(summary)}, {with_lm}"


def _probe(results):
    """Accuracy of each test set, and the equal error rate of speakers."""
    for name, figures in results.items():
        if isinstance(figures, dict) and "accuracy" in figures:
            yield name, format_scores(figures)
        elif isinstance(figures, dict) and "eer" in figures:
            yield name, f"equal error rate {figures['eer']:.2f} %"


def _cost(train):
    if "audio_s_per_s" in train:
        yield (
            "speed",
            f"{train['audio_s_per_s']:.0f} s of audio per second, peak memory "
            f"{train['peak_memory_mib']:.0f} MiB (last epoch)",
        )


def _places(folder):
    """Where the newest checkpoint and the files to look at are."""
    with suppress(UserError):  # the first one is not yet written, or has been removed
        yield "checkpoint", find_checkpoint(folder)
    label = "files"
    for pattern in _FILES:
        for path in sorted(folder.glob(pattern)):
            yield label, path
            label = ""


def training_time(log):
    """Time between the first and the last line of each start of a run, added up.

    Arguments
    ---------
    log : pathlib.Path
        The run's `log.txt`.

    Returns
    -------
    datetime.timedelta or None
        None if there is no log.
    """
    total, start, last = timedelta(), None, None
    if not log.is_file():
        return None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        stamp = re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", line)
        if stamp is None:
            continue
        now = datetime.fromisoformat(stamp[0])
        if _RUN_START in line:
            total += last - start if start is not None else timedelta()
            start = now
        last = now
    return total + (last - start) if start is not None else None
