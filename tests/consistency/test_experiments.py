"""The table of experiments: each row builds, and has the parameters that it states."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_pom.training.options import parse_command_line

ROOT = Path(__file__).parents[2]
PRETRAINING, FINETUNING = str(ROOT / "hparams/pom.yaml"), str(ROOT / "hparams/pom_ctc.yaml")
# Settings of pretraining alone: both files have them, with other values.
ONLY_PRETRAINING = ("lr", "weight_decay")


def table_rows():
    """(mixer, overrides, parameters of the encoder, of all) of each row with parameters."""
    text = (ROOT / "recipes/LibriSpeech/README.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    rows = [row for row in cells if len(row) == 9 and re.fullmatch(r"[\d,]+", row[2])]
    return [
        (
            "" if row[1] == "none" else row[1].strip("`"),
            *(int(c.replace(",", "")) for c in row[2:4]),
        )
        for row in rows
    ]


def build(path, overrides):
    """The objects of an hparams file, without memory for their parameters."""
    if path == FINETUNING:
        overrides = {**overrides, "wav_augment": None}  # computes its filters, without parameters
    with open(path, encoding="utf-8") as stream, torch.device("meta"):
        return load_hyperpyyaml(stream, overrides)


def count(*modules):
    return sum(weight.numel() for module in modules for weight in module.parameters())


def test_the_table_has_every_kind_of_row():
    specs = " ".join(overrides for overrides, *_ in table_rows())
    for kind in ("RelPosMHAXL ", "RoPEMHA", "regularMHA", "hypermixing", "selective", "frequency2"):
        assert kind in specs
    for kind in ("frequency3", "PoM(1, ", "PoM(2, ", "PoM(3, ", "PoM(4, ", "*4 + PoM*8"):
        assert kind in specs
    assert specs.count("--num_encoder_layers 24") == 5


@pytest.mark.parametrize(
    ("overrides", "in_encoder", "in_all"),
    table_rows(),
    ids=[row[0] or "none" for row in table_rows()],
)
def test_parameters_of_a_row(overrides, in_encoder, in_all, tmp_path):
    options = parse_command_line([PRETRAINING, *shlex.split(overrides)]).overrides
    pretraining = build(PRETRAINING, {**options, "output_folder": str(tmp_path)})
    encoder, front_end = pretraining["wrapper"], pretraining["CNN"]
    assert count(encoder) == in_encoder
    assert count(encoder, front_end, pretraining["linear"]) == in_all

    shared = {key: value for key, value in options.items() if key not in ONLY_PRETRAINING}
    finetuning = build(FINETUNING, {**shared, "output_folder": str(tmp_path)})
    shapes = [
        {name: tensor.shape for name, tensor in hparams["model"].state_dict().items()}
        for hparams in (pretraining, finetuning)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("path", [PRETRAINING, FINETUNING])
def test_hybrid_of_the_table_computes(path, tmp_path):
    """RelPosMHAXL and PoM in one stack at the table's head count, on real memory."""
    overrides = next(row[0] for row in table_rows() if "*4 + PoM*8" in row[0])
    options = parse_command_line([path, *shlex.split(overrides)]).overrides
    small = {"d_ffn": 8, "cnn_channels": 4, "output_folder": str(tmp_path)}
    with open(path, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, {**options, **small})
    frames = hparams["CNN"](torch.randn(2, 32, 80))
    encoded = hparams["wrapper"](frames, torch.tensor([1.0, 0.5]))
    assert encoded.shape == (2, 8, options["d_model"])
    assert encoded.isfinite().all()
