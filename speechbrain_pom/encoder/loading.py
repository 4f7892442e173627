"""Models from checkpoints, runs and exports: one line to load, strict, weights only."""

from pathlib import Path
from typing import NamedTuple

import torch
from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.registry import is_builtin
from speechbrain_pom.encoder.architecture import build_parts, encoder_of, read_architecture
from speechbrain_pom.encoder.weights import read_tensors, strict_load
from speechbrain_pom.inference.export import (
    is_export,
    load_exported_encoder,
    load_exported_recogniser,
)
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.inference.speechbrain_interface import read_units
from speechbrain_pom.pretrained import (
    CHECKPOINT_FILES,
    MODEL_FILE,
    NORMALIZE_FILE,
    find_checkpoints,
    read_meta,
)
from speechbrain_pom.runs.checkpoints import CHECKSUMS_FILE, HPARAMS_FILE, find_damage
from speechbrain_pom.runs.metrics import TaskMetrics, read_metrics
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

HEAD_FILE = "head.ckpt"
LAYER_SUM_FILE = "layer_sum.ckpt"
UNITS_FOLDER = "units"
_FILES = (MODEL_FILE, NORMALIZE_FILE, HEAD_FILE, LAYER_SUM_FILE, HPARAMS_FILE)


class Saved(NamedTuple):
    """Where a model lies that a recipe has saved."""

    checkpoint: Path  # a CKPT+... folder
    hparams_file: Path
    run_folder: Path | None  # None for a checkpoint that was taken out of its run
    meta: dict  # what was stored with the checkpoint
    task: TaskMetrics  # what its run measures


