"""The hparams files: they build, say how they are run, and agree with each other."""

import re

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_pom.runs.configuration import roles_of_keys
from speechbrain_pom.runs.options import node_tag, read_tree
from tests.helpers import ROOT

FILES = sorted((ROOT / "hparams").glob("*.yaml"))
WITH_MODEL = [path for path in FILES if "Transformer" in read_tree(path)]  # not those that load one
PAIRS = [(path, path.with_name(f"{path.stem}_ctc.yaml")) for path in FILES]
PAIRS = [pair for pair in PAIRS if pair[1].is_file()]
# What fine-tuning has to have as pretraining had it: the features, the front end, the encoder.
SHARED = ["sample_rate", "n_fft", "hop_length", "n_mels", "stride", "update_norm_until_epoch"]
SHARED += ["padding", "f_min", "f_max"]
SHARED += ["compute_features", "normalize", "CNN", "cnn_channels", "attention_type", "d_model"]
SHARED += ["d_ffn", "nhead", "num_encoder_layers", "dropout", "positional_encoding", "activation"]
SHARED += ["Transformer", "encoder", "seed"]


def name(path):
    return path.name


@pytest.mark.parametrize("path", WITH_MODEL, ids=name)
@pytest.mark.parametrize("demo", [False, True])
def test_it_builds(path, demo, tmp_path):
    """The paper's values without memory for their parameters, the demo's as they are run."""
    overrides = dict(read_tree(path)["demo"]) if demo else {}
    overrides["output_folder"] = str(tmp_path / "out")
    if not demo and "wav_augment" in read_tree(path):
        overrides["wav_augment"] = None  # computes its filters while it is built
    with open(path, encoding="utf-8") as stream, torch.device("cpu" if demo else "meta"):
        hparams = load_hyperpyyaml(stream, overrides)
    parameters = sum(weight.numel() for weight in hparams["encoder"].parameters())
    assert (1e6 < parameters < 1e7) if demo else (9e7 < parameters < 1e8)
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


def plain(node):
    """A node of a YAML tree as nested tuples, tags included."""
    if isinstance(node, dict):
        return node_tag(node), tuple((key, plain(value)) for key, value in node.items())
    if isinstance(node, list):
        return node_tag(node), tuple(plain(value) for value in node)
    return node_tag(node), str(getattr(node, "value", node))


def differing(pair, keys):
    first, second = ({**tree, **tree["demo"]} for tree in map(read_tree, pair))
    in_files = [
        key for key in keys if plain(read_tree(pair[0])[key]) != plain(read_tree(pair[1])[key])
    ]
    return in_files + [f"demo {key}" for key in keys if plain(first[key]) != plain(second[key])]


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].stem)
def test_both_stages_agree(pair):
    assert differing(pair, SHARED) == []
    assert "lr" in differing(pair, ["lr"])  # the comparison can fail
    outputs = [read_tree(path)["demo"] for path in pair]
    assert outputs[1]["pretrained"] == outputs[0]["output_folder"]
    trees = [read_tree(path) for path in pair]
    assert plain(trees[1]["pretrained"]) == plain(trees[0]["output_folder"])


def test_there_are_pairs():
    assert "pom" in [pair[0].stem for pair in PAIRS]
