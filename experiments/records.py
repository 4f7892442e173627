"""The results of finished runs of a row: one JSON file with everything that the tables need."""

import json
import math
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

from experiments.commands import check_checkout, launcher, row_values
from experiments.table import STAGES, Row
from speechbrain_pom.data.mini_corpus.files import read_manifest
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.documents import git_revision
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.logs import training_time
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.record import finished_configuration, read_fingerprint
from speechbrain_pom.runs.values import parse_value
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

RECORDS_FOLDER = "recipes/LibriSpeech/results"
# LibriSpeech (openslr.org/12): utterances of train-clean-100; utterances and words of the tests.
FINETUNING_UTTERANCES = 28539
TESTS = {"test-clean": (2620, 52576), "test-other": (2939, 52343)}
_PACKAGES = ("speechbrain-pom", "speechbrain", "torch", "torchaudio")
# Keys in which runs of one row may differ.
_FREE = {"seed", "pretrained", "kenlm_model_path", "kenlm_words_path", "valid_batch_size"}
_FREE |= {"valid_batch_duration_s", "num_buckets", "nonfinite_patience"}
# These count by their product: what an optimizer step takes.
_BATCH = ("processes", "grad_accumulation_factor", "max_batch_duration_s", "batch_size")


def build_record(row: Row, folders: dict[str, str | Path]) -> dict:
    """The record of two finished runs, given the output folder of each stage.

    `differences` has the keys that are not as in the row: [the row's, the run's] for each stage.
    `fills_cells` says whether it is a run of the row on LibriSpeech. Hardware and versions are
    those of this machine.
    """
    check_checkout(row)
    folders = {stage: Path(folders[stage]) for stage in STAGES}
    finished = {stage: _read_finished(folders[stage], stage) for stage in STAGES}
    _check_start(folders)
    results = json.loads((folders["finetuning"] / "results.json").read_text(encoding="utf-8"))
    corpus = _corpus(row, folders, results)
    differences = {
        stage: found for stage in STAGES if (found := _differences(row, stage, finished[stage]))
    }
    return {
        "experiment": row.name,
        "corpus": corpus,
        "differences": differences,
        "fills_cells": corpus == "LibriSpeech" and not differences,
        "results": results,
        "seed": finished["finetuning"]["seed"],
        "hardware": describe_machine(),
        "versions": {
            "python": platform.python_version(),
            **installed_versions(),
        },
        **{stage: _describe_run(folders[stage], finished[stage]) for stage in STAGES},
    }


