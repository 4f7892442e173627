"""Manifests and datasets of downstream tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_pom.data.csv_manifest import COLUMN_NAMES
from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import merge_manifests, write_manifest
from speechbrain_pom.data.prepare import OPTIONS, Manifests, prepare_csvs
from speechbrain_pom.data.trials import check_trials
from speechbrain_pom.probe.checks import check_ids, check_parts, check_shares
from speechbrain_pom.probe.holdout import divide_by_session
from speechbrain_pom.probe.tasks import labelled_rows, prepare_probe
from speechbrain_pom.training.dataset import audio_dataset
from speechbrain_pom.utils.errors import UserError

_ADVICE = "give other test_csv, or a list of trials"


def prepare_recognition(hparams: Mapping[str, Any], manifest_folder: Path) -> Manifests:
    """The manifests of speech recognition from LibriSpeech's layout.

    Arguments
    ---------
    hparams : dict
        `data_folder` holds `train_splits`, `valid_split` and `test_splits`.
    manifest_folder : pathlib.Path

    Returns
    -------
    Manifests

    Raises
    ------
    UserError
        If the data cannot be prepared.
    """
    tests = {split: split for split in hparams["test_splits"]}
    splits = [*hparams["train_splits"], hparams["valid_split"], *tests]
    options = {key: hparams[key] for key in OPTIONS}
    paths = prepare_librispeech(
        hparams["data_folder"], splits, Path(manifest_folder) / "splits", **options
    )
    train = merge_manifests(
        [paths[split] for split in hparams["train_splits"]], Path(manifest_folder) / "train.csv"
    )
    return Manifests(train, paths[hparams["valid_split"]], {name: paths[name] for name in tests})


def prepare_verification(
    hparams: Mapping[str, Any], manifest_folder: Path, sources: dict[str, Any] | None = None
) -> Manifests:
    """Write the manifests of speaker verification, with the speaker in the column `label`.

    Training speakers are told apart in validation; trials are pairs of utterances of other
    speakers, in `tests`. Without a part for validation, `valid_share` of each training speaker's
    utterances are held out, whole sessions where possible.

    Arguments
    ---------
    hparams : dict
        The recipe's keys.
    manifest_folder : pathlib.Path
    sources : dict, optional
        CSV files for train, test and perhaps valid, and perhaps lists of trials. Without them
        `data_folder` is in one of the layouts of `speechbrain_pom.probe.prepare_probe`.

    Returns
    -------
    Manifests

    Raises
    ------
    UserError
        If data are missing, a speaker is both in training and in a test, or no trials can be made.
    """
    folder = Path(manifest_folder)
    if not sources:
        keys = {**hparams, "task": "speaker", "keywords": None, "test_share": 0.0}
        made = prepare_probe(keys, folder, with_test=False)
        if made.trials is None:
            raise UserError(
                "the data have no other speakers for trials: give verification_splits or "
                "verification_share, or train_csv and test_csv"
            )
        return Manifests(made.train, made.valid, {"verification": made.trials})
    if sources.get("test") is None:
        raise UserError("train_csv is given, but test_csv is not: trials need other speakers")
    check_shares({"valid": hparams["valid_share"]})
    columns = (hparams["label_column"],) if hparams["label_column"] else COLUMN_NAMES["spk_id"]
    divided = sources.get("valid") is None
    given = {**sources, "valid": sources["train"]} if divided else sources
    made = prepare_csvs(hparams, folder / "source", given, label_columns=columns)
    manifests = {"train": made.train, "valid": made.valid, **made.tests}
    rows = {name: labelled_rows(name, path) for name, path in manifests.items()}
    if divided:
        shares = {"valid": hparams["valid_share"], "test": 0.0}
        rows |= {**divide_by_session(rows["train"], shares), **{n: rows[n] for n in made.tests}}
    trials = [row for name in made.tests for row in rows[name]]
    _check(rows, trials, made)
    paths = {
        name: write_manifest(folder / f"{name}.csv", rows[name])
        for name in ("train", "valid", *made.tests)
    }
    train, valid = paths.pop("train"), paths.pop("valid")
    return Manifests(train, valid, paths, trial_lists=made.trial_lists)


def _check(rows, trials, made):
    check_parts({name: rows[name] for name in ("train", "valid")}, trials, "speaker")
    check_ids({name: rows[name] for name in ("train", "valid", *made.tests)})
    if made.trial_lists is None:
        for name in made.tests:
            check_trials([row["label"] for row in rows[name]], _ADVICE)


def task_datasets(
    data: Manifests, data_folder: str | None, max_duration_s: float = float("inf")
) -> dict[str, DynamicItemDataset]:
    """Datasets with waveforms: train and valid, of at most a duration, and the tests by name."""
    paths = {"train": data.train, "valid": data.valid, **data.tests}
    limits = {name: {"max_duration_s": max_duration_s} for name in ("train", "valid")}
    return {
        name: audio_dataset(path, data_folder, **limits.get(name, {}))
        for name, path in paths.items()
    }
