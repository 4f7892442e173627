#!/usr/bin/env python3
"""Manifests of LibriSpeech, or of any folder in its layout, for the recipes in this folder.

By hand, for example to prepare on a machine without a GPU:

    python recipes/LibriSpeech/librispeech_prepare.py DATA OUT --splits train-clean-100 dev-clean
"""

import argparse
import logging
from pathlib import Path

from speechbrain_pom.data.audio.files import CHECKS
from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import merge_manifests
from speechbrain_pom.data.prepare import OPTIONS, Manifests, prepare_shards
from speechbrain_pom.utils.errors import UserError, exit_on_user_error


def prepare(data_folder, manifest_folder, splits, train_splits=None, **options):
    """Writes one manifest per split, and ``train.csv``: all the training splits together.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that holds the splits.
    manifest_folder : str or pathlib.Path
        Where the manifests go; what is there and up to date is kept.
    splits : list of str
        The splits that the experiment uses, for example ``["train-clean-100", "dev-clean"]``.
    train_splits : list of str, optional
        Those of them that make ``train.csv``; by default all whose name starts with ``train``.
    **options
        Options of ``prepare_librispeech``.

    Returns
    -------
    dict of str to pathlib.Path
        Split to manifest; with ``"train"`` if there are training splits.

    Raises
    ------
    UserError
        If the data cannot be prepared; the message says what to do.
    """
    if train_splits is None:
        train_splits = [split for split in splits if split.startswith("train")]
    for split in train_splits:
        if split not in splits:
            raise UserError(f"training split '{split}' is not in splits {splits}: add it there")
    if "train" in splits and list(train_splits) != ["train"]:
        raise UserError(
            f"split 'train' beside the training splits {train_splits}: its manifest would be "
            "theirs, train.csv; rename that folder"
        )
    manifests = prepare_librispeech(data_folder, splits, manifest_folder, **options)
    if train_splits:
        paths = [manifests[split] for split in train_splits]
        manifests["train"] = merge_manifests(paths, Path(manifest_folder) / "train.csv")
    return manifests


def prepare_pretraining(hparams, manifest_folder):
    """The manifests of pretraining, which needs no transcripts, from a layout of `data_folder`.

    Arguments
    ---------
    hparams : dict
        Of the recipe. With ``data_layout: librispeech``, ``data_folder`` holds ``train_splits``
        and ``valid_split``; with ``folder``, it holds audio files of any format, sample rate and
        nesting, of which ``valid_share`` are for validation; with ``shards``, what
        ``python -m speechbrain_pom pack`` has made of either.
    manifest_folder : pathlib.Path
        What is there and up to date is kept.

    Returns
    -------
    speechbrain_pom.data.prepare.Manifests
    """
    layout, train_splits = hparams["data_layout"], hparams["train_splits"]
    options = {key: hparams[key] for key in OPTIONS}
    if layout == "folder":
        paths = prepare_audio_folder(
            hparams["data_folder"], manifest_folder, valid_share=hparams["valid_share"], **options
        )
        return Manifests(paths["train"], paths["valid"], {})
    if layout == "shards":
        return prepare_shards(hparams, manifest_folder, train_splits, hparams["valid_split"])
    if layout != "librispeech":
        raise UserError(f"data_layout is {layout!r}: choose librispeech, folder or shards")
    if "valid" in train_splits:
        raise UserError(
            f"training splits {train_splits}: the manifest of 'valid' would be that of "
            "validation, valid.csv; rename that folder"
        )
    splits = [*train_splits, hparams["valid_split"]]
    options["need_transcripts"] = False
    manifests = prepare(hparams["data_folder"], manifest_folder, splits, train_splits, **options)
    valid = [manifests[hparams["valid_split"]]]
    valid = merge_manifests(valid, manifest_folder / "valid.csv")
    return Manifests(manifests["train"], valid, {})


def prepare_finetuning(hparams, manifest_folder):
    """The manifests of fine-tuning: training, validation, and one for each test split.

    Arguments
    ---------
    hparams : dict
        Of the recipe; ``data_folder`` holds ``train_splits``, ``valid_split`` and ``test_splits``.
    manifest_folder : pathlib.Path
        What is there and up to date is kept.

    Returns
    -------
    speechbrain_pom.data.prepare.Manifests
    """
    train_splits, valid, tests = (
        hparams[key] for key in ("train_splits", "valid_split", "test_splits")
    )
    options = {key: hparams[key] for key in OPTIONS}
    splits = [*train_splits, valid, *tests]
    paths = prepare(hparams["data_folder"], manifest_folder, splits, train_splits, **options)
    return Manifests(paths["train"], paths[valid], {name: paths[name] for name in tests})


def main(argv=None):
    """Prepares from the command line; exits with code 2 if the data cannot be prepared."""
    summary = prepare.__doc__.splitlines()[0]
    parser = argparse.ArgumentParser(description=summary, allow_abbrev=False)
    parser.add_argument("data_folder", metavar="DATA", help="folder that holds the splits")
    parser.add_argument("manifest_folder", metavar="OUT", help="folder for the manifests")
    parser.add_argument("--splits", nargs="+", required=True, help="such as train-clean-100")
    parser.add_argument("--num_workers", type=int, help="processes (default: CPU cores)")
    parser.add_argument("--max_bad_share", type=float, default=0.0, help="may be left out, 0 to 1")
    parser.add_argument("--check_data", choices=CHECKS, default="headers", help="how deeply")
    parser.add_argument("--no_transcripts", action="store_true", help="audio alone is enough")
    arguments = vars(parser.parse_args(argv))
    arguments["need_transcripts"] = not arguments.pop("no_transcripts")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with exit_on_user_error():
        prepare(**arguments)


if __name__ == "__main__":
    main()
