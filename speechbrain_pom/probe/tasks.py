"""The tasks of a probe: manifests with classes, from LibriSpeech, folders or CSV files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.csv_manifest import COLUMN_NAMES, parse_sources, prepare_csv
from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import read_manifest, write_manifest
from speechbrain_pom.data.prepare import OPTIONS, PARTS, Manifests, check_test_names
from speechbrain_pom.data.trials import check_trials
from speechbrain_pom.probe.checks import (
    check_choice,
    check_ids,
    check_keywords,
    check_parts,
    check_shares,
)
from speechbrain_pom.probe.class_folders import divide, read_class_folders
from speechbrain_pom.probe.holdout import divide_by_session, position
from speechbrain_pom.probe.metrics import TRIALS_ADVICE
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

TASKS = ("speaker", "keyword", "label")
LAYOUTS = ("librispeech", "folder")


def prepare_probe(
    hparams: Mapping[str, Any],
    manifest_folder: Path,
    sources: dict[str, Any] | None = None,
    with_test: bool = True,
) -> Manifests:
    """Write the manifests of a task, with the class in the column `label`.

    Arguments
    ---------
    hparams : dict
        `data_folder`, `task`, `keywords`, `valid_share`, `test_share`, `verification_share`,
        `max_bad_share`, `check_data`, and what the source of the data needs (see below).

        `task` is "speaker": which of the training speakers is it?; "keyword": which of `keywords`
        is said?; "label": which class is it, of a folder or of a CSV file's column?

        Parts that the data do not have are taken from training: `valid_share` and `test_share` of
        the utterances, by speaker or by session where possible, and by nothing but their names.
    manifest_folder : pathlib.Path
    sources : dict, optional
        CSV files for train, and perhaps valid, test and verification (`speechbrain_pom.data
        .csv_manifest`). The class is in `label_column`, by default the speaker's for the task
        "speaker" and else `label`. Without them, `data_layout` says what `data_folder` is:

        "librispeech": speakers of `train_splits`, and of `verification_splits` for trials; or
        utterances of `train_splits`, `valid_split` and `test_splits` whose transcript has exactly
        one of the keywords. "folder": one folder for each class.
    with_test : bool
        False: there need be no test of the training classes, as for verification.

    Returns
    -------
    Manifests
        Its trials are utterances of speakers that are not in training: those of verification, or
        `verification_share` of the speakers.

    Raises
    ------
    UserError
        If the data cannot be prepared, or a part of them, a class or the trials would be without
        utterances.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> root = getfixture("tmp_path") / "words"
    >>> for number in range(40):
    ...     path = root / ("go", "stop")[number % 2] / f"{number // 2:02d}_nohash_0.wav"
    ...     path.parent.mkdir(parents=True, exist_ok=True)
    ...     soundfile.write(path, np.ones(8000) / 2, 16000)
    >>> shares = {"valid_share": 0.1, "test_share": 0.2, "verification_share": 0.1}
    >>> data = {"data_folder": root, "data_layout": "folder", "task": "keyword", "keywords": None}
    >>> options = {"max_bad_share": 0.0, "check_data": "headers"}
    >>> manifests = prepare_probe({**data, **shares, **options}, root.parent / "csv")
    >>> {row["label"] for row in read_manifest(manifests.tests["test"]).values()} <= {"go", "stop"}
    True
    """
    task = hparams["task"]
    check_choice("task", task, TASKS)
    check_shares({name: hparams[f"{name}_share"] for name in ("valid", "test", "verification")})
    if sources:
        parts, trials, with_trials = _from_csv(hparams, manifest_folder / "source", sources)
    else:
        check_choice("data_layout", hparams["data_layout"], LAYOUTS)
        read = {"folder": _from_folders, "librispeech": _from_librispeech}[hparams["data_layout"]]
        parts, trials, with_trials = read(hparams, manifest_folder / "source")
    if not with_test and not parts.get("test", True):
        del parts["test"]
    check_parts(parts, trials, task)
    if with_trials:
        check_trials([row["label"] for row in trials], TRIALS_ADVICE)
    return _write(parts, trials, Path(manifest_folder))


def _options(hparams):
    return {key: hparams[key] for key in OPTIONS}


def _shares(hparams):
    return {"valid": hparams["valid_share"], "test": hparams["test_share"]}


def _from_folders(hparams, folder):
    """Parts, trials, and whether there must be trials, of a folder for each class."""
    rows, given = read_class_folders(hparams["data_folder"], folder, **_options(hparams))
    return _divide(hparams, _of_keywords(hparams, rows, "folder"), given)


def _divide(hparams, rows, given):
    """Keep speakers for trials, and divide the rest."""
    task = hparams["task"]
    share = hparams["verification_share"] if task == "speaker" else 0.0
    trials = [row for row in rows if position("trials", row["label"]) < share]
    kept = {row["label"] for row in trials}
    rest = [row for row in rows if row["label"] not in kept]
    return divide(rest, given, task, _shares(hparams)), trials, bool(share)


def _from_librispeech(hparams, folder):
    task, train_splits = hparams["task"], hparams["train_splits"]
    data_folder, options = hparams["data_folder"], _options(hparams)
    if task == "label":
        raise UserError("task label needs classes: give train_csv, or data_layout folder")
    if task == "speaker":
        others = hparams["verification_splits"]
        splits = [*train_splits, *others]
        options["need_transcripts"] = False
        manifests = prepare_librispeech(data_folder, splits, folder, **options)
        parts = divide_by_session(_speakers(manifests, train_splits), _shares(hparams))
        return parts, _speakers(manifests, others), bool(others)
    check_keywords(hparams["keywords"])
    tests = {split: [split] for split in hparams["test_splits"]}
    named = {"train": train_splits, "valid": [hparams["valid_split"]], **tests}
    splits = [split for group in named.values() for split in group]
    manifests = prepare_librispeech(data_folder, splits, folder, **options)
    keywords = hparams["keywords"]
    parts = {name: _keywords(manifests, group, keywords) for name, group in named.items()}
    return parts, [], False


def _from_csv(hparams, folder, sources):
    """As `_from_folders`; parts with a CSV file of their own are not divided."""
    column = hparams["label_column"]
    default = COLUMN_NAMES["spk_id"] if hparams["task"] == "speaker" else ("label",)
    columns = (column,) if column else default
    named = {part: parse_sources(sources[part]) for part in sources if sources[part] is not None}
    tests = named.pop("test", [])
    check_test_names(tests, {*PARTS, "trials"} - {"test"})
    named |= {source.name: [source] for source in tests}
    rows = {}
    for name, group in named.items():
        manifest = prepare_csv(
            name,
            group,
            folder,
            data_folder=hparams["data_folder"],
            label_columns=columns,
            **_options(hparams),
        )
        rows[name] = labelled_rows(name, manifest)
    check_ids(rows)
    trials = rows.pop("verification", [])
    held_out = {source.name: rows.pop(source.name) for source in tests}
    given = {row["ID"]: part for part, group in rows.items() for row in group}
    divisible = hparams | {
        **({"test_share": 0.0} if tests else {}),
        **({"verification_share": 0.0} if trials else {}),
    }
    open_rows = _of_keywords(hparams, [row for group in rows.values() for row in group], "row")
    parts, kept, with_trials = _divide(divisible, open_rows, given)
    if tests:
        del parts["test"]
        for name, group in held_out.items():
            parts[name] = _of_keywords(hparams, group, "row")
    return parts, trials or kept, bool(trials) or with_trials


def labelled_rows(name: str, manifest: str | Path) -> list[dict]:
    """The rows of a manifest that have a class; the log says how many have none."""
    rows = [{"ID": key, **row} for key, row in read_manifest(manifest).items()]
    labelled = [row for row in rows if row["label"]]
    if len(labelled) < len(rows):
        logger.info(
            "%s: %d of %d rows have no class: left out", name, len(rows) - len(labelled), len(rows)
        )
    return labelled


def _speakers(manifests, splits):
    """Rows of splits, labelled with their speakers."""
    return [
        {"ID": key, **row, "label": row["spk_id"]}
        for split in splits
        for key, row in read_manifest(manifests[split]).items()
    ]


def _keywords(manifests, splits, keywords):
    """Rows of splits that have exactly one of the keywords, labelled with it."""
    rows, num_utterances = [], 0
    for split in splits:
        manifest = read_manifest(manifests[split])
        num_utterances += len(manifest)
        for key, row in manifest.items():
            found = set(row["wrd"].split()) & set(keywords)
            if len(found) == 1:
                rows.append({"ID": key, **row, "label": found.pop()})
    logger.info(
        "%s: %d of %d utterances have exactly one of %s, the others are left out",
        ", ".join(splits),
        len(rows),
        num_utterances,
        ", ".join(keywords),
    )
    return rows


def _of_keywords(hparams, rows, kind):
    """The rows of the classes in `keywords`, which is only for the task of this name."""
    keywords = hparams["keywords"] if hparams["task"] == "keyword" else None
    if keywords is None:
        return rows
    present = sorted({row["label"] for row in rows})
    missing = sorted(set(keywords) - set(present))
    if missing:
        raise UserError(
            f"keywords has {missing[0]!r}, and there is no {kind} of that name: there are "
            f"{', '.join(present[:20])}{' ...' if len(present) > 20 else ''}"
        )
    return [row for row in rows if row["label"] in keywords]


def _write(parts, trials, folder):
    """All manifests, and what they hold in the log."""
    paths = {}
    for name, rows in {**parts, "trials": trials}.items():
        if not rows:
            continue
        paths[name] = write_manifest(folder / f"{name}.csv", rows)
        logger.info(
            "%s: %d utterances (%.1f min) of %d classes",
            name,
            len(rows),
            sum(row["duration"] for row in rows) / 60,
            len({row["label"] for row in rows}),
        )
    tests = {name: path for name, path in paths.items() if name not in ("train", "valid", "trials")}
    return Manifests(paths["train"], paths["valid"], tests, paths.get("trials"))
