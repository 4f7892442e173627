"""What the finished runs of a replica have come to: one JSON file, from which all else follows."""

import json
from pathlib import Path

from speechbrain_pom.cli.summary import training_time
from speechbrain_pom.ctc.scoring import read_word_edits
from speechbrain_pom.errors import UserError
from speechbrain_pom.experiments.commands import format_command
from speechbrain_pom.experiments.records import RECORDS_FOLDER
from speechbrain_pom.experiments.replica import TEST_SETS, plan_runs, runs_folder
from speechbrain_pom.experiments.replica_runs import CONDITIONS_FILE
from speechbrain_pom.files import write_atomically
from speechbrain_pom.training.experiment import Experiment as Run
from speechbrain_pom.training.logs import EpochHistory
from speechbrain_pom.training.options import parse_command_line
from speechbrain_pom.training.run_folder import FINISHED_FILE, configuration, git_revision

# Of an epoch's validation, what a curve is drawn of.
_CURVES = {"pretraining": ("loss", "accuracy"), "finetuning": ("loss", "wer")}
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


def collect(protocol, folder):
    """Gather what the finished runs of a protocol have left.

    Arguments
    ---------
    protocol : Protocol
    folder : str
        Of the runs, as for `plan_runs`.

    Returns
    -------
    dict
        protocol, corpus; machines (hardware, runs side by side, threads, versions); utterances
        (test set to utterance id to number of words); missing (labels of the runs that are not
        finished); and runs: mixer, seed, kind, commit, command (in the default folder), machine
        (its number), duration_s (training), cpu_s (the whole recipe, with loading and tests),
        peak_memory_mib, audio_s_per_s, num_steps, curve (by step), and of fine-tuning results (as
        in results.json) and edits (test set to edited words of the utterances, in their order).

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
    for run in (run for chain in plan_runs(protocol, folder) for run in chain):
        if not (run.folder / FINISHED_FILE).is_file():
            record["missing"].append(run.label)
            continue
        _check_configuration(run, protocol)
        command = _in_default_folder(run.command, str(folder), runs_folder(protocol))
        record["runs"].append(_read_run(run, format_command(command), record))
    if not record["runs"]:
        raise UserError(
            f"no finished run of protocol {protocol.name} in '{folder}': make them with "
            f"`replica run {protocol.name}`, or give their folder with --out"
        )
    return record


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
    found = json.loads((run.folder / FINISHED_FILE).read_text(encoding="utf-8"))
    start = found.pop("pretrained", None)
    differing = [key for key in {**wanted, **found} if wanted.get(key) != found.get(key)]
    if differing or (run.kind == "scratch") != (start == "null"):
        key = differing[0] if differing else "pretrained"
        raise UserError(
            f"'{run.folder}' is no run of protocol {protocol.name} as it is now: its {key} is "
            f"{found.get(key, start)}; give another folder with --out, and run it again"
        )


def _read_run(run, command, record):
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
            **{key: [epoch["valid"][key] for epoch in history] for key in _CURVES[run.kind]},
        },
    }
    if run.kind != "pretraining":
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        facts["results"] = {split: results[split]["no_lm"] for split in TEST_SETS}
        facts["edits"] = {split: _edits(run, split, record["utterances"]) for split in TEST_SETS}
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
    if utterances.setdefault(split, words) != words:
        raise UserError(
            f"'{run.folder}' was tested on other utterances of {split} than the runs before it: "
            "run it again on the corpus of the protocol"
        )
    return [edits[key][0] for key in words]
