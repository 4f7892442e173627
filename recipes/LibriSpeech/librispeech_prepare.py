#!/usr/bin/env python3
"""Manifests for the recipes in this folder: of LibriSpeech, or of your own audio and CSV files.

By hand, for example to prepare on a machine without a GPU:

    python recipes/LibriSpeech/librispeech_prepare.py DATA OUT --splits train-clean-100 dev-clean
"""

import argparse
import logging
from pathlib import Path

from speechbrain_pom.data.audio_files import CHECKS
from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.data.csv_manifest import parse_sources, prepare_csv
from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import merge_manifests
from speechbrain_pom.utils.errors import exit_on_user_error


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
    ValueError
        If the data cannot be prepared; the message says what to do.
    """
    if train_splits is None:
        train_splits = [split for split in splits if split.startswith("train")]
    for split in train_splits:
        if split not in splits:
            raise ValueError(f"training split '{split}' is not in splits {splits}: add it there")
    if "train" in splits and list(train_splits) != ["train"]:
        raise ValueError(
            f"split 'train' beside the training splits {train_splits}: its manifest would be "
            "theirs, train.csv; rename that folder"
        )
    manifests = prepare_librispeech(data_folder, splits, manifest_folder, **options)
    if train_splits:
        paths = [manifests[split] for split in train_splits]
        manifests["train"] = merge_manifests(paths, Path(manifest_folder) / "train.csv")
    return manifests


def prepare_pretraining(
    data_folder,
    manifest_folder,
    *,
    data_layout,
    train_splits,
    valid_split,
    valid_share,
    train_csv=None,
    valid_csv=None,
    **options,
):
    """Writes ``train.csv`` and ``valid.csv`` for pretraining, which needs no transcripts.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder with the audio.
    manifest_folder : str or pathlib.Path
        Where the manifests go; what is there and up to date is kept.
    data_layout : str
        ``"librispeech"``: ``data_folder`` holds ``train_splits`` and ``valid_split``.
        ``"folder"``: it holds audio files of any format, sample rate and nesting, of which
        ``valid_share`` are for validation.
    train_splits : list of str
    valid_split : str
    valid_share : float
    train_csv, valid_csv : str or list of str, optional
        CSV files instead of a layout, as `speechbrain_pom.data.csv_manifest` reads them.
    **options
        Of both layouts: max_bad_share, check_data, num_workers, show_progress.

    Returns
    -------
    dict of str to pathlib.Path
        The manifests ``train`` and ``valid``.

    Raises
    ------
    ValueError
        If the data cannot be prepared; the message says what to do.
    """
    if train_csv is not None:
        given = {"train": train_csv, "valid": valid_csv}
        return _prepare_csvs(given, manifest_folder, data_folder=data_folder, **options)
    if data_layout == "folder":
        return prepare_audio_folder(
            data_folder, manifest_folder, valid_share=valid_share, **options
        )
    if data_layout != "librispeech":
        raise ValueError(f"data_layout is {data_layout!r}: choose librispeech or folder")
    if "valid" in train_splits:
        raise ValueError(
            f"training splits {train_splits}: the manifest of 'valid' would be that of "
            "validation, valid.csv; rename that folder"
        )
    splits = [*train_splits, valid_split]
    options["need_transcripts"] = False
    manifests = prepare(data_folder, manifest_folder, splits, train_splits, **options)
    valid = merge_manifests([manifests[valid_split]], Path(manifest_folder) / "valid.csv")
    return {"train": manifests["train"], "valid": valid}


def prepare_finetuning(
    data_folder,
    manifest_folder,
    *,
    train_splits,
    valid_split,
    test_splits,
    train_csv=None,
    valid_csv=None,
    test_csv=None,
    **options,
):
    """Writes the manifests of fine-tuning: training, validation, and one for each test set.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that holds the splits; None if the CSV files say where the audio is.
    manifest_folder : str or pathlib.Path
        Where the manifests go; what is there and up to date is kept.
    train_splits : list of str
    valid_split : str
    test_splits : list of str
    train_csv, valid_csv, test_csv : str or list of str, optional
        CSV files instead of splits, as `speechbrain_pom.data.csv_manifest` reads them.
    **options
        max_bad_share, check_data, num_workers, show_progress.

    Returns
    -------
    train : pathlib.Path
    valid : pathlib.Path
    tests : dict of str to pathlib.Path
        By the name of the test set: the split, or that of the CSV source.

    Raises
    ------
    ValueError
        If the data cannot be prepared; the message says what to do.
    """
    if train_csv is not None:
        given = {"train": train_csv, "valid": valid_csv}
        tests = parse_sources(test_csv) if test_csv else []
        for source in tests:
            if source.name in given:
                raise ValueError(
                    f"a test set is called '{source.name}', which is the name of another "
                    "manifest: rename its CSV file"
                )
        options |= {"data_folder": data_folder, "need_transcripts": True}
        paths = _prepare_csvs(given, manifest_folder, **options)
        prepared = {
            source.name: prepare_csv(source.name, [source], manifest_folder, **options)
            for source in tests
        }
        return paths["train"], paths["valid"], prepared
    splits = [*train_splits, valid_split, *test_splits]
    manifests = prepare(data_folder, manifest_folder, splits, train_splits, **options)
    return (
        manifests["train"],
        manifests[valid_split],
        {name: manifests[name] for name in test_splits},
    )


def _prepare_csvs(given, manifest_folder, **options):
    for name, value in given.items():
        if value is None:
            raise ValueError(f"train_csv is given, but {name}_csv is not: give both")
    return {
        name: prepare_csv(name, parse_sources(value), manifest_folder, **options)
        for name, value in given.items()
    }


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
