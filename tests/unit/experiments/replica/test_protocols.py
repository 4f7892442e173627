"""Protocols of the scaled replica: equal sizes, equal options, and their commands."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

import speechbrain_pom
from experiments.replica.protocols import (
    find_protocol,
    load_protocols,
    plan_runs,
    runs_folder,
    speech_folder,
)
from experiments.replica.records import read_record, record_path
from experiments.replica.report import update_document
from experiments.replica.validation import best_cells
from speechbrain_pom.runs.options import parse_command_line
from tests.helpers import ROOT

TOLERANCE = 0.03
# A grid has the mixers of another protocol.
WHOLE = {name: found for name, found in load_protocols().items() if not found.grid}
MIXERS = [(name, mixer) for name, found in WHOLE.items() for mixer in found.mixers]


@pytest.fixture(autouse=True)
def in_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)
    yield
    if "StudyPoM" in speechbrain_pom.attention_types():  # a command of the study registers it
        speechbrain_pom.unregister_attention("StudyPoM")


def requests_of(protocol, mixer, seed, **kwargs):
    """Kind to what the recipe understands of its command."""
    chains = plan_runs(protocol, mixers=[mixer], seeds=[seed], **kwargs)
    return {
        run.kind: parse_command_line(list(run.command[2:])) for chain in chains for run in chain
    }


def count(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


@pytest.mark.parametrize(("name", "mixer"), MIXERS)
def test_parameters_of_a_mixer(name, mixer):
    protocol = find_protocol(name)
    request = requests_of(protocol, mixer, protocol.seeds[0])["pretraining"]
    with open(request.yaml_path, encoding="utf-8") as stream, torch.device("meta"):
        built = load_hyperpyyaml(stream, request.overrides)
    counts = [count(built["Transformer"]), count(built["encoder"], built["linear"])]
    assert counts == protocol.mixers[mixer]["parameters"]
    if protocol.mixers[mixer].get("other_size"):
        return
    for number, of_pom in zip(counts, protocol.mixers["PoM"]["parameters"], strict=True):
        assert abs(number / of_pom - 1) <= TOLERANCE


@pytest.mark.parametrize("name", ["small", "large"])
def test_mixers_differ_in_spec_and_width_alone(name):
    protocol = find_protocol(name)
    found = {mixer: requests_of(protocol, mixer, 2) for mixer in ("PoM", "SummaryMixing")}
    different = {"attention_type", "d_model", "output_folder", "pretrained"}
    for kind in ("pretraining", "finetuning", "scratch"):
        first, second = ({**found[m][kind].overrides} for m in found)
        models = [run.pop("architecture_overrides", run) for run in (first, second)]
        if kind != "finetuning":  # which starts from the pretrained model
            assert models[0]["d_model"] == protocol.mixers["PoM"]["d_model"]
            assert models[1]["attention_type"].startswith("SummaryMixing(")
        assert first["seed"] == 2
        assert first["data_folder"] == f"{runs_folder(protocol)}/corpus"
        for key in different:
            first.pop(key, None)
            second.pop(key, None)
        assert first == second


def test_fine_tuning_differs_in_its_start_alone():
    found = requests_of(find_protocol("small"), "hypermixing", 3, folder="out")
    first, second = (found[kind].overrides for kind in ("finetuning", "scratch"))
    assert first.pop("pretrained") == "out/hypermixing/3/pretraining"
    assert second.pop("pretrained") is None
    assert first.pop("output_folder") == "out/hypermixing/3/finetuning"
    assert second.pop("output_folder") == "out/hypermixing/3/scratch"
    assert second.pop("architecture") == "hparams/pom.yaml"
    model = second.pop("architecture_overrides")
    assert first == second
    assert model.items() <= found["pretraining"].overrides.items()
    assert {"attention_type", "d_model", "d_ffn", "num_encoder_layers"} <= model.keys()
    assert found["pretraining"].overrides["output_folder"] == "out/hypermixing/3/pretraining"


def test_runs_come_seed_by_seed_and_pretraining_first():
    protocol = find_protocol("small")
    chains = plan_runs(protocol, mixers=["regularMHA", "PoM"], seeds=[3, 1])
    kinds = [["pretraining", "finetuning"], ["scratch"]]
    assert [[run.kind for run in chain] for chain in chains] == 4 * kinds
    assert [(c[0].seed, c[0].mixer) for c in chains[::2]] == [
        (1, "PoM"),
        (1, "regularMHA"),
        (3, "PoM"),
        (3, "regularMHA"),
    ]
    assert chains[0][1].label == "PoM, seed 1, finetuning"
    some = plan_runs(protocol, seeds=[1], kinds=["scratch", "finetuning"])
    assert [[run.kind for run in chain] for chain in some[:2]] == [["finetuning"], ["scratch"]]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"mixers": ["LSTM"]}, "mixer 'LSTM' is not of protocol small: it has PoM, RelPosMHAXL, r"),
        ({"mixers": ["RelPosMHA"]}, "not of protocol small: did you mean RelPosMHAXL? it has PoM"),
        ({"seeds": [7]}, "seed '7' is not of protocol small: it has 1, 2, 3"),
        ({"kinds": ["scrach"]}, "kind 'scrach' is not of protocol small: did you mean scratch? "),
    ],
)
def test_what_is_not_of_the_protocol_is_refused(choice, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        plan_runs(find_protocol("small"), **choice)


def test_protocols_that_do_not_exist():
    with pytest.raises(ValueError, match="unknown protocol 'smal': choose one of small, large, re"):
        find_protocol("smal")
    with pytest.raises(ValueError, match=r"no such file of protocols: '/nowhere\.yaml'"):
        load_protocols("/nowhere.yaml")


OWN = """
base:
  hardware: any
  jobs: 1
  corpus: {files: [own.csv]}
  seeds: [1, 2]
  options: {nhead: 4}
  pretraining: {lr: 1}
  finetuning: {lr: 2, test_csv: own.csv}
  test_sets: [own]
  tuned_by: tuning
  choice: {PoM: fast}
  mixers:
    PoM: {attention_type: PoM, d_model: 16, parameters: [1, 1], options: {dropout: 0.2}}
    Fastformer: {attention_type: Fastformer, d_model: 16, parameters: [1, 1]}
