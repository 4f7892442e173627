"""Run folders laid out as the recipes leave them, without the training."""

import json

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references

from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.objectives.bestrq import BestRQ
from speechbrain_pom.objectives.pretraining import pretraining_metrics
from speechbrain_pom.runs.metrics import store_metrics
from speechbrain_pom.runs.options import read_tree
from tests.helpers import ROOT

SIZE = {"d_model": 16, "d_ffn": 32, "nhead": 2, "num_encoder_layers": 2, "cnn_channels": 4}
YAMLS = {"bestrq": "pom.yaml", "ctc": "pom_ctc.yaml"}
METRICS = {"bestrq": pretraining_metrics(BestRQ), "ctc": CTC_METRICS}


def write_run(folder, stage="bestrq", seed=0, meta=None, **overrides):
    """A run's folder as the recipe leaves it, with random weights: its newest checkpoint."""
    run = {"seed": seed, "output_folder": str(folder)}
    if stage == "bestrq":
        overrides = {**SIZE, **run, **overrides}
    else:
        keys = read_tree(ROOT / "hparams" / YAMLS[stage])["_of_the_architecture"]
        model = {key: overrides.pop(key) for key in list(overrides) if key in keys}
        scratch = {"architecture": str(ROOT / "hparams/pom.yaml"), "pretrained": None}
        scratch["architecture_overrides"] = {**SIZE, **model}
        overrides = {"dnn_neurons": 16, **scratch, **run, **overrides}
    with open(ROOT / "hparams" / YAMLS[stage], encoding="utf-8") as stream:
        text = resolve_references(stream, overrides).getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "hyperparams.yaml").write_text(text, encoding="utf-8")
    hparams = load_hyperpyyaml(text)
    feats = 5.0 + 3.0 * torch.randn(2, 50, 80)
    hparams["encoder"].features.normalise(feats, torch.tensor([50, 50]), epoch=1)
    if stage == "ctc":
        CharacterUnits().save(folder / "units")
    store_metrics(folder, METRICS[stage])
    record = {"epoch": 1, "steps": 5, "valid": {"loss": 1.5, "accuracy": 0.5, "wer": 50.0}}
    (folder / "history.jsonl").write_text(json.dumps(record) + "\n", encoding="utf-8")
    facts = {"optimizer_step": 5, "loss": 1.5}
    meta = {**facts, **({"wer": 50.0} if stage == "ctc" else {}), **(meta or {})}
    return hparams["checkpointer"].save_checkpoint(meta=meta).path


@pytest.fixture(scope="session")
def make_run():
    """`write_run`: a run's folder."""
    return write_run


@pytest.fixture(scope="session")
def pretrained_run(tmp_path_factory):
    """A run of pretraining: folder with save/CKPT+..., hyperparams.yaml, history.jsonl."""
    folder = tmp_path_factory.mktemp("runs") / "bestrq"
    write_run(folder)
    return folder


@pytest.fixture(scope="session")
def finetuned_run(tmp_path_factory):
    """A run of fine-tuning, with its units besides."""
    folder = tmp_path_factory.mktemp("runs") / "ctc"
    write_run(folder, "ctc")
    return folder
