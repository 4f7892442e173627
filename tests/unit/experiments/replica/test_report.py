"""Results of a replica: gathered from made-up runs, over the seeds, in the document, drawn."""

import json
import re
from dataclasses import replace

import pytest

from experiments.replica import statistics
from experiments.replica.figure import draw_replica
from experiments.replica.protocols import find_protocol, load_protocols, plan_runs
from experiments.replica.records import (
    collect,
    left_to_run,
    read_record,
    record_path,
    write_record,
)
from experiments.replica.report import (
    BEGIN,
    END,
    picture_paths,
    render_section,
    update_document,
)
from experiments.replica.statistics import (
    difference,
    error_rate,
    mean_of,
    pairs_of_mixers,
)
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.experiment import Experiment as Run
from speechbrain_pom.runs.experiment import effective_overrides
from speechbrain_pom.runs.logs import EpochHistory
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.runs.record import record_run
from tests.helpers import ROOT

REFERENCES = ["ONE TWO THREE FOUR"] * 20
MACHINE = {"hardware": "an abacus", "jobs": 2, "threads": 1, "versions": {"torch": "2.11"}}


@pytest.fixture(autouse=True)
def few_trials(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(statistics, "NUM_BOOTSTRAP", 40)
    monkeypatch.setattr(statistics, "NUM_RANDOMISATIONS", 400)


@pytest.fixture(scope="module")
def protocol():
    """Of two mixers and two seeds."""
    small = find_protocol("small")
    mixers = {name: small.mixers[name] for name in ("PoM", "regularMHA")}
    return replace(small, mixers=mixers, seeds=[1, 2])


def num_wrong(run):
    """How many of 20 utterances a run gets wrong: PoM none with seed 1 and 4 with seed 2."""
    return {"PoM": 0, "regularMHA": 8}[run.mixer] + 4 * (run.seed - 1) + 6 * (run.kind == "scratch")


def write_run(run, utterances=20):
    """One finished run as the recipe leaves it."""
    run.folder.mkdir(parents=True)
    request = parse_command_line(list(run.command[2:]))
    overrides = effective_overrides(request)
    begun = Run({}, request.run_options, overrides, {}, False, request.yaml_path)
    record_run(run.folder, finished=configuration(begun, 1))
    (run.folder / "conditions.json").write_text(json.dumps({"machine": MACHINE, "cpu_s": 240.0}))
    (run.folder / "env.log").write_text("====\nGit revision:\nabc1234\n====\n")
    (run.folder / "log.txt").write_text(
        "2026-01-01 10:00:00,000 - quirks - INFO - Applied quirks (see ...): []\n"
        "2026-01-01 10:03:00,000 - train - INFO - done\n"
    )
    history = EpochHistory(run.folder / "history.jsonl")
    for epoch in (1, 2):
        train = {"loss": 5.0, "audio_s_per_s": 40.0 * epoch, "peak_memory_mib": 100.0 * epoch}
        valid = {
            "loss": 4.0 / epoch,
            "accuracy": 0.5,
            "wer": 50.0 / epoch,
            "blank_share": 1.0 / epoch,
        }
        history.append({"epoch": epoch, "steps": 9 * epoch, "train": train, "valid": valid})
    if run.kind == "pretraining":
        return
    results = {}
    for split in ("test-clean", "test-other"):
        rates, wrong = ErrorRates(), num_wrong(run)
        texts = ["ONE TWO THREE TEN"] * wrong + REFERENCES[wrong:]
        ids = [f"u{i:02d}" for i in range(utterances)]
        rates.append(ids, texts[:utterances], REFERENCES[:utterances])
        rates.write(run.folder / f"wer_{split}_no_lm.txt")
        results[split] = {"no_lm": rates.summary(10)}
    (run.folder / "results.json").write_text(json.dumps(results))


@pytest.fixture(scope="module")
def folder(protocol, tmp_path_factory):
    """All runs of the protocol but one."""
    folder = tmp_path_factory.mktemp("replica")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        for chain in plan_runs(protocol, folder):
            for run in chain:
                if (run.mixer, run.seed, run.kind) != ("regularMHA", 2, "scratch"):
                    write_run(run)
    return folder


@pytest.fixture(scope="module")
def record_file(protocol, folder, tmp_path_factory):
    path = record_path(protocol, tmp_path_factory.mktemp("record") / "results")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        write_record(collect(protocol, folder), path)
    return path


@pytest.fixture
def record(record_file):
    """As it is read from its file; the tests may change it."""
    return read_record(record_file)


def test_a_record_has_what_the_runs_left(record, folder, protocol):
    assert record["missing"] == ["regularMHA, seed 2, scratch"]
    assert len(record["runs"]) == 11
    assert record["machines"] == [MACHINE]
    assert record["corpus"] == protocol.corpus
    run = next(run for run in record["runs"] if run["kind"] == "finetuning" and run["seed"] == 2)
    assert (run["mixer"], run["commit"], run["duration_s"]) == ("PoM", "abc1234", 180)
    assert (run["peak_memory_mib"], run["audio_s_per_s"], run["num_steps"]) == (200.0, 60.0, 18)
    assert run["curve"] == {
        "steps": [9, 18],
        "loss": [4.0, 2.0],
        "wer": [50.0, 25.0],
        "blank_share": [1.0, 0.5],
    }
    assert run["edits"]["test-other"] == [1] * 4 + [0] * 16
    assert run["results"]["test-clean"]["wer"] == 5.0
    assert record["utterances"]["test-clean"]["u07"] == 4
    assert run["command"].startswith("python recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml")
    assert "--data_folder results/replica/small/corpus" in run["command"]
    assert str(folder) not in json.dumps(record)


def test_figures_over_the_seeds(record):
    rate = error_rate(record, "PoM", "finetuning", "test-clean")
    assert (rate.mean, rate.seeds) == (2.5, [0.0, 5.0])
    assert rate.low < rate.mean < rate.high
    found = difference(record, ("PoM", "finetuning"), ("regularMHA", "finetuning"), "test-clean")
    assert (found.difference, found.num_better, found.num_worse) == (-10.0, 12, 0)
    # Of the scratch runs of regularMHA seed 2 is missing, so that seed 1 alone is compared.
    found = difference(
        record, ("regularMHA", "finetuning"), ("regularMHA", "scratch"), "test-other"
    )
    assert (found.difference, found.num_better) == (-7.5, 6)
    ((first, second, found),) = pairs_of_mixers(
        record, ["PoM", "regularMHA", "hypermixing"], "finetuning", "test-clean"
    )
    assert (first, second) == ("PoM", "regularMHA")
    assert mean_of(record, "PoM", "pretraining", "duration_s") == 180
    assert mean_of(record, "PoM", "pretraining", "cpu_s") == 240
    assert mean_of(record, "hypermixing", "pretraining", "duration_s") is None


def test_the_document(protocol, record, tmp_path):
    text = render_section(protocol, record)
    cells = ["2", "2.000 (2.000, 2.000)", "50.0 (50.0, 50.0)", "25.00 (25.00, 25.00)"]
    row = re.search(r"\| PoM +\|(.*)\|", text)[1].split("|")
    assert [cell.strip() for cell in row[:4]] == cells
    rows = [line for line in text.splitlines() if line.startswith("| PoM ") and "1,268" in line]
    assert re.search(r"\| 96 +\| 1,268,864 +\| 2\.50 \(.* to .*; 0\.00, 5\.00\)", rows[0])
    assert "| PoM - regularMHA | -10.00 " in text
    assert "Not finished: regularMHA, seed 2, scratch." in text
    assert "an abacus; 2 at a time with 1 threads each; torch 2.11" in text
    assert "![Error rates and learning curves](replica_small.png)" in text

    document = tmp_path / "replica.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert not update_document(document, tmp_path, check=True)
    assert "old" in document.read_text()
    assert not update_document(document, tmp_path)
    assert update_document(document, tmp_path, check=True)
    written = document.read_text()
    assert written.startswith(f"before\n{BEGIN}\n\n### Protocol `small`: 2 CPU cores\n")
    assert written.endswith(f"{END}\nafter\n")
    assert written.count("Not run yet.") == len(load_protocols())
    assert "python -m experiments.replica run large\n" in written

    document.write_text("no markers")
    with pytest.raises(ValueError, match=r"replica\.md' has no lines '<!-- REPLICA: .* to write"):
        update_document(document, tmp_path)


def add_chunks(run, label, wrong, **chunk):
    """Tests with chunks beside those of a run that `write_run` wrote."""
    path = run.folder / "results.json"
    results = json.loads(path.read_text())
    for split, found in results.items():
        rates = ErrorRates()
        texts = ["ONE TWO THREE TEN"] * wrong + REFERENCES[wrong:]
        rates.append([f"u{i:02d}" for i in range(20)], texts, REFERENCES)
        rates.write(run.folder / f"wer_{split}_{label}_no_lm.txt")
        found[label] = {"no_lm": {**rates.summary(10), **chunk}}
    path.write_text(json.dumps(results))


def test_error_rates_by_chunk(protocol, tmp_path):
    """Over the seeds; the recipe's own values of streaming are those of the protocol's runs."""
    options = {**protocol.options, "streaming": True}
    streaming = replace(protocol, options=options, kinds=["pretraining", "finetuning"])
    for chain in plan_runs(streaming, tmp_path):
        for run in chain:
            write_run(run)
        add_chunks(chain[1], "chunk16", 4, chunk_frames=16, left_chunks=None, chunk_s=0.64)
        if chain[1].mixer == "PoM":
            add_chunks(chain[1], "chunk8_left2", 8, chunk_frames=8, left_chunks=2, chunk_s=0.32)
    record = collect(streaming, tmp_path)
    rate = error_rate(record, "PoM", "finetuning", "test-clean", "chunk8_left2")
    assert (rate.mean, rate.seeds) == (10.0, [10.0, 10.0])
    assert error_rate(record, "regularMHA", "finetuning", "test-clean", "chunk8_left2") is None
    text = render_section(streaming, record)
    assert "WER (%) on test-other by chunk size and left context" in text
    rows = text.split("| chunk ")[1].splitlines()
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:5]]
    assert [row[:2] for row in cells] == [
        ["full context", ""],
        ["0.64 s (16 frames)", "all"],
        ["0.32 s (8 frames)", "0.64 s (2 chunks)"],
    ]
    assert [row[2].split(" ")[0] for row in cells] == ["2.50", "5.00", "10.00"]
    assert cells[2][3] == ""


