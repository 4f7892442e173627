"""`export`: a trained model as a folder of data, for SpeechBrain and for model hubs."""

import hashlib
import json
from pathlib import Path

from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.loading import (
    HEAD_FILE,
    find_saved,
    load_encoder,
    load_recogniser,
)
from speechbrain_pom.inference.export import write_export
from speechbrain_pom.pretrained import MODEL_FILE
from speechbrain_pom.reports.model_card import (
    loading_snippet,
    read_environment,
    write_card,
)
from speechbrain_pom.runs.record import read_fingerprint, read_run
from speechbrain_pom.utils.files import sha256_of

EPILOG = """\
  python -m speechbrain_pom export results/ctc_pom/1000 exported/ctc_pom --licence apache-2.0

The folder holds hyperparams.yaml, weights as safetensors, the units of a fine-tuned model and a
model card (README.md): no pickles, no paths of this machine. SpeechBrain loads it with
EncoderASR.from_hparams (fine-tuned) and WaveformEncoder.from_hparams."""


def add_arguments(parser):
    """Add the arguments of `export`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    parser.add_argument(
        "run",
        metavar="RUN",
        help="output folder of a run (its newest checkpoint, or after fine-tuning the one with "
        "the best WER), or one CKPT+... folder",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--licence", help="such as apache-2.0 (default: not stated)")
    parser.add_argument("--language", help="of the speech, such as en")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export of the same run"
    )


def run(args):
    """Export a model, and say what was written and how it is loaded.

    Arguments
    ---------
    args : argparse.Namespace
        With run, out, licence, language and overwrite.

    Returns
    -------
    int
        0.

    Raises
    ------
    UserError
        If there is no such model, or the folder cannot be written.
    """
    saved = find_saved(args.run)
    print(f"checkpoint: {saved.checkpoint}{_standing(saved)}")
    paths = export_model(saved, args.out, args.licence, args.language, args.overwrite)
    for path in paths:
        print(f"{path.stat().st_size:12,} bytes  {Path(args.out) / path.name}")
    print(f"\n{loading_snippet(_is_tuned(saved), args.out)}")
    return 0


def _standing(saved):
    """Why this one of the run's checkpoints."""
    best = saved.task.best_metric
    if saved.task.use == "best" and best.name in saved.meta:
        return f" (validation: {best.label} {best.format(saved.meta[best.name])})"
    step = saved.meta.get("optimizer_step")
    return "" if step is None else f" ({step} steps)"


def _is_tuned(saved):
    return (saved.checkpoint / HEAD_FILE).is_file()


def export_model(saved, out, licence=None, language=None, overwrite=False):
    """Export the model of a checkpoint.

    Arguments
    ---------
    saved : speechbrain_pom.encoder.loading.Saved
        From `find_saved`.
    out : str or pathlib.Path
        The folder to write; its name is the title of the model card.
    licence, language : str, optional
        For the model card.
    overwrite : bool
        Whether an export of the same run is replaced.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    UserError
        If the model cannot be loaded, or the folder cannot be written.
    """
    load = load_recogniser if _is_tuned(saved) else load_encoder
    model = load(saved.checkpoint)
    name = Path(out).resolve().name
    return write_export(
        out,
        model,
        read_architecture(saved.hparams_file),
        write_card(name, model, saved, licence, language),
        run=run_identity(saved),
        commit=read_environment(saved.run_folder)[0],
        overwrite=overwrite,
    )


def run_identity(saved):
    """What tells the exports of a run from those of others, wherever its folder lies.

    Arguments
    ---------
    saved : speechbrain_pom.encoder.loading.Saved

    Returns
    -------
    str
        Hexadecimal. All checkpoints of a run have the same: it is made of the run's configuration,
        training data and pretrained encoder. A checkpoint without its run has that of its weights.
    """
    folder = saved.run_folder
    if folder is None:
        return sha256_of(saved.checkpoint / MODEL_FILE)
    configuration = read_run(folder).get("configuration")
    if configuration is None:
        facts = [sha256_of(saved.hparams_file)]
    else:  # as version 0.1 wrote it, so that its exports are those of the same run
        text = json.dumps(configuration, indent=1) + "\n"
        facts = [hashlib.sha256(text.encode()).hexdigest()]
    manifest = folder / "manifests" / "train.csv"
    facts += [sha256_of(manifest)] if manifest.is_file() else []
    facts.append(str(read_fingerprint(folder, "pretrained")))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()
