"""Encoders from runs, checkpoints and exports: one loader, strict, weights only."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
import yaml
from speechbrain.utils.checkpoints import METAFNAME
from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.registry import is_builtin
from speechbrain_pom.encoder.architecture import build_parts, read_architecture
from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder
from speechbrain_pom.encoder.weights import (
    WEIGHTS_SUFFIX,
    file_of_part,
    load_part,
    read_tensors,
    strict_load,
)
from speechbrain_pom.runs.checkpoints import CHECKSUMS_FILE, HPARAMS_FILE, find_damage
from speechbrain_pom.runs.metrics import TaskMetrics, read_metrics
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.hub import fetch_model, is_address

logger = get_logger(__name__)

MODEL_FILE = "model.ckpt"
NORMALIZE_FILE = "normalize.ckpt"
HEAD_FILE = "head.ckpt"
LAYER_SUM_FILE = "layer_sum.ckpt"
ENCODER_FILE = "encoder" + WEIGHTS_SUFFIX  # of an export
CHECKPOINT_FILES = (METAFNAME, MODEL_FILE, NORMALIZE_FILE)
_FILES = (MODEL_FILE, NORMALIZE_FILE, HEAD_FILE, LAYER_SUM_FILE, HPARAMS_FILE)


class Saved(NamedTuple):
    """Where a model is stored.

    Arguments
    ---------
    checkpoint : pathlib.Path
        A CKPT+... folder, or an export.
    hparams_file : pathlib.Path
        What says what the model is.
    run_folder : pathlib.Path or None
        None for an export, and for a checkpoint that was taken out of its run.
    meta : dict or None
        What was stored with the checkpoint; None for an export.
    task : TaskMetrics or None
        What its run measures; None for an export.
    """

    checkpoint: Path
    hparams_file: Path
    run_folder: Path | None = None
    meta: dict | None = None
    task: TaskMetrics | None = None

    @property
    def is_export(self) -> bool:
        """Whether it is an export."""
        return self.task is None

    @property
    def encoder_file(self) -> Path:
        """The file with the weights of the encoder."""
        if self.is_export:
            return file_of_part(self.checkpoint, "encoder")
        return self.checkpoint / MODEL_FILE


def load_encoder(
    path: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    hparams_file: str | Path | None = None,
    layers: Layers | None = None,
) -> SpeechEncoder:
    """Load a pretrained encoder.

    The architecture is the one that was saved. Weights are read as tensors and nothing else, and
    every one of them has to fit.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder (the newest checkpoint of pretraining, or the one with the best WER of
        fine-tuning), one CKPT+... folder, an exported folder, or hf://ORG/NAME@REVISION, an export
        on the Hugging Face hub. Runs of SpeechBrain's own BEST-RQ recipe and checkpoints with the
        published parameter names are read alike.
    device : str or torch.device, optional
    dtype : torch.dtype, optional
        Of the weights; features are computed in fp32 all the same.
    hparams_file : str or pathlib.Path, optional
        Where a checkpoint has been taken away from its run's hyperparams.yaml.
    layers : str, int or sequence of int, optional
        What the encoder returns: see `SpeechEncoder`. "sum" makes weights to be learnt, or takes
        those of a model that was fine-tuned with them, for which it is the default.

    Returns
    -------
    SpeechEncoder
        In eval mode.

    Raises
    ------
    UserError
        If there is no such model, it is damaged, or anything in it does not fit.

    Example
    -------
    >>> load_encoder("results/none")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: 'results/none' does not exist: give a run's folder, a \
CKPT+... folder or an exported folder
    """
    saved = find_saved(path, hparams_file)
    return ready(load_parts(saved, layers)["encoder"], device, dtype)


def load_parts(saved: Saved, layers: Layers | None = None) -> dict:
    """The encoder of a model with its weights, and its head, where there is one, without."""
    text = read_architecture(saved.hparams_file)
    parts = build_parts(text, saved.hparams_file, layers)
    encoder = parts["encoder"]
    fill_encoder(encoder, saved)
    sum_file = saved.checkpoint / LAYER_SUM_FILE
    if encoder.layers == "sum" and parts.get("weighted_sum") and not saved.is_export:
        strict_load(encoder.layer_sum, read_tensors(sum_file), str(sum_file))
    if "padding:" not in text and is_builtin(encoder.transformer.attention_type):
        logger.warning(
            "%s does not say what it made of padding, as SpeechBrain's recipe and version 0.1: it "
            "was trained with SpeechBrain's padding, and is loaded without",
            saved.hparams_file,
        )
    return parts


def fill_encoder(encoder: SpeechEncoder, saved: Saved) -> None:
    """Load all weights of an encoder and the statistics of its features, in place."""
    if saved.is_export:
        load_part(encoder, "encoder", saved.encoder_file)
        return
    tensors = read_tensors(saved.encoder_file)
    strict_load(encoder.checkpoint_modules, tensors, str(saved.encoder_file))
    encoder.features.load_statistics(saved.checkpoint / NORMALIZE_FILE)


def ready(model: nn.Module, device: object, dtype: torch.dtype | None) -> nn.Module:
    """A loaded model on its device, in eval mode."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype is {dtype!r}: give a torch.dtype of floats, as torch.bfloat16")
    return model.to(device=device, dtype=dtype).eval()