def test_pictures(protocol, record, tmp_path):
    paths = picture_paths(protocol, tmp_path)
    draw_replica(record, protocol, paths)
    png, svg = (path.read_bytes() for path in paths)
    assert png[1:4] == b"PNG"
    assert b"<svg" in svg
    draw_replica(record, protocol, paths)
    assert [path.read_bytes() for path in paths] == [png, svg]
    record["runs"][1]["edits"]["test-clean"][-1] = 4
    draw_replica(record, protocol, paths)
    assert paths[0].read_bytes() != png


def test_the_picture_of_pretraining_alone_has_a_row_for_each_mixer(protocol, record, tmp_path):
    _, path = picture_paths(protocol, tmp_path)
    draw_replica(record, replace(protocol, kinds=["pretraining"], test_sets=[]), [path])
    text = path.read_text()
    for label in ("PoM", "regularMHA", "masked loss (nats)"):
        assert f"<!-- {label} -->" in text
    assert "<!-- WER (%) -->" not in text


def test_mixers_that_share_a_pretraining_are_all_named_in_the_picture(protocol, record, tmp_path):
    _, path = picture_paths(protocol, tmp_path)
    one = ("regularMHA", "pretraining")
    runs = [run for run in record["runs"] if (run["mixer"], run["kind"]) != one]
    draw_replica({**record, "runs": runs}, replace(protocol, test_sets=[]), [path])
    assert "<!-- regularMHA -->" in path.read_text()