def load_encoder(path, device=None, dtype=None, *, hparams_file=None, layers=None):
    """Load a pretrained encoder.

    The architecture is the one that was saved. Weights are read as tensors and nothing else, and
    every one of them has to fit.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder (the newest checkpoint of pretraining, or the one with the best WER of
        fine-tuning), one CKPT+... folder, or an exported folder. Runs of SpeechBrain's own BEST-RQ
        recipe and checkpoints with the published parameter names are read alike.
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
    if is_export(path):
        _refuse_hparams_file(path, hparams_file)
        return _ready(load_exported_encoder(Path(path), layers), device, dtype)
    saved = find_saved(path, hparams_file)
    return _ready(_load_encoder(saved, _build(saved), layers), device, dtype)


def load_recogniser(path, device=None, dtype=None):
    """Load a fine-tuned encoder with its head and units.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder, one CKPT+... folder in it, or an exported folder.
    device : str or torch.device, optional
    dtype : torch.dtype, optional
        Of the weights.

    Returns
    -------
    SpeechRecogniser
        In eval mode.

    Raises
    ------
    UserError
        If there is no such model, it is damaged, it was not fine-tuned, or anything in it does not
        fit.

    Example
    -------
    >>> load_recogniser("results/none")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: 'results/none' does not exist: give a run's folder, a \
CKPT+... folder or an exported folder
    """
    if is_export(path):
        return _ready(load_exported_recogniser(Path(path)), device, dtype)
    saved = find_saved(path)
    parts = _build(saved)
    head_file = saved.checkpoint / HEAD_FILE
    if "head" not in parts or not head_file.is_file():
        raise UserError(f"{saved.checkpoint} has no CTC head: give a run of train_ctc.py")
    if saved.run_folder is None:
        raise UserError(
            f"{saved.checkpoint} is not in its run's folder, where its units are: give the run"
        )
    encoder = _load_encoder(saved, parts, None)
    strict_load(parts["head"], read_tensors(head_file), str(head_file))
    units = read_units(saved.run_folder / UNITS_FOLDER)
    return _ready(SpeechRecogniser(encoder, parts["head"], units), device, dtype)


def find_saved(path, hparams_file=None):
    """Find the checkpoint that is meant by a path, and its hparams file.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's folder or one CKPT+... folder.
    hparams_file : str or pathlib.Path, optional
        In place of the hyperparams.yaml of the run.

    Returns
    -------
    Saved

    Raises
    ------
    UserError
        If there is no checkpoint, it is damaged, or its hparams file is missing.
    """
    found = find_checkpoints(path)
    if not found:
        exists = Path(path).exists()
        problem = f"holds no {', '.join(CHECKPOINT_FILES)}" if exists else "does not exist"
        raise UserError(
            f"'{path}' {problem}: give a run's folder, a CKPT+... folder or an exported folder"
        )
    metas = {checkpoint: read_meta(checkpoint) for checkpoint in found}
    run_folder = found[-1].parent.parent if found[-1].parent.name == "save" else None
    task = read_metrics(run_folder, logged={name for meta in metas.values() for name in meta})
    chosen = task.best_of(list(metas.values())) if task.use == "best" else None
    best = found[-1 if chosen is None else chosen]
    if (best / CHECKSUMS_FILE).is_file():  # SpeechBrain's own checkpoints have none
        damage = find_damage(best, only=_FILES)
        if damage:
            raise UserError(f"{best} is damaged ({damage}): choose another checkpoint")
    if hparams_file is None:
        places = [best / HPARAMS_FILE, *([run_folder / HPARAMS_FILE] if run_folder else [])]
        hparams_file = next((place for place in places if place.is_file()), None)
        if hparams_file is None:
            raise UserError(
                f"{best} has no {HPARAMS_FILE}: give the run's by hparams_file, which says what "
                "the model is"
            )
    return Saved(best, Path(hparams_file), run_folder, metas[best], task)


def _refuse_hparams_file(path, hparams_file):
    if hparams_file is not None:
        raise UserError(
            f"'{path}' is an exported folder, with its own {HPARAMS_FILE}: give no other"
        )


def _build(saved):
    return build_parts(read_architecture(saved.hparams_file), saved.hparams_file)


def _load_encoder(saved, parts, layers):
    """The encoder of a checkpoint, from the parts of its hparams file."""
    # As the recipes save it: front end, and the wrapper around the TransformerASR.
    wrapper = nn.ModuleDict({"transformer": parts["Transformer"]})
    model_file = saved.checkpoint / MODEL_FILE
    strict_load(nn.ModuleList([parts["CNN"], wrapper]), read_tensors(model_file), str(model_file))
    _load_statistics(parts["normalize"], saved.checkpoint / NORMALIZE_FILE)
    summed = bool(parts.get("weighted_sum"))
    if layers is None:
        layers = "sum" if summed else "last"
    encoder = encoder_of(parts, layers)
    if "padding" not in parts and is_builtin(parts["Transformer"].attention_type):
        logger.warning(
            "%s does not say what it made of padding, as SpeechBrain's recipe and version 0.1: it "
            "was trained with SpeechBrain's padding, and is loaded without",
            saved.hparams_file,
        )
    sum_file = saved.checkpoint / LAYER_SUM_FILE
    if layers == "sum" and summed:
        strict_load(encoder.layer_sum, read_tensors(sum_file), str(sum_file))
    return encoder


def _load_statistics(normalize, path):
    """SpeechBrain's statistics file; its own loader would also unpickle."""
    state = read_tensors(path)
    if normalize.norm_type != "global":
        return
    tensors = [state.get(key) for key in ("glob_mean", "glob_std")]
    if not state.get("count") or not all(isinstance(one, torch.Tensor) for one in tensors):
        raise UserError(
            f"{path} has no statistics of the features, and the hparams file says norm_type "
            "global: choose a checkpoint that was trained so"
        )
    normalize._load_statistics_dict(state)


def _ready(model, device, dtype):
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise UserError(f"dtype is {dtype!r}: give a torch.dtype of floats, as torch.bfloat16")
    return model.to(device=device, dtype=dtype).eval()
