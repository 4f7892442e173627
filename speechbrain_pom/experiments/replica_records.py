"""What the finished runs of a replica have come to: one JSON file, from which all else follows."""

import json
from pathlib import Path

from speechbrain_pom.cli.summary import training_time
from speechbrain_pom.ctc.scoring import read_word_edits
from speechbrain_pom.experiments.commands import format_command
from speechbrain_pom.experiments.records import RECORDS_FOLDER
from speechbrain_pom.experiments.replica import plan_runs, runs_folder
from speechbrain_pom.experiments.replica_runs import CONDITIONS_FILE
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.folder import git_revision
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.runs.record import finished_configuration
from speechbrain_pom.training.layer_statistics import LAYERS_FILE
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

# Of an epoch's validation, what a curve is drawn of.
_CURVES = {"pretraining": ("loss", "accuracy"), "finetuning": ("loss", "wer", "blank_share")}
_CURVES["scratch"] = _CURVES["finetuning"]


def record_path(protocol, folder=RECORDS_FOLDER):
    """The file of a protocol's results.

    Arguments
    ---------
    protocol : Protocol
    folder : str or pathlib.Path

    Returns
    -------
    pathlib.Path

    Example
    -------
    >>> from speechbrain_pom.experiments.replica import find_protocol
    >>> record_path(find_protocol("small")).name
    'replica_small.json'
    """
    return Path(folder) / f"replica_{protocol.name}.json"


def collect(protocol, folder, former=None):
    """Gather what the finished runs of a protocol have left.

    Arguments
    ---------
    protocol : Protocol
    folder : str
        Of the runs, as for `plan_runs`.
    former : dict, optional
        An earlier record: its runs are kept where the folder has none, as far as they were made
        by the same command.

    Returns
    -------
    dict
        protocol, corpus; machines (hardware, runs side by side, threads, versions); utterances
        (test set to utterance id to number of words); missing (labels of the runs that are not
        finished); and runs: mixer, seed, kind, commit, command (in the default folder), machine
        (its number), duration_s (training), cpu_s (the whole recipe, with loading and tests),
        peak_memory_mib, audio_s_per_s, num_steps, curve (by step), layers (where the recipe kept
        statistics of them, the first and the last), and of fine-tuning results (as in
        results.json) and edits (test set to edited words of the utterances, in their order).

    Raises
    ------
    UserError
        If no run is finished, one is of another protocol, or runs were tested on different
        utterances.
    """
    record = {
        "protocol": protocol.name,
        "corpus": protocol.corpus,
        "machines": [],
        "utterances": {},
        "missing": [],
        "runs": [],
    }
    kept = _by_command(former)
    for run in (run for chain in plan_runs(protocol, folder) for run in chain):
        command = recorded_command(run, protocol, folder)
        if finished_configuration(run.folder) is not None:
            _check_configuration(run, protocol)
            record["runs"].append(_read_run(run, command, record, protocol.test_sets))
        elif command in kept:
            record["runs"].append(_keep_run(kept[command], former, record))
        else:
            record["missing"].append(run.label)
    if not record["runs"]:
        raise UserError(
            f"no finished run of protocol {protocol.name} in '{folder}': make them with "
            f"`replica run {protocol.name}`, or give their folder with --out"
        )
    return record


def recorded_command(run, protocol, folder):
    """The command of a run as it stands in a record: without the paths of a machine.

    Arguments
    ---------
    run : speechbrain_pom.experiments.replica.ReplicaRun
        Planned with the default data folder.
    protocol : Protocol
    folder : str
        Of the runs.

    Returns
    -------
    str
    """
    return format_command(_in_default_folder(run.command, str(folder), runs_folder(protocol)))


def left_to_run(chains, protocol, folder, record):
    """The chains that have a run which a record lacks.

    Arguments
    ---------
    chains : list of list of ReplicaRun
        Planned with the default data folder.
    protocol : Protocol
    folder : str
        Of the runs.
    record : dict or None

    Returns
    -------
    list of bool
        For each chain.
    """
    kept = _by_command(record)
    return [any(recorded_command(run, protocol, folder) not in kept for run in c) for c in chains]