def test_runs_that_do_not_belong_together_are_refused(protocol, folder, tmp_path):
    message = r"no finished run of protocol small in '.*': make them with `python -m exp"
    with pytest.raises(ValueError, match=message):
        collect(protocol, tmp_path / "nowhere")
    longer = {**protocol.pretraining, "optimizer_step_limit": 10**6}
    message = (
        r"pretraining' is not a run of protocol small as it is now: its optimizer_step_limit is "
        "700; give another folder with --out, and run it again"
    )
    with pytest.raises(ValueError, match=message):
        collect(replace(protocol, pretraining=longer), folder)
    one, other = plan_runs(protocol, tmp_path, ["PoM"])[0:3:2]
    write_run(one[1])
    write_run(other[1], utterances=19)
    with pytest.raises(ValueError, match="was tested on other utterances of test-clean than the r"):
        collect(protocol, tmp_path)


def test_runs_of_an_earlier_record_are_kept(protocol, folder, record, tmp_path):
    """A machine that has only the seed 2 adds to what another one recorded."""
    (chain,) = plan_runs(protocol, tmp_path, ["regularMHA"], [2])[1:]
    write_run(chain[0])
    merged = collect(protocol, tmp_path, record)
    assert merged["missing"] == []
    assert len(merged["runs"]) == 12
    same = [run for run in merged["runs"] if run["kind"] != "scratch"]
    assert same == [run for run in record["runs"] if run["kind"] != "scratch"]
    chains = plan_runs(protocol, tmp_path)
    assert left_to_run(chains, merged) == [False] * len(chains)
    assert left_to_run(chains, record).count(True) == 1
    assert left_to_run(chains, None) == [True] * len(chains)
    others = {**record, "utterances": {"test-clean": {"u00": 4}}}
    message = "was tested on other utterances of test-clean than the runs before it"
    with pytest.raises(ValueError, match=message):
        collect(protocol, tmp_path, others)


