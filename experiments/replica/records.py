"""The results of the finished runs of a replica: one JSON file, from which all else is computed."""

import json
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from experiments.commands import format_command, text_of
from experiments.records import RECORDS_FOLDER
from experiments.replica.protocols import Protocol, ReplicaRun, plan_runs, runs_folder
from experiments.replica.runs import CONDITIONS_FILE
from speechbrain_pom.ctc.scoring import read_word_edits
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.documents import git_revision
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.experiment import effective_overrides
from speechbrain_pom.runs.logs import EpochHistory, training_time
from speechbrain_pom.runs.options import parse_command_line, read_tree
from speechbrain_pom.runs.record import finished_configuration
from speechbrain_pom.runs.values import RUN_OPTION_TYPES
from speechbrain_pom.training.chunks import read_chunk_label
from speechbrain_pom.training.layer_statistics import LAYERS_FILE
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

# Validation metrics of which a curve is kept.
_CURVES = {"pretraining": ("loss", "accuracy"), "finetuning": ("loss", "wer", "blank_share")}
_CURVES["scratch"] = _CURVES["finetuning"]
# Options that say where files are, and not what is run.
_PATHS = {"output_folder", "data_folder", "pretrained", "architecture"}


def record_path(protocol: Protocol, folder: str | Path = RECORDS_FOLDER) -> Path:
    """The file of a protocol's results."""
    return Path(folder) / f"replica_{protocol.name}.json"


def collect(protocol: Protocol, folder: str | Path, former: dict | None = None) -> dict:
    """The record of the finished runs of a protocol in a folder.

    Runs of an earlier record are kept where the folder has none. The record has `protocol`;
    `corpus`; `machines` (hardware, runs at a time, threads, versions); `utterances` (test set to
    utterance id to number of words); `missing` (labels of runs that are not finished); and
    `runs`: mixer, seed, kind, commit, command (as in the default folder), machine (its number),
    duration_s (training), cpu_s (the whole recipe, with loading and tests), peak_memory_mib,
    audio_s_per_s, num_steps, curve (by step), layers (the first and the last statistics of them,
    if any), and for fine-tuning results (as in results.json) and edits (test set to edited words
    of the utterances, in their order); for tests with dynamic chunks also chunks (test set to label
    of the chunks to results with edits).
    """
    record = {
        "protocol": protocol.name,
        "corpus": protocol.corpus,
        "machines": [],
        "utterances": {},
        "missing": [],
        "runs": [],
    }
    for run in (run for chain in plan_runs(protocol, folder) for run in chain):
        if finished_configuration(run.folder) is not None:
            _check_configuration(run, protocol)
            command = recorded_command(run, folder, runs_folder(protocol))
            record["runs"].append(_read_run(run, command, record, protocol.test_sets))
        elif kept := _recorded_run(run, former):
            record["runs"].append(_keep_run(kept, former, record))
        else:
            record["missing"].append(run.label)
    if not record["runs"]:
        raise UserError(
            f"no finished run of protocol {protocol.name} in '{folder}': make them with "
            f"`python -m experiments.replica run {protocol.name}`, or give their folder with --out"
        )
    return record


def left_to_run(chains: list[list[ReplicaRun]], record: dict | None) -> list[bool]:
    """For each chain, whether it has a run that a record lacks."""
    return [any(_recorded_run(run, record) is None for run in chain) for chain in chains]


def _recorded_run(run, record):
    """A run as it stands in a record, if it was made with the same options.

    An option of the earlier command is ignored if the hparams file has no such key any more.
    """
    found = (one for one in (record or {"runs": []})["runs"] if _key(one) == _key(vars(run)))
    recorded = next(found, None)
    if recorded is None:
        return None
    now, before = options_of(run.command), options_of(shlex.split(recorded["command"]))
    known = {*now, *read_tree(run.command[2]), *RUN_OPTION_TYPES}
    before = {key: value for key, value in before.items() if key in known}
    return recorded if before == now else None


def _key(run):
    return run["mixer"], run["seed"], run["kind"]


def options_of(words: Sequence[str]) -> dict[str, str]:
    """The values of the options in a command, as typed, without paths.

    In version 0.1, the model of a run from scratch was given by options too.
    """
    options = {
        word.removeprefix("--"): value for word, value in pairwise(words) if word.startswith("--")
    }
    model = json.loads(options.pop("architecture_overrides", "{}"))
    options |= {key: text_of(value) for key, value in model.items()}
    return {key: value for key, value in options.items() if key not in _PATHS}


def recorded_command(run: ReplicaRun, folder: str | Path, default: str) -> str:
    """The command of a run without the paths of this machine, as in the default folder."""
    prefix = f"{folder}/"
    return format_command(
        f"{default}/{word[len(prefix) :]}" if word.startswith(prefix) else word
        for word in run.command
    )