def is_export(folder: str | Path) -> bool:
    """Whether a folder holds an exported model.

    Example
    -------
    >>> is_export("hparams")
    False
    """
    parts = Path(folder, HPARAMS_FILE), file_of_part(folder, "encoder")
    return all(part.is_file() for part in parts)


def find_saved(path: str | Path, hparams_file: str | Path | None = None) -> Saved:
    """Find the model that is meant by a path, and its hparams file.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder, one CKPT+... folder, an export, or hf://ORG/NAME@REVISION.
    hparams_file : str or pathlib.Path, optional
        In place of the hyperparams.yaml of the run.

    Returns
    -------
    Saved

    Raises
    ------
    UserError
        If there is none, it is damaged, or its hparams file is missing.
    """
    path = fetch_model(path) if is_address(path) else Path(path)
    if is_export(path):
        if hparams_file is not None:
            raise UserError(
                f"'{path}' is an exported folder, with its own {HPARAMS_FILE}: give no other"
            )
        return Saved(path, path / HPARAMS_FILE)
    folder, meta, task = _best_checkpoint(path)
    if (folder / CHECKSUMS_FILE).is_file():  # SpeechBrain's own checkpoints have none
        damage = find_damage(folder, only=_FILES)
        if damage:
            raise UserError(f"{folder} is damaged ({damage}): choose another checkpoint")
    run_folder = _run_of(folder)
    if hparams_file is None:
        places = [folder / HPARAMS_FILE, *([run_folder / HPARAMS_FILE] if run_folder else [])]
        hparams_file = next((place for place in places if place.is_file()), None)
        if hparams_file is None:
            raise UserError(
                f"{folder} has no {HPARAMS_FILE}: give the run's by hparams_file, which says what "
                "the model is"
            )
    return Saved(folder, Path(hparams_file), run_folder, meta, task)


def find_checkpoints(path: str | Path) -> dict[Path, dict]:
    """All checkpoints with an encoder, the oldest first, and what was stored with each.

    `path` is a run's folder, its `save` folder, or one CKPT+... folder.
    """
    path = Path(path)
    candidates = [path, *path.glob("CKPT+*"), *path.glob("save/CKPT+*")]
    metas = {
        folder: yaml.safe_load((folder / METAFNAME).read_text(encoding="utf-8")) or {}
        for folder in candidates
        if all((folder / name).is_file() for name in CHECKPOINT_FILES)
    }
    return dict(sorted(metas.items(), key=lambda item: item[1].get("unixtime", 0.0)))


def _best_checkpoint(path: Path) -> tuple[Path, dict, TaskMetrics]:
    """The checkpoint of a run that is used: the best or the newest, as its task says."""
    found = find_checkpoints(path)
    if not found:
        problem = f"holds no {', '.join(CHECKPOINT_FILES)}" if path.exists() else "does not exist"
        raise UserError(
            f"'{path}' {problem}: give a run's folder, a CKPT+... folder or an exported folder"
        )
    folders, metas = list(found), list(found.values())
    task = read_metrics(_run_of(folders[-1]), logged={name for meta in metas for name in meta})
    chosen = task.best_of(metas) if task.use == "best" else None
    best = len(found) - 1 if chosen is None else chosen
    return folders[best], metas[best], task


def _run_of(checkpoint: Path) -> Path | None:
    return checkpoint.parent.parent if checkpoint.parent.name == "save" else None
