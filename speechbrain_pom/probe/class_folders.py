"""Corpora with one folder per class: Speech Commands, VoxCeleb and the like."""

from collections import defaultdict
from pathlib import Path, PurePosixPath

from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.probe.holdout import PARTS, divide_by_group, divide_by_session
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

# Names of folders that are parts of the data and not classes, if all folders are so called.
_PART_FOLDERS = {
    "train": {"train", "training"},
    "valid": {"valid", "validation", "dev"},
    "test": {"test", "testing", "eval"},
}
_LISTS = {"valid": "validation_list.txt", "test": "testing_list.txt"}


def read_class_folders(
    data_folder: str | Path, manifest_folder: str | Path, **options
) -> tuple[list[dict], dict[str, str]]:
    """The audio files of a corpus whose classes are folders.

    The layout is `CLASS/**/FILE`, or `PART/CLASS/**/FILE` with folders train, test and perhaps
    valid. Folders whose name begins with `_` hold no class (`_background_noise_`).
    """
    prepare_audio_folder(data_folder, manifest_folder, **options)
    manifest = read_manifest(Path(manifest_folder) / "audio.csv")
    files = {
        key: PurePosixPath(row["wav"].removeprefix("$data_root/")) for key, row in manifest.items()
    }
    tops = {file.parts[0] for file in files.values() if len(file.parts) > 1}
    tops = {name for name in tops if not name.startswith("_")}
    in_parts = tops <= set().union(*_PART_FOLDERS.values()) and len(tops) > 1
    rows, given, lists = [], {}, _read_lists(Path(data_folder))
    for key, file in files.items():
        folders = file.parts[in_parts:-1]
        if not folders or folders[0].startswith("_"):
            continue
        rows.append({"ID": key, **manifest[key], "label": folders[0]})
        if in_parts:
            given[key] = next(part for part in PARTS if file.parts[0] in _PART_FOLDERS[part])
        elif file.as_posix() in lists:
            given[key] = lists[file.as_posix()]
    if not rows:
        raise UserError(
            f"data folder '{data_folder}' has no folders of classes: data_layout folder is "
            "CLASS/FILE, at any depth below CLASS"
        )
    if len(rows) < len(files):
        logger.info(
            "%s: %d of %d files are in no folder of a class: left out",
            data_folder,
            len(files) - len(rows),
            len(files),
        )
    return rows, given


def _read_lists(data_folder):
    """{path of a file: its part}, from the lists that Speech Commands has."""
    lists = {}
    for part, name in _LISTS.items():
        path = data_folder / name
        if path.is_file():
            lists |= dict.fromkeys(path.read_text(encoding="utf-8").split("\n"), part)
    return lists


def divide(
    rows: list[dict], given: dict[str, str], task: str, shares: dict[str, float]
) -> dict[str, list[dict]]:
    """Divide utterances as the data say, and by their names where they do not.

    >>> rows = [{"ID": key, "wav": key, "label": "x"} for key in "abcd"]
    >>> parts = divide(rows, {"a": "test"}, "keyword", {"valid": 0.0, "test": 0.5})
    >>> {name: [row["ID"] for row in part] for name, part in parts.items()}
    {'train': ['b', 'c', 'd'], 'valid': [], 'test': ['a']}
    """
    parts = defaultdict(list)
    for row in rows:
        parts[given.get(row["ID"])].append(row)
    open_shares = {part: 0.0 if parts[part] else share for part, share in shares.items()}
    method = divide_by_session if task == "speaker" else divide_by_group
    # Where training is given too, parts that are missing are taken from it.
    rest = method(parts[None] + parts["train"], open_shares)
    return {part: (parts[part] if part != "train" else []) + rest[part] for part in PARTS}