def _keep_run(run, former, record):
    """A run of an earlier record; its machine and utterances are added to the new one."""
    machine = None if run["machine"] is None else former["machines"][run["machine"]]
    for split, words in former["utterances"].items():
        same_utterances(split, words, record["utterances"], "the earlier record")
    return {**run, "machine": number_of(machine, record["machines"])}


def write_record(record: dict, path: str | Path) -> None:
    """Write a record of `collect`, each run on a line of its own."""
    fields = [f"{json.dumps(key)}: {_lines(value)}" for key, value in record.items()]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "{\n" + ",\n".join(fields) + "\n}\n")


def read_record(path: str | Path) -> dict | None:
    """A record that was written, or None where there is none."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _lines(value):
    """JSON, with a line for each dict of a list."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _check_configuration(run, protocol):
    """Refuse a run that was made with other values than the protocol's now are.

    Keys that only one of the two has are ignored, and so are objects, which are built from plain
    keys: those change from one version of the recipes to the next.
    """
    request = parse_command_line(list(run.command[2:]))
    overrides = effective_overrides(request)
    wanted = Run({}, request.run_options, overrides, {}, False, request.yaml_path)
    wanted = configuration(wanted, 1, without={"pretrained"})
    found = finished_configuration(run.folder)
    start = found.pop("pretrained", None)
    differing = [
        key
        for key, value in wanted.items()
        if found.get(key, value) != value and not value.startswith(("!", "{"))
    ]
    if differing or (run.kind == "scratch") != (start == "null"):
        key = differing[0] if differing else "pretrained"
        raise UserError(
            f"'{run.folder}' is not a run of protocol {protocol.name} as it is now: its {key} is "
            f"{found.get(key, start)}; give another folder with --out, and run it again"
        )


def _read_run(run, command, record, test_sets):
    """The results of a run; its machine and utterances are added to the record."""
    history = EpochHistory(run.folder / "history.jsonl").records()
    trained = [epoch["train"] for epoch in history]
    conditions = conditions_of(run)
    found = {
        "mixer": run.mixer,
        "seed": run.seed,
        "kind": run.kind,
        "commit": git_revision(run.folder),
        "command": command,
        "machine": number_of(conditions["machine"], record["machines"]),
        "duration_s": int(training_time(run.folder / "log.txt").total_seconds()),
        "cpu_s": conditions["cpu_s"],
        "peak_memory_mib": round(max(epoch["peak_memory_mib"] for epoch in trained), 1),
        "audio_s_per_s": round(sum(e["audio_s_per_s"] for e in trained) / len(trained), 1),
        "num_steps": history[-1]["steps"],
        "curve": {
            "steps": [epoch["steps"] for epoch in history],
            **{key: [epoch["valid"].get(key) for epoch in history] for key in _CURVES[run.kind]},
        },
    }
    layers = run.folder / LAYERS_FILE
    if layers.is_file():
        lines = layers.read_text(encoding="utf-8").splitlines()
        found["layers"] = [json.loads(line) for line in (lines[0], lines[-1])]
    if run.kind != "pretraining" and test_sets:
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        found["results"] = {split: results[split]["no_lm"] for split in test_sets}
        found["edits"] = {split: _edits(run, split, record["utterances"]) for split in test_sets}
        chunks = {split: _with_chunks(run, split, results[split], record) for split in test_sets}
        if any(chunks.values()):
            found["chunks"] = chunks
    return found


def _with_chunks(run, split, results, record):
    """The results of the tests with dynamic chunks, by the label of the chunks."""
    labels = [label for label in results if read_chunk_label(label)]
    utterances = record["utterances"]
    return {
        label: {
            **results[label]["no_lm"],
            "edits": _edits(run, split, utterances, f"{split}_{label}"),
        }
        for label in labels
    }


def conditions_of(run: ReplicaRun) -> dict:
    """The machine and CPU time of a run; unknown if it was started by hand."""
    path = run.folder / CONDITIONS_FILE
    if not path.is_file():
        return {"machine": None, "cpu_s": None}
    return json.loads(path.read_text(encoding="utf-8"))


def number_of(machine: dict | None, machines: list) -> int | None:
    """The place of a machine in a record's list, to which it is added."""
    if machine is None:
        return None
    if machine not in machines:
        machines.append(machine)
    return machines.index(machine)


def _edits(run, split, utterances, name=None):
    """Edited words of each utterance of a test set that all runs share."""
    edits = read_word_edits(run.folder / f"wer_{name or split}_no_lm.txt")
    words = {key: edits[key][1] for key in sorted(edits)}
    same_utterances(split, words, utterances, f"'{run.folder}'")
    return [edits[key][0] for key in words]


def same_utterances(split: str, words: dict, utterances: dict, where: str) -> None:
    """Refuse a test on other utterances than those that a record has for it."""
    if utterances.setdefault(split, words) != words:
        raise UserError(
            f"{where} was tested on other utterances of {split} than the runs before it: "
            "run it again on the corpus of the protocol"
        )
