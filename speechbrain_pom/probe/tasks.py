"""The two tasks of a probe, speakers and keywords: manifests with classes, from two layouts."""

from pathlib import Path
from typing import NamedTuple

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.librispeech import prepare_librispeech
from speechbrain_pom.data.manifest import read_manifest, write_manifest
from speechbrain_pom.probe.class_folders import divide, read_class_folders
from speechbrain_pom.probe.holdout import divide_by_session, position
from speechbrain_pom.probe.metrics import check_trials
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

TASKS = ("speaker", "keyword")
LAYOUTS = ("librispeech", "folder")


class ProbeData(NamedTuple):
    """Manifests of a task; each has a column `label`, the class."""

    train: Path
    valid: Path
    tests: dict  # name to manifest
    trials: Path | None  # utterances of speakers that training has not: for verification


def prepare_probe(
    data_folder,
    manifest_folder,
    *,
    task,
    data_layout,
    keywords=None,
    train_splits=(),
    valid_split=None,
    test_splits=(),
    verification_splits=(),
    valid_share=0.1,
    test_share=0.2,
    verification_share=0.0,
    **options,
):
    """Writes the manifests of a task, unless they are there and up to date.

    Arguments
    ---------
    data_folder, manifest_folder : str or pathlib.Path
    task : str
        "speaker": which of the training speakers is it? In LibriSpeech's layout, utterances of
        `train_splits`, and `verification_splits` for trials; else the folders of classes are
        speakers, of whom `verification_share` are kept for trials. "keyword": which of `keywords`
        is said? In LibriSpeech's layout, utterances whose transcript has exactly one of these
        words, in `train_splits`, `valid_split` and `test_splits`; else the folder is the word.
    data_layout : str
        "librispeech", or "folder": one folder per class.
    keywords : list of str, optional
        The classes of the keyword task; of folders all by default.
    train_splits, test_splits, verification_splits : list of str
        Of LibriSpeech's layout.
    valid_split : str, optional
        Likewise.
    valid_share, test_share : float
        Of the utterances, where the data are not divided already: by speaker or by session where
        possible, and by nothing but their names.
    verification_share : float
        Of the speakers in folders.
    **options
        Of both layouts: max_bad_share, check_data, num_workers, show_progress.

    Returns
    -------
    ProbeData

    Raises
    ------
    ValueError
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
    >>> data = prepare_probe(
    ...     root, root.parent / "csv", task="keyword", data_layout="folder", show_progress=False
    ... )
    >>> {row["label"] for row in read_manifest(data.tests["test"]).values()} <= {"go", "stop"}
    True
    """
    _check_choice("task", task, TASKS)
    _check_choice("data_layout", data_layout, LAYOUTS)
    shares = {"valid": valid_share, "test": test_share}
    _check_shares({**shares, "verification": verification_share})
    source_folder = Path(manifest_folder) / "source"
    if data_layout == "folder":
        rows, given = read_class_folders(data_folder, source_folder, **options)
        if task == "keyword" and keywords is not None:
            rows = _of_keywords(rows, keywords)
        share = with_trials = verification_share if task == "speaker" else 0.0
        trials = [row for row in rows if position("trials", row["label"]) < share]
        kept = {row["label"] for row in trials}
        parts = divide([row for row in rows if row["label"] not in kept], given, task, shares)
    elif task == "speaker":
        splits = [*train_splits, *verification_splits]
        manifests = prepare_librispeech(
            data_folder, splits, source_folder, need_transcripts=False, **options
        )
        parts = divide_by_session(_speakers(manifests, train_splits), shares)
        trials = _speakers(manifests, verification_splits)
        with_trials = bool(verification_splits)
    else:
        _check_keywords(keywords)
        named = {"train": train_splits, "valid": [valid_split], **{s: [s] for s in test_splits}}
        splits = [split for group in named.values() for split in group]
        manifests = prepare_librispeech(data_folder, splits, source_folder, **options)
        parts = {name: _keywords(manifests, group, keywords) for name, group in named.items()}
        trials, with_trials = [], False
    _check_parts(parts, trials, task)
    if with_trials:
        check_trials([row["label"] for row in trials])
    return _write(parts, trials, Path(manifest_folder))


def _check_choice(key, value, choices):
    if value not in choices:
        raise UserError(f"{key} is {value!r}: choose {' or '.join(choices)}")


def _check_shares(shares):
    for name, share in shares.items():
        if not isinstance(share, (int, float)) or not 0 <= share < 0.5:
            raise UserError(f"{name}_share is {share!r}: give a share, 0 <= x < 0.5")


def _check_keywords(keywords):
    if not keywords:
        raise UserError(
            "keywords is null: the keyword task in LibriSpeech's layout needs the words to tell "
            "apart, as --keywords '[YES, NO]'"
        )


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


def _of_keywords(rows, keywords):
    present = sorted({row["label"] for row in rows})
    missing = sorted(set(keywords) - set(present))
    if missing:
        raise UserError(
            f"keywords has {missing[0]!r}, and there is no folder of that name: there are "
            f"{', '.join(present[:20])}{' ...' if len(present) > 20 else ''}"
        )
    return [row for row in rows if row["label"] in keywords]


def _check_parts(parts, trials, task):
    trained = {row["label"] for row in parts["train"]}
    if len(trained) < 2:
        raise UserError(
            f"the training utterances are of {len(trained)} class(es): a {task} probe needs two "
            "at least"
        )
    both = sorted(trained & {row["label"] for row in trials})
    if both:
        raise UserError(
            f"verification_splits has speaker {both[0]!r}, who is in training too: name splits "
            "of other speakers"
        )
    for name, rows in parts.items():
        if not rows:
            raise UserError(
                f"no utterance is left for '{name}': give more data, other splits, or larger "
                "valid_share and test_share"
            )
        unknown = sorted({row["label"] for row in rows} - trained)
        if unknown:
            raise UserError(
                f"'{name}' has utterances of {', '.join(unknown[:5])}, and training has none: "
                "remove them, or leave them out by --keywords"
            )


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
    return ProbeData(paths["train"], paths["valid"], tests, paths.get("trials"))