def write_record(record: dict, folder: str | Path, hardware: str | None = None) -> Path:
    """Write a record as `<folder>/<experiment>/seed<seed>.json`.

    An earlier record of the same two runs keeps its hardware and versions, since runs may be
    recorded again on another machine. `hardware` says what they ran on, if not on this machine.
    """
    path = Path(folder) / record["experiment"] / f"seed{record['seed']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    former = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if former and all(former[stage] == record[stage] for stage in STAGES):
        record = {**record, **{key: former[key] for key in ("hardware", "versions")}}
    if hardware is not None:
        record = {**record, "hardware": hardware}
    write_atomically(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return path


def read_records(folder: str | Path) -> list[dict]:
    """The records of a folder that fill cells of the tables, by experiment and seed."""
    paths = sorted(Path(folder).glob("*/seed*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record for record in records if record["fills_cells"]]


def describe_machine() -> str:
    """The GPUs of this machine, or else its CPU, for a reader."""
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.is_file() else None
    return f"{os.cpu_count()} CPU cores, {found[1] if found else platform.machine()}"


def _read_finished(folder, stage):
    found = finished_configuration(folder)
    if found is None:
        raise UserError(
            f"'{folder}' holds no finished run of {stage}: give its command again, which resumes it"
        )
    if ("pretrained" in found) != (stage == "finetuning"):
        raise UserError(f"'{folder}' is not a run of {stage}: give the pretraining's folder first")
    return found


def _check_start(folders):
    """Refuse a fine-tuning that did not start from a checkpoint of this pretraining."""
    source = read_fingerprint(folders["finetuning"], "pretrained_from")
    if source is None or not Path(source).is_relative_to(folders["pretraining"].resolve()):
        raise UserError(
            f"'{folders['finetuning']}' was started from '{source}', not from a run in "
            f"'{folders['pretraining']}': give the folders of one experiment"
        )


def _corpus(row, folders, results):
    """LibriSpeech is recognised by its numbers of utterances and words: names prove nothing.

    Of pretraining on another corpus, whose number is not published, nothing can be told.
    """
    data_folder = read_tree(folders["finetuning"] / "hyperparams.yaml").get("data_folder")
    try:
        read_manifest(data_folder or "")  # null where the data are given as CSV files
        return "mini corpus (synthetic)"
    except ValueError:
        pass
    tests = {
        split: {(found["num_utterances"], found["num_words"]) for found in decoders.values()}
        for split, decoders in results.items()
    }
    trained = {stage: _num_rows(folders[stage] / "manifests/train.csv") for stage in STAGES}
    known = tests == {split: {sizes} for split, sizes in TESTS.items()}
    wanted = {"pretraining": row.pretraining_utterances, "finetuning": FINETUNING_UTTERANCES}
    if known and all(number in (None, trained[stage]) for stage, number in wanted.items()):
        return "LibriSpeech"
    return "other: not the training and test utterances of LibriSpeech"


def _num_rows(path):
    """Rows of a manifest, whose fields contain no line breaks; 0 if there is none."""
    if not path.is_file():
        return 0
    with open(path, encoding="utf-8") as stream:
        return sum(1 for _ in stream) - 1


def _differences(row, stage, found):
    """Top-level keys of a run that are not those of the row: [the row's, the run's]."""
    tree = read_tree(row.files[stage])
    options = row_values(row, stage, tree)
    published = _configuration(row, stage, options)
    # Objects refer to keys that may differ, so these override the row before they are built.
    free = {key: parse_value(text) for key, text in found.items() if key in {*_FREE, *_BATCH}}
    wanted = _configuration(
        row, stage, {**options, **{key: free[key] for key in free if key in tree}}
    )
    different = {
        key: [wanted.get(key), found.get(key)]
        for key in [*wanted, *(key for key in found if key not in wanted)]
        if wanted.get(key) != found.get(key) and key not in {*_FREE, *_BATCH}
    }
    # Objects are built from the plain keys, which are clearer.
    plain = {key: pair for key, pair in different.items() if not _is_object(pair)}
    batches = [_per_step(config) for config in (published, found)]
    if not math.isclose(*batches, rel_tol=1e-3):
        plain["batch of an optimizer step"] = batches
    return plain or different


def _configuration(row, stage, overrides):
    """What a run with these overrides records, on as many processes as published."""
    run = Run({}, {}, overrides, {}, False, Path(row.files[stage]))
    return configuration(run, row.num_processes if stage == "pretraining" else 1)


def installed_versions() -> dict[str, str]:
    """Versions of the packages that results depend on."""
    return {package: version(package) for package in _PACKAGES}


def _per_step(config):
    """Seconds of audio, or utterances, of an optimizer step on all processes."""
    return math.prod(float(config[key]) for key in _BATCH if key in config)


def _is_object(pair):
    return any(text is not None and text.startswith(("!", "{")) for text in pair)


def _describe_run(folder, finished):
    """Commit, hours, number of processes and command of one run."""
    duration = training_time(folder / "log.txt")
    command = (folder / "hyperparams.yaml").read_text(encoding="utf-8").splitlines()[0]
    processes = int(finished["processes"])
    return {
        "commit": git_revision(folder),
        "hours": duration and round(duration.total_seconds() / 3600, 2),
        "processes": processes,
        "command": " ".join([*launcher(processes), command.removeprefix("# Command: ")]),
    }