def _by_command(record):
    return {run["command"]: run for run in (record or {"runs": []})["runs"]}


def _keep_run(run, former, record):
    """A run of an earlier record, whose machine and utterances go into the new one."""
    machine = None if run["machine"] is None else former["machines"][run["machine"]]
    for split, words in former["utterances"].items():
        _same_utterances(split, words, record["utterances"], "the earlier record")
    return {**run, "machine": _number_of(machine, record["machines"])}


def write_record(record, path):
    """Write a record, each run in a line of its own.

    Arguments
    ---------
    record : dict
        From `collect`.
    path : str or pathlib.Path
    """
    fields = [f"{json.dumps(key)}: {_lines(value)}" for key, value in record.items()]
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "{\n" + ",\n".join(fields) + "\n}\n")


def read_record(path):
    """A record that was written, or None where there is none.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    dict or None
    """
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _lines(value):
    """JSON; of a list of dicts one line for each."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n]"
    return json.dumps(value, ensure_ascii=False)


def _in_default_folder(command, folder, default):
    """A command whose paths are not those of this machine."""
    prefix = f"{folder}/"
    return [
        f"{default}/{word[len(prefix) :]}" if word.startswith(prefix) else word for word in command
    ]


def _check_configuration(run, protocol):
    """Refuse what was run with other options than the protocol's now are."""
    request = parse_command_line(list(run.command[2:]))
    wanted = Run({}, request.run_options, request.overrides, {}, False, request.yaml_path)
    wanted = configuration(wanted, 1, without={"pretrained"})
    found = finished_configuration(run.folder)
    start = found.pop("pretrained", None)
    differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    if differing or (run.kind == "scratch") != (start == "null"):
        key = differing[0] if differing else "pretrained"
        raise UserError(
            f"'{run.folder}' is no run of protocol {protocol.name} as it is now: its {key} is "
            f"{found.get(key, start)}; give another folder with --out, and run it again"
        )


def _read_run(run, command, record, test_sets):
    """The figures of a run; its machine and utterances go into the record."""
    history = EpochHistory(run.folder / "history.jsonl").records()
    trained = [epoch["train"] for epoch in history]
    conditions = _conditions(run)
    facts = {
        "mixer": run.mixer,
        "seed": run.seed,
        "kind": run.kind,
        "commit": git_revision(run.folder),
        "command": command,
        "machine": _number_of(conditions["machine"], record["machines"]),
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
        facts["layers"] = [json.loads(line) for line in (lines[0], lines[-1])]
    if run.kind != "pretraining" and test_sets:
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        facts["results"] = {split: results[split]["no_lm"] for split in test_sets}
        facts["edits"] = {split: _edits(run, split, record["utterances"]) for split in test_sets}
    return facts


def _conditions(run):
    """What `replica run` has noted; nothing is known of a run that was started by hand."""
    path = run.folder / CONDITIONS_FILE
    if not path.is_file():
        return {"machine": None, "cpu_s": None}
    return json.loads(path.read_text(encoding="utf-8"))


def _number_of(machine, machines):
    if machine is None:
        return None
    if machine not in machines:
        machines.append(machine)
    return machines.index(machine)


def _edits(run, split, utterances):
    """Edited words of each utterance of a test set, which all runs share."""
    edits = read_word_edits(run.folder / f"wer_{split}_no_lm.txt")
    words = {key: edits[key][1] for key in sorted(edits)}
    _same_utterances(split, words, utterances, f"'{run.folder}'")
    return [edits[key][0] for key in words]


def _same_utterances(split, words, utterances, where):
    if utterances.setdefault(split, words) != words:
        raise UserError(
            f"{where} was tested on other utterances of {split} than the runs before it: "
            "run it again on the corpus of the protocol"
        )