def test_runs_are_kept_although_their_command_changed(protocol, folder, record, tmp_path):
    """An hparams file lost keys, and files moved; but other values are other runs."""
    chains = plan_runs(protocol, tmp_path)
    for run in record["runs"]:
        run["command"] = run["command"].replace(" hparams/", " --number_of_heads 4 hparams/")
        run["command"] = run["command"].replace("--data_folder results", "--data_folder /elsewhere")
    assert left_to_run(chains, record) == left_to_run(chains, collect(protocol, folder))
    longer = {**protocol.finetuning, "optimizer_step_limit": 10**6}
    chains = plan_runs(replace(protocol, finetuning=longer), tmp_path)
    assert left_to_run(chains, record) == [True] * len(chains)
    more = {**protocol.pretraining, "mask_prob": 0.5}
    chains = plan_runs(replace(protocol, pretraining=more), tmp_path)
    assert left_to_run(chains, record).count(True) == len(chains) // 2 + 1


@pytest.mark.parametrize("name", load_protocols())
def test_the_committed_records_are_those_of_the_protocols(name):
    """No run that is recorded would be run again."""
    protocol = find_protocol(name)
    committed = read_record(record_path(protocol))
    if committed is None:
        pytest.skip("not run yet")
    recorded = {(run["mixer"], run["seed"], run["kind"]) for run in committed["runs"]}
    chains = plan_runs(protocol)
    assert left_to_run(chains, committed) == [
        not all((run.mixer, run.seed, run.kind) in recorded for run in chain) for chain in chains
    ]
    assert recorded
