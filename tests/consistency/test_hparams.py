"""The hparams files: they build, say how they are run, and agree with each other."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_pom.runs.configuration import configuration, roles_of_keys
from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.options import node_tag, read_tree
from tests.helpers import ROOT

FILES = sorted((ROOT / "hparams").glob("*.yaml"))
WITH_MODEL = [path for path in FILES if "encoder" in read_tree(path)]


def name(path):
    return path.name


@pytest.mark.parametrize("path", WITH_MODEL, ids=name)
@pytest.mark.parametrize("demo", [False, True])
def test_it_builds(path, demo, tmp_path):
    """The paper's values without memory for their parameters, the demo's as they are run."""
    overrides = dict(read_tree(path)["demo"]) if demo else {}
    overrides["output_folder"] = str(tmp_path / "out")
    if path.name == "pom_ctc.yaml":
        size = ("d_model", "d_ffn", "nhead", "num_encoder_layers", "cnn_channels")
        demo_of_pom = read_tree(ROOT / "hparams/pom.yaml")["demo"]
        overrides |= {"pretrained": None, "architecture": str(ROOT / "hparams/pom.yaml")}
        overrides["architecture_overrides"] = {key: demo_of_pom[key] for key in size if demo}
    if not demo and read_tree(path).get("wav_augment") is not None:
        overrides["wav_augment"] = None  # computes its filters while it is built
    with open(path, encoding="utf-8") as stream, torch.device("cpu" if demo else "meta"):
        hparams = load_hyperpyyaml(stream, overrides)
    parameters = sum(weight.numel() for weight in hparams["encoder"].parameters())
    full = (15e7, 16e7) if path.name == "wav2vec2.yaml" else (9e7, 1e8)
    assert (1e6 < parameters < 1e7) if demo else (full[0] < parameters < full[1])
    assert {"modules", "checkpointer", "epoch_counter", "train_logger"} <= hparams.keys()


def test_the_targets_depend_on_the_seed_alone():
    """Mixers and sizes are compared on the same codes, whatever they draw themselves."""

    def quantizer(**overrides):
        small = {
            "d_ffn": 16,
            "nhead": 2,
            "num_encoder_layers": 1,
            "cnn_channels": 4,
            "cb_vocab": 64,
        }
        with open(ROOT / "hparams/pom.yaml", encoding="utf-8") as stream:
            hparams = load_hyperpyyaml(stream, {**small, "output_folder": "unused", **overrides})
        return torch.cat([hparams["Quantizer"].P.flatten(), hparams["Quantizer"].CB.flatten()])

    codes = quantizer(d_model=16)
    for model in ({"attention_type": "RelPosMHAXL"}, {"d_model": 24}, {"num_encoder_layers": 2}):
        assert torch.equal(quantizer(**{"d_model": 16, **model}), codes)
    assert not torch.equal(quantizer(d_model=16, seed=7), codes)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_opens_with_its_commands(path, check_command):
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("# "))
    commands = [line for line in comment if re.match(r"(python|torchrun) ", line)]
    assert any(command.startswith("python ") for command in commands)
    for command in commands:
        assert f"hparams/{path.name}" in command
        check_command(command.replace("...", "/path/to/LibriSpeech"))


@pytest.mark.parametrize("path", FILES, ids=name)
def test_it_says_which_keys_make_a_run_another_one(path):
    roles = roles_of_keys(path)
    assert not roles.left_out & roles.may_change
    assert {"data_folder", "num_workers"} <= roles.left_out
    assert {"number_of_epochs", "optimizer_step_limit"} <= roles.may_change
    assert not {"seed", "lr", "attention_type"} & (roles.left_out | roles.may_change)


@pytest.mark.parametrize("path", [path for path in FILES if "_added" in read_tree(path)], ids=name)
def test_keys_that_came_later_change_nothing_by_themselves(path):
    """Runs that were begun without them go on."""
    overrides = {}
    if path.name == "pom_ctc.yaml":
        overrides = {"pretrained": None, "architecture": str(ROOT / "hparams/pom.yaml")}
    run = Experiment({}, {}, overrides, {}, False, path)
    found, added = configuration(run, 1), read_tree(path)["_added"]
    assert {"streaming", "chunk_size_range", "valid_chunk"} <= added.keys()
    assert not added.keys() & found.keys()
    assert not any(f"{key}: " in text for key in added for text in found.values())
    changed = configuration(
        Experiment({}, {}, {**overrides, "streaming": True}, {}, False, path), 1
    )
    assert changed.keys() - found.keys() == {"streaming"}


def references(node):
    """The keys that a part of a file refers to."""
    if isinstance(node, dict):
        return {name for child in node.values() for name in references(child)}
    if isinstance(node, list):
        return {name for child in node for name in references(child)}
    text = str(node.value) if node_tag(node) == "!ref" else ""
    return set(re.findall(r"<(\w+)", text))


def test_fine_tuning_names_the_keys_of_an_architecture():
    """All that the encoders refer to, but for the dropout, which is its own."""
    names = ("pom.yaml", "wav2vec2.yaml", "pom_ctc.yaml")
    *trees, own = (read_tree(ROOT / "hparams" / name) for name in names)
    keys = set()
    for tree in trees:
        sections = references(tree["encoder"])
        keys |= {name for section in sections for name in references(tree[section])} | sections
    assert {"CNN", "attention_type", "n_mels"} <= keys
    assert set(own["_of_the_architecture"]) - {"stride"} == keys - {"dropout"}
    assert not set(own) & set(own["_of_the_architecture"]) - {"sample_rate"}


def test_fine_tuning_starts_where_pretraining_ends():
    trees = [read_tree(ROOT / "hparams" / name) for name in ("pom.yaml", "pom_ctc.yaml")]
    for first, second in (trees, [tree["demo"] for tree in trees]):
        folders = [getattr(node, "value", node) for node in (first["output_folder"],)]
        assert [getattr(second["pretrained"], "value", second["pretrained"])] == folders
    assert trees[0]["seed"] == trees[1]["seed"]