tuning:
  like: base
  choice: {}
  seeds: [1]
  kinds: [pretraining, finetuning]
  test_sets: []
  grid:
    slow: {pretraining: {lr: 0.1}}
    fast: {pretraining: {lr: 0.9}, finetuning: {lr_encoder: 0.7}}
heads:
  like: base
  choice: {}
  seeds: [1]
  grid:
    as it is: {}
    slow head: {finetuning: {lr: 0.1}}
    wide: {options: {nhead: 8}}
"""


@pytest.fixture
def own(tmp_path):
    """Protocols of one's own, one of which tunes another."""
    (tmp_path / "own.yaml").write_text(OWN)
    return load_protocols(tmp_path / "own.yaml")


def test_a_grid_runs_each_mixer_with_each_cell_and_no_test(own):
    chains = plan_runs(own["tuning"])
    labels = [f"{mixer}, {cell}" for mixer in ("PoM", "Fastformer") for cell in ("slow", "fast")]
    assert [[run.mixer for run in chain] for chain in chains] == [[label] * 2 for label in labels]
    found = requests_of(own["tuning"], "Fastformer, fast", 1)
    assert found["pretraining"].overrides["lr"] == 0.9
    assert found["finetuning"].overrides["lr"] == 2
    assert found["finetuning"].overrides["lr_encoder"] == 0.7
    assert found["finetuning"].overrides["test_csv"] is None
    assert (
        found["pretraining"].overrides["output_folder"].endswith("/Fastformer_fast/1/pretraining")
    )


def test_cells_that_differ_in_fine_tuning_alone_share_a_pretraining(own):
    chains = plan_runs(own["heads"], folder="out", mixers=["PoM, as it is", "PoM, slow head"])
    shared, *scratch = chains
    assert [(run.mixer, run.kind) for run in shared] == [
        ("PoM, as it is", "pretraining"),
        ("PoM, as it is", "finetuning"),
        ("PoM, slow head", "finetuning"),
    ]
    assert [[run.mixer for run in chain] for chain in scratch] == [
        ["PoM, as it is"],
        ["PoM, slow head"],
    ]
    requests = [parse_command_line(list(run.command[2:])).overrides for run in shared]
    assert requests[0]["output_folder"] == "out/PoM_as_it_is/1/pretraining"
    assert [one["pretrained"] for one in requests[1:]] == 2 * ["out/PoM_as_it_is/1/pretraining"]
    assert [one["output_folder"] for one in requests[1:]] == [
        "out/PoM_as_it_is/1/finetuning",
        "out/PoM_slow_head/1/finetuning",
    ]
    assert [one["lr"] for one in requests[1:]] == [2, 0.1]
    # One cell alone is planned as among the others: its pretraining is where they look for it.
    (alone, _) = plan_runs(own["heads"], folder="out", mixers=["PoM, slow head"])
    assert alone == [shared[0], shared[2]]
    # Another model has a pretraining of its own, and so has another mixer.
    labels = [chain[0].mixer for chain in plan_runs(own["heads"], kinds=["pretraining"])]
    assert labels == ["PoM, as it is", "PoM, wide", "Fastformer, as it is", "Fastformer, wide"]


def test_the_choice_is_run_and_tested(own):
    assert list(own["base"].mixers) == ["PoM"]  # nothing is chosen for the other one yet
    found = requests_of(own["base"], "PoM", 2)
    assert set(found) == {"pretraining", "finetuning", "scratch"}
    assert found["pretraining"].overrides["lr"] == 0.9
    assert found["pretraining"].overrides["dropout"] == 0.2
    assert found["scratch"].overrides["lr_encoder"] == 0.7
    assert found["finetuning"].overrides["test_csv"] == "own.csv"
    assert found["finetuning"].overrides["data_folder"] == "$SPEECHBRAIN_POM_SPEECH"


def test_recordings_that_are_not_there(own, tmp_path, monkeypatch):
    monkeypatch.delenv("SPEECHBRAIN_POM_SPEECH", raising=False)
    message = r"protocol base needs recordings \(own\.csv\): give their folder by --speech or the e"
    with pytest.raises(ValueError, match=message):
        speech_folder(own["base"])
    monkeypatch.setenv("SPEECHBRAIN_POM_SPEECH", "/nowhere")
    with pytest.raises(ValueError, match=r"'/nowhere' has no own\.csv, which protocol base needs:"):
        speech_folder(own["base"])
    (tmp_path / "own.csv").touch()
    assert speech_folder(own["base"], tmp_path) == str(tmp_path)


@pytest.mark.parametrize("name", [name for name, found in load_protocols().items() if found.choice])
def test_what_was_chosen_was_best_in_tuning(name):
    protocol = find_protocol(name)
    tuning = find_protocol(protocol.tuned_by)
    best = best_cells(read_record(ROOT / record_path(tuning)), tuning)
    assert protocol.choice == {mixer: best[mixer] for mixer in protocol.choice}


def test_the_document_is_what_the_records_say():
    assert update_document(check=True), "run `python -m experiments.replica report small`"
