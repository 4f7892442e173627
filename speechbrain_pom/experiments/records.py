"""What a finished run of a row has come to: one JSON file, with all that the tables need."""

import json
import math
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

from speechbrain_pom.cli.summary import training_time
from speechbrain_pom.data.mini_corpus.files import read_manifest
from speechbrain_pom.experiments.commands import PUBLISHED_PROCESSES, check_checkout, launcher
from speechbrain_pom.experiments.table import STAGES
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.folder import git_revision
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.record import finished_configuration, read_fingerprint
from speechbrain_pom.runs.values import parse_value
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

RECORDS_FOLDER = "recipes/LibriSpeech/results"
# Utterances of LibriSpeech (openslr.org/12): 960 h, train-clean-100; and words of its tests.
TRAIN_UTTERANCES = {"pretraining": 281241, "finetuning": 28539}
TESTS = {"test-clean": (2620, 52576), "test-other": (2939, 52343)}
_PACKAGES = ("speechbrain-pom", "speechbrain", "torch", "torchaudio")
# Where runs of one row may differ.
_FREE = {"seed", "pretrained", "kenlm_model_path", "kenlm_words_path", "valid_batch_size"}
_FREE |= {"valid_batch_duration_s", "num_buckets", "nonfinite_patience"}
# These count by their product: what an optimizer step takes.
_BATCH = ("processes", "grad_accumulation_factor", "max_batch_duration_s", "batch_size")
_PROCESSES = {"pretraining": PUBLISHED_PROCESSES, "finetuning": 1}


def build_record(experiment, folders):
    """Gather what two finished runs have left.

    Arguments
    ---------
    experiment : speechbrain_pom.experiments.table.Experiment
    folders : dict of str to pathlib.Path
        Stage to output folder.

    Returns
    -------
    dict
        experiment, corpus ("LibriSpeech" or what else), differences (to the row: key to
        [row's, run's] for each stage), fills_cells (whether it is a run of the row on
        LibriSpeech), results (as in results.json), seed, hardware and versions (of this machine);
        and for each stage commit, hours, processes, command.

    Raises
    ------
    UserError
        If a run is not finished, or the second one did not start from the first one.
    """
    check_checkout(experiment)
    folders = {stage: Path(folders[stage]) for stage in STAGES}
    finished = {stage: _read_finished(folders[stage], stage) for stage in STAGES}
    _check_start(folders)
    results = json.loads((folders["finetuning"] / "results.json").read_text(encoding="utf-8"))
    corpus = _corpus(folders, results)
    differences = {
        stage: found
        for stage in STAGES
        if (found := _differences(experiment, stage, finished[stage]))
    }
    return {
        "experiment": experiment.name,
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
        **{stage: _run_facts(folders[stage], finished[stage]) for stage in STAGES},
    }


