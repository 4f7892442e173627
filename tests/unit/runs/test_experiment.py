"""What the YAML says is what runs: overrides, demo, placeholders, sources and the table."""

import os
import re
from fractions import Fraction

import pytest
import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from speechbrain_pom.runs.configuration import configuration
from speechbrain_pom.runs.documents import resolved_yaml
from speechbrain_pom.runs.experiment import load_experiment
from speechbrain_pom.runs.options import parse_command_line
from speechbrain_pom.runs.report import describe, effective_run_options
from speechbrain_pom.utils.errors import UserError

TOY = """\
# Toy experiment.
data_folder: null
output_folder: results/toy
save_folder: !ref <output_folder>/save
attention_type: PoM
d_model: 64
lr: 0.001
sizes: [1, 2]
channels: (128, 32)
precision: bf16
max_grad_norm: 10
note: null
model: !new:torch.nn.Linear
    in_features: !ref <d_model>
    out_features: 3
demo:
    d_model: 8
    lr: 0.01
    precision: fp32
"""


@pytest.fixture
def toy(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TOY, encoding="utf-8")
    return path


def load(path, *arguments, demo_data=None):
    return load_experiment(parse_command_line([str(path), *arguments]), demo_data)


def test_yaml_alone(toy):
    experiment = load(toy)
    assert experiment.hparams["model"].in_features == 64
    assert "demo" not in experiment.hparams
    assert experiment.run_opts == {}
    assert experiment.sources["d_model"] == experiment.sources["precision"] == "YAML"
    assert experiment.sources["optimizer_step_limit"] == "default"
    assert not experiment.is_demo


def test_keys_of_sections(toy):
    experiment = load(toy, "--model.out_features=5", "--model.bias", "False")
    model = experiment.hparams["model"]
    assert (model.in_features, model.out_features, model.bias) == (64, 5, None)
    assert experiment.overrides == {"model": {"out_features": 5, "bias": False}}
    assert experiment.sources["model"] == "command line"


@pytest.mark.parametrize("argument", ["--model.in_features=5", "--model={in_features: 5}"])
def test_a_section_does_not_part_from_the_key_that_it_refers_to(toy, argument):
    """What checkpoints and reports record of a run is the key at the top."""
    message = (
        "--model.in_features stands for !ref <d_model> in the YAML, and other parts of the run "
        "read that too: give --d_model"
    )
    with pytest.raises(UserError, match=message):
        load(toy, argument)


def test_another_class_for_a_section_refers_to_the_same_keys(toy):
    with pytest.raises(UserError, match="give --d_model"):
        load(toy, "--model", "!new:torch.nn.Bilinear {in1_features: 2, in_features: !ref <lr>}")
    section = "!new:torch.nn.Conv1d {in_channels: 2, out_channels: !ref <d_model>, kernel_size: 1}"
    assert load(toy, "--model", section).hparams["model"].out_channels == 64
    section = "!new:torch.nn.Linear {in_features: !ref <d_model>, out_features: 7, bias: False}"
    model = load(toy, "--d_model=16", "--model", section).hparams["model"]
    assert (model.in_features, model.out_features, model.bias) == (16, 7, None)


def test_command_line_over_yaml_reaches_references_and_objects(toy):
    experiment = load(toy, "--d_model=16", "--output_folder", "a=b/c #1", "--note", "!ref <lr>")
    assert experiment.hparams["model"].in_features == 16
    assert experiment.hparams["save_folder"] == "a=b/c #1/save"
    assert experiment.hparams["note"] == 0.001
    assert experiment.sources["d_model"] == "command line"
    assert experiment.sources["save_folder"] == "YAML"


@pytest.mark.parametrize(
    "value",
    [
        "PoM(degree=3)*4 + RelPosMHAXL*8",
        "/data/a=b/c==d",
        "/data/x #1",
        "a: b",
        'it\'s "here"',
        "/dåta/日本 語/🎤",
        "2024-01-31",
        "=",
        "*anchor",
        "@",
        "[unclosed",
        "- item",
        "!bang",
        "x" * 90 + " one space " + "y" * 90,
        "'1e-3'",
    ],
)
def test_strings_are_verbatim_in_hparams_and_in_the_saved_yaml(toy, value):
    experiment = load(toy, f"--attention_type={value}", "--sizes", "[[1, 2], !ref <lr>]")
    expected = "1e-3" if value == "'1e-3'" else value
    assert experiment.hparams["attention_type"] == expected
    assert experiment.hparams["sizes"] == [[1, 2], 0.001]
    again = load_hyperpyyaml(resolved_yaml(experiment))
    for key in ("attention_type", "sizes", "channels", "save_folder", "lr", "precision", "note"):
        assert again[key] == experiment.hparams[key]


