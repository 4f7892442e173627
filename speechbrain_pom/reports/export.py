"""Exports a trained model with its card, for SpeechBrain and for model hubs."""

import hashlib
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from speechbrain_pom.ctc.tokenizers import UNITS_FILE
from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.loading import HEAD_FILE, MODEL_FILE, Saved, load_encoder
from speechbrain_pom.inference.export import write_export
from speechbrain_pom.inference.recogniser import load_recogniser
from speechbrain_pom.reports.model_card import (
    read_environment,
    write_card,
)
from speechbrain_pom.runs.record import read_fingerprint, read_run
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of

FORMS = ("speechbrain", "transformers")


def describe_choice(saved: Saved) -> str:
    """Why this checkpoint of its run was chosen, to stand after its name."""
    best = saved.task.best_metric
    if saved.task.use == "best" and best.name in saved.meta:
        return f" (validation: {best.label} {best.format(saved.meta[best.name])})"
    step = saved.meta.get("optimizer_step")
    return "" if step is None else f" ({step} steps)"


def is_finetuned(saved: Saved) -> bool:
    """Whether a checkpoint, or an export, has the output layer of fine-tuning."""
    return (saved.checkpoint / (UNITS_FILE if saved.is_export else HEAD_FILE)).is_file()


def export_model(
    saved: Saved,
    out: str | Path,
    licence: str | None = None,
    language: str | None = None,
    overwrite: bool = False,
    form: str = "speechbrain",
) -> list[Path]:
    """Export the model of a checkpoint to a folder, whose name is the title of the model card.

    Returns the files. `overwrite` replaces an export of the same run. With the form "transformers"
    the folder is for `AutoModel` too.
    """
    write_config = config_writer(form)
    load = load_recogniser if is_finetuned(saved) else load_encoder
    model = load(saved.checkpoint)
    name = Path(out).resolve().name
    return write_export(
        out,
        model,
        read_architecture(saved.hparams_file),
        write_card(name, model, saved, licence, language, form),
        run=run_identity(saved),
        commit=read_environment(saved.run_folder)[0],
        overwrite=overwrite,
        write_config=write_config,
    )


def config_writer(form: str) -> Callable | None:
    """What writes the files that a form needs besides SpeechBrain's, if there are any.

    A `UserError` for an unknown form, or if its package is not installed.
    """
    if form not in FORMS:
        raise UserError(f"--format is {form!r}: choose {' or '.join(FORMS)}")
    if form == "speechbrain":
        return None
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "--format transformers needs transformers: pip install 'speechbrain-pom[hf]'"
        )
    return importlib.import_module("speechbrain_pom.hf.files").write_config


def run_identity(saved: Saved) -> str:
    """What distinguishes the exports of a run from those of others, wherever its folder is.

    All checkpoints of a run have the same hexadecimal digest, of the run's configuration, training
    data and pretrained encoder. A checkpoint without its run has that of its weights.
    """
    folder = saved.run_folder
    if folder is None:
        return sha256_of(saved.checkpoint / MODEL_FILE)
    configuration = read_run(folder).get("configuration")
    if configuration is None:
        parts = [sha256_of(saved.hparams_file)]
    else:  # as version 0.1 wrote it, so that its exports count as those of the same run
        text = json.dumps(configuration, indent=1) + "\n"
        parts = [hashlib.sha256(text.encode()).hexdigest()]
    manifest = folder / "manifests" / "train.csv"
    parts += [sha256_of(manifest)] if manifest.is_file() else []
    parts.append(str(read_fingerprint(folder, "pretrained")))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