def write_record(record, folder, hardware=None):
    """Write a record as `<folder>/<experiment>/seed<seed>.json`.

    A record of the same two runs that is there already keeps its hardware and versions: they may
    be recorded again on another machine.

    Arguments
    ---------
    record : dict
        From `build_record`.
    folder : str or pathlib.Path
    hardware : str, optional
        What the runs had, where it was not this machine.

    Returns
    -------
    pathlib.Path
        The file.
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


def read_records(folder):
    """The records of a folder that fill cells of the tables.

    Arguments
    ---------
    folder : str or pathlib.Path
        With `<experiment>/seed<seed>.json`.

    Returns
    -------
    list of dict
        By experiment and seed; those on other corpora and of changed rows are left out.

    Example
    -------
    >>> read_records("/nowhere")
    []
    """
    paths = sorted(Path(folder).glob("*/seed*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [record for record in records if record["fills_cells"]]


def describe_machine():
    """The GPUs of this machine, or else its CPU, in words.

    Returns
    -------
    str
    """
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
            f"'{folder}' holds no finished run of {stage}: its command, given again, goes on "
            "with it"
        )
    if ("pretrained" in found) != (stage == "finetuning"):
        raise UserError(f"'{folder}' is no run of {stage}: give the pretraining's folder first")
    return found


def _check_start(folders):
    """Fine-tuning began with a checkpoint of this pretraining."""
    source = read_fingerprint(folders["finetuning"], "pretrained_from")
    if source is None or not Path(source).is_relative_to(folders["pretraining"].resolve()):
        raise UserError(
            f"'{folders['finetuning']}' was started from '{source}', not from a run in "
            f"'{folders['pretraining']}': give the folders of one experiment"
        )


def _corpus(folders, results):
    """LibriSpeech by its numbers of utterances and words, for names can be given to anything."""
    data_folder = read_tree(folders["finetuning"] / "hyperparams.yaml").get("data_folder")
    try:
        read_manifest(data_folder or "")  # none is given where CSV files say where the audio is
        return "mini corpus (synthetic)"
    except ValueError:
        pass
    tests = {
        split: {(found["num_utterances"], found["num_words"]) for found in decoders.values()}
        for split, decoders in results.items()
    }
    trained = {stage: _num_rows(folders[stage] / "manifests/train.csv") for stage in STAGES}
    known = tests == {split: {sizes} for split, sizes in TESTS.items()}
    if known and trained == TRAIN_UTTERANCES:
        return "LibriSpeech"
    return "other: not the training and test utterances of LibriSpeech"


def _num_rows(path):
    """Rows of a manifest, whose fields have no line ends; 0 if there is none."""
    if not path.is_file():
        return 0
    with open(path, encoding="utf-8") as stream:
        return sum(1 for _ in stream) - 1


def _differences(experiment, stage, found):
    """Top-level keys of a run that are not those of the row: [the row's, the run's]."""
    options = experiment.options(stage)
    published = _configuration(experiment, stage, options)
    # Objects refer to keys that may differ, so these are laid over the row before they are built.
    free = {key: parse_value(text) for key, text in found.items() if key in {*_FREE, *_BATCH}}
    known = read_tree(experiment.files[stage])
    wanted = _configuration(
        experiment, stage, {**options, **{key: free[key] for key in free if key in known}}
    )
    different = {
        key: [wanted.get(key), found.get(key)]
        for key in [*wanted, *(key for key in found if key not in wanted)]
        if wanted.get(key) != found.get(key) and key not in {*_FREE, *_BATCH}
    }
    # Objects are built from the plain keys, which say more.
    plain = {key: pair for key, pair in different.items() if not _is_object(pair)}
    batches = [_per_step(config) for config in (published, found)]
    if not math.isclose(*batches, rel_tol=1e-3):
        plain["batch of an optimizer step"] = batches
    return plain or different


def _configuration(experiment, stage, overrides):
    """What a run with these overrides, on the published number of processes, would record."""
    run = Run({}, {}, overrides, {}, False, Path(experiment.files[stage]))
    return configuration(run, _PROCESSES[stage])


def installed_versions():
    """Versions of what results depend on, by package.

    Returns
    -------
    dict of str to str

    Example
    -------
    >>> sorted(installed_versions())
    ['speechbrain', 'speechbrain-pom', 'torch', 'torchaudio']
    """
    return {package: version(package) for package in _PACKAGES}


def _per_step(config):
    """Seconds of audio, or utterances, of an optimizer step on all processes."""
    return math.prod(float(config[key]) for key in _BATCH if key in config)


def _is_object(pair):
    return any(text is not None and text.startswith(("!", "{")) for text in pair)


def _run_facts(folder, finished):
    """Commit, hours, processes and command of one run."""
    duration = training_time(folder / "log.txt")
    command = (folder / "hyperparams.yaml").read_text(encoding="utf-8").splitlines()[0]
    processes = int(finished["processes"])
    return {
        "commit": git_revision(folder),
        "hours": duration and round(duration.total_seconds() / 3600, 2),
        "processes": processes,
        "command": " ".join([*launcher(processes), command.removeprefix("# Command: ")]),
    }