def test_brain_gets_the_yamls_run_options_and_not_the_defaults(toy):
    experiment = load(toy, "--optimizer_step_limit", "20", "--device", "cpu")
    modules = {"model": experiment.hparams["model"]}
    brain = sb.Brain(modules, None, experiment.hparams, experiment.run_opts)
    assert (brain.precision, brain.max_grad_norm, brain.optimizer_step_limit) == ("bf16", 10.0, 20)
    effective = effective_run_options(experiment)
    assert all(getattr(brain, name) == value for name, value in effective.items())

    # SpeechBrain's recipes write the defaults over the YAML: this test can fail.
    _, run_opts, _ = sb.parse_arguments([str(toy), "--device", "cpu"])
    naive = {**experiment.hparams, **run_opts.as_dict()}
    assert (naive["precision"], naive["max_grad_norm"]) == ("fp32", 5.0)


def test_command_line_run_option_beats_the_yaml(toy):
    experiment = load(toy, "--precision", "fp32", "--device", "cpu")
    brain = sb.Brain({"m": torch.nn.Linear(1, 1)}, None, experiment.hparams, experiment.run_opts)
    assert brain.precision == experiment.hparams["precision"] == "fp32"


def test_demo_applies_without_data_folder_under_the_command_line(toy, tmp_path, capsys):
    said_before_making_data = []

    def demo_data():
        said_before_making_data.append(capsys.readouterr().out)
        return tmp_path / "mini"

    experiment = load(toy, "--lr", "0.5", "--data_folder", "null", demo_data=demo_data)
    hparams = experiment.hparams
    assert experiment.is_demo
    assert hparams["data_folder"] == str(tmp_path / "mini")
    assert (hparams["d_model"], hparams["lr"], hparams["precision"]) == (8, 0.5, "fp32")
    assert hparams["model"].in_features == 8
    sources = experiment.sources
    assert sources["lr"] == "command line"
    assert sources["d_model"] == sources["data_folder"] == sources["precision"] == "demo"
    first, second = said_before_making_data[0].splitlines()
    assert first.startswith("no --data_folder: running the demo on the mini corpus (synthetic ")
    assert second.startswith("the paper's experiment: python ")
    assert second.endswith(f"{toy} --data_folder /path/to/LibriSpeech")
    saved = load_hyperpyyaml(resolved_yaml(experiment))
    assert (saved["d_model"], saved["data_folder"]) == (8, str(tmp_path / "mini"))


