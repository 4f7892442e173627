"""The results of the finished downstream runs: one JSON file, from which the table is computed."""

import json
import shlex
from pathlib import Path

from experiments.downstream.protocols import DATA_FOLDER, Protocol, plan_tasks, runs_folder
from experiments.records import RECORDS_FOLDER
from experiments.replica.protocols import ReplicaRun
from experiments.replica.records import (
    conditions_of,
    number_of,
    options_of,
    recorded_command,
    same_utterances,
)
from speechbrain_pom.reports.comparison import read_runs
from speechbrain_pom.reports.encoders import tested_results
from speechbrain_pom.runs.documents import git_revision
from speechbrain_pom.runs.record import finished_configuration
from speechbrain_pom.utils.errors import UserError


def record_path(protocol: Protocol, folder: str | Path = RECORDS_FOLDER) -> Path:
    """The file of a protocol's results."""
    return Path(folder) / f"downstream_{protocol.name}.json"


def collect(protocol: Protocol, folder: str | Path, former: dict | None = None) -> dict:
    """The record of the finished downstream runs of a protocol in a folder.

    Runs of an earlier record are kept where the folder has none. The record has `protocol`;
    `machines`; `utterances` (task to utterance id to words, or to 1); `missing` (labels); and
    `runs`: upstream, task, seed, commit, command (as in the default folder), machine (its number),
    cpu_s, metric, unit, value, low, high, layer_weights and, if utterances are counted, their
    errors in the order of `utterances`.
    """
    names = ("machines", "utterances", "missing", "runs")
    record = {"protocol": protocol.name, **{n: {} if n == "utterances" else [] for n in names}}
    for run in (run for chain in plan_tasks(protocol, folder, DATA_FOLDER) for run in chain):
        if finished_configuration(run.folder) is not None:
            record["runs"].append(_read_run(run, protocol, folder, record))
        elif kept := recorded_run(run, former):
            machine = None if kept["machine"] is None else former["machines"][kept["machine"]]
            if run.kind in former["utterances"]:
                words = former["utterances"][run.kind]
                same_utterances(run.kind, words, record["utterances"], "the earlier record")
            record["runs"].append({**kept, "machine": number_of(machine, record["machines"])})
        else:
            record["missing"].append(run.label)
    if not record["runs"]:
        raise UserError(
            f"no finished run of protocol {protocol.name} in '{folder}': make them with "
            f"`python -m experiments.downstream run {protocol.name}`, or give their folder by --out"
        )
    return record


def recorded_run(run: ReplicaRun, record: dict | None) -> dict | None:
    """A run as it stands in a record, if it was made with the same options."""
    key = (run.mixer, run.seed, run.kind)
    for one in (record or {"runs": []})["runs"]:
        same = (one["upstream"], one["seed"], one["task"]) == key
        if same and options_of(shlex.split(one["command"])) == options_of(run.command):
            return one
    return None


def _read_run(run, protocol, folder, record):
    tested = read_runs([str(run.folder)])[0]
    found = list(tested_results(run.folder, tested).values())
    if len(found) != 1:
        raise UserError(
            f"'{run.folder}' has {len(found)} results: a task of a protocol has one test set"
        )
    result, conditions = found[0], conditions_of(run)
    stored = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    entry = {
        "upstream": run.mixer,
        "task": run.kind,
        "seed": run.seed,
        "commit": git_revision(run.folder),
        "command": recorded_command(run, folder, runs_folder(protocol)),
        "machine": number_of(conditions["machine"], record["machines"]),
        "cpu_s": conditions["cpu_s"],
        "metric": result.metric.name,
        "label": result.metric.label,
        "unit": result.metric.unit,
        "value": result.value,
        "low": result.low,
        "high": result.high,
        "layer_weights": stored["layer_weights"],
    }
    if result.counts is not None:
        chances = {key: result.counts[key][1] for key in sorted(result.counts)}
        same_utterances(run.kind, chances, record["utterances"], f"'{run.folder}'")
        entry["errors"] = [result.counts[key][0] for key in chances]
    return entry