def test_demo_does_not_apply_with_a_data_folder_or_without_demo_data(toy, capsys):
    def never():
        raise AssertionError("no demo data is needed")

    assert load(toy, "--data_folder=/data", demo_data=never).hparams["d_model"] == 64
    assert load(toy).hparams["data_folder"] is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    lr: 0.01", "    lrr: 0.01", "under demo: unknown option lrr: did you mean lr? "),
        ("    lr: 0.01", "    data_folder: x", "under demo: unknown option data_folder: "),
        ("demo:\n    d_model: 8\n    lr: 0.01\n    precision: fp32", "demo: 3",
         "demo is a mapping of key: value, not '3'"),
        ("lr: 0.001\n", "lr: !PLACEHOLDER\n", "lr is not set: give --lr VALUE"),
        ("out_features: 3", "out_features: !PLACEHOLDER",
         "model[out_features] is not set: set it in the YAML (under model)"),
        ("<output_folder>", "<output_foldr>", 'The reference "output_foldr" is not valid'),
        ("torch.nn.Linear", "torch.nn.Liner", "There is no such class as torch.nn.Liner"),
        ("in_features", "in_feature", "Invalid argument to class torch.nn.Linear: "),
        ("!new:torch.nn.Linear", "!new:torch.nn.LSTM", "Invalid argument to class torch.nn.LSTM"),
        ("precision: bf16", "precision: fp8", "--precision takes one of fp32, fp16, bf16, not "),
        ("model: !new:torch.nn.Linear", "model: !apply:fractions.Fraction.from_float",
         "Invalid argument to callable fractions.Fraction.from_float: "),
    ],
)  # fmt: skip
def test_each_mistake_in_a_yaml_is_one_line_with_its_path(toy, old, new, message):
    assert old in TOY
    toy.write_text(TOY.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load(toy)
    assert str(error.value).startswith(f"{toy}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_value_errors_of_constructors_keep_their_message(toy):
    toy.write_text(TOY + "counter: !new:fractions.Fraction [!ref <attention_type>]\n")
    with pytest.raises(UserError, match=r"toy\.yaml: Invalid literal for Fraction: 'MHA\(x\)'"):
        load(toy, "--attention_type", "MHA(x)")


def test_override_of_another_structure(toy):
    experiment = load(toy, "--note", "{a: !ref <lr>}")
    assert experiment.hparams["note"] == {"a": experiment.hparams["lr"]}
    assert YAML().load(resolved_yaml(experiment))["note"] == {"a": experiment.hparams["lr"]}
    assert configuration(experiment, 1)["note"] != configuration(load(toy), 1)["note"]
    replaced = load(toy, "--model", "!new:fractions.Fraction {numerator: 3, denominator: 6}")
    assert replaced.hparams["model"] == Fraction(1, 2)
    with pytest.raises(UserError, match="unexpected keyword argument 'wrong'"):
        load(toy, "--model", "{wrong: 1}")


def test_table_shows_changed_options_first_with_their_source(toy):
    experiment = load(toy, "--lr", "0.5", "--debug")
    table = describe(experiment, {"batch": "60 s of audio"})
    rows = [line.split() for line in table.splitlines()[1:]]
    assert table.startswith(f"options of {toy}:\n")
    assert rows[:2] == [["lr", "0.5", "command", "line"], ["debug", "True", "command", "line"]]
    for row in (
        ["data_folder", "null", "YAML"],
        ["precision", "bf16", "YAML"],
        ["max_grad_norm", "10.0", "YAML"],
        ["grad_accumulation_factor", "1", "default"],
        ["optimizer_step_limit", "null", "default"],
        ["ckpt_interval_minutes", "0", "default"],
        ["processes", "1", "default"],
        ["batch", "60", "s", "of", "audio", "computed"],
    ):
        assert rows.count(row) == 1
    keys = [row[0] for row in rows]
    assert len(set(keys)) == len(keys)
    assert "model" not in keys
    assert next(row for row in rows if row[0] == "device")[-1] == "detected"


def test_table_of_a_demo(toy, tmp_path):
    experiment = load(toy, "--lr", "0.5", demo_data=lambda: tmp_path)
    rows = [line.split() for line in describe(experiment).splitlines()[1:]]
    assert rows[0] == ["lr", "0.5", "command", "line"]
    assert {row[0] for row in rows[1:4]} == {"data_folder", "d_model", "precision"}
    assert all(row[-1] == "demo" for row in rows[1:4])


CORPORA = """\
corpus: mine
lr: 0.1
epochs: 3
data_folder: null
join: null
corpora:
    mine:
        lr: 0.2
        epochs: 5
        join: !name:os.path.join
    plain: {}
    absent:
        join: !name:no_such_module.join
"""


def test_values_of_a_corpus_lie_between_the_yaml_and_the_command_line(tmp_path):
    path = tmp_path / "corpora.yaml"
    path.write_text(CORPORA)
    experiment = load(path, "--epochs", "7")
    assert (experiment.hparams["lr"], experiment.hparams["epochs"]) == (0.2, 7)
    assert (experiment.sources["lr"], experiment.sources["epochs"]) == ("corpus", "command line")
    assert "corpora" not in experiment.hparams
    assert "corpora" not in configuration(experiment, 1)
    assert configuration(experiment, 1)["lr"] == "0.2"
    assert experiment.hparams["join"]("a", "b") == os.path.join("a", "b")
    assert "no_such_module" not in resolved_yaml(experiment)
    for corpus in ("plain", "null"):
        assert load(path, "--corpus", corpus).hparams["lr"] == 0.1


@pytest.mark.parametrize(
    ("corpora", "message"),
    [
        ("{other: {}}", "corpus is 'mine': choose other, or null for your own"),
        ("{mine: 5}", "corpora.mine is a mapping of key: value, not '5'"),
        ("{mine: {lt: 5}}", "under corpora.mine: unknown option lt"),
    ],
)
def test_corpora_that_cannot_be(tmp_path, corpora, message):
    path = tmp_path / "corpora.yaml"
    path.write_text(f"corpus: mine\nlr: 0.1\ncorpora: {corpora}\n")
    with pytest.raises(UserError, match=re.escape(message)):
        load(path)


STREAMING = """\
streaming: False
floor: high
encoding: sine
data_folder: null
when_streaming: {floor: low, encoding: null}
demo: {encoding: other, streaming: False}
"""


def test_values_of_streaming_lie_between_the_yaml_and_the_command_line(tmp_path):
    path = tmp_path / "streaming.yaml"
    path.write_text(STREAMING)
    data = ("--data_folder", "/data")
    assert load(path, *data).hparams["floor"] == "high"
    experiment = load(path, *data, "--streaming", "True", "--encoding", "sine")
    assert (experiment.hparams["floor"], experiment.hparams["encoding"]) == ("low", "sine")
    assert experiment.sources["floor"] == "streaming"
    assert experiment.sources["encoding"] == "command line"
    assert "when_streaming" not in experiment.hparams
    assert "when_streaming" not in configuration(experiment, 1)
    assert configuration(experiment, 1)["floor"] == "low"


def test_the_demo_streams_too(tmp_path):
    path = tmp_path / "streaming.yaml"
    path.write_text(STREAMING)
    found = {}
    for value in ("False", "True"):
        request = parse_command_line([str(path), "--streaming", value])
        experiment = load_experiment(request, demo_data=lambda: tmp_path)
        found[value] = experiment.hparams["encoding"], experiment.sources["encoding"]
    assert found == {"False": ("other", "demo"), "True": (None, "streaming")}


def test_values_of_streaming_that_cannot_be(tmp_path):
    path = tmp_path / "streaming.yaml"
    path.write_text(STREAMING.replace("{floor: low,", "{flor: low,"))
    with pytest.raises(UserError, match="under when_streaming: unknown option flor"):
        load(path, "--streaming", "True", "--data_folder", "/data")
