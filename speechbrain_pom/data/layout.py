"""LibriSpeech's layout: which folders are splits, and where they are if not where expected.

The layout is `SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac` (16 kHz, mono) with one
`SPEAKER-CHAPTER.trans.txt` per chapter, whose lines are `UTTERANCE TRANSCRIPT`.
"""

import os
from itertools import islice
from pathlib import Path

from speechbrain_pom.utils.errors import UserError


def list_entries(folder: str | Path) -> list[os.DirEntry]:
    """What a folder holds, without hidden files, sorted by name.

    >>> (getfixture("tmp_path") / ".hidden").touch()
    >>> list_entries(getfixture("tmp_path"))
    []
    """
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(
            f"folder '{folder}' cannot be listed ({error.strerror}): check its permissions"
        ) from None
    return sorted(found, key=lambda entry: entry.name)


def list_subfolders(folder: str | Path) -> list[str]:
    """Paths of a folder's folders, sorted, without hidden ones.

    >>> list_subfolders(getfixture("tmp_path"))
    []
    """
    return [entry.path for entry in list_entries(folder) if entry.is_dir()]


def file_stamp(entry: os.DirEntry) -> str:
    """Size and time of a file, for fingerprints of folders.

    >>> (getfixture("tmp_path") / "a").touch()
    >>> file_stamp(list_entries(getfixture("tmp_path"))[0]).split()[0]
    '0'
    """
    try:
        stat = entry.stat()
    except OSError:  # a dangling link: reading it names the problem
        return "-1 -1"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def check_splits(splits: list[str]) -> list[str]:
    """Refuse names that cannot be folder names.

    >>> check_splits(["dev-clean", "dev-clean"])
    ['dev-clean']
    """
    if isinstance(splits, str) or not splits:
        raise UserError(f"splits is {splits!r}: pass a list of names, such as ['train-clean-100']")
    for split in splits:
        if not isinstance(split, str) or split in ("", ".", "..") or Path(split).name != split:
            raise UserError(f"split {split!r} is not a folder name: pass names such as 'dev-clean'")
    return list(dict.fromkeys(splits))


def check_is_folder(data_folder: str | Path, expected: str) -> None:
    """Refuse a data folder that is not a folder.

    >>> check_is_folder(getfixture("tmp_path"), "the folder that holds dev-clean")
    """
    if not os.path.isdir(data_folder):
        state = "is not a folder" if os.path.exists(data_folder) else "does not exist"
        raise UserError(f"data folder '{data_folder}' {state}: pass {expected}")


def check_data_folder(data_folder: Path, splits: list[str]) -> None:
    """Refuse a folder without the splits; say where they are if near.

    >>> (getfixture("tmp_path") / "dev-clean").mkdir()
    >>> check_data_folder(getfixture("tmp_path"), ["dev-clean"])
    """
    check_is_folder(data_folder, f"the folder that holds {', '.join(splits)}")
    missing = [split for split in splits if not os.path.isdir(data_folder / split)]
    if not missing:
        return
    problem = f"data folder '{data_folder}' has no split {', '.join(map(repr, missing))}"
    if _is_split(data_folder):
        parent = data_folder.resolve().parent
        raise UserError(f"{problem}, it is itself a split: pass the folder above it, '{parent}'")
    for child in list_subfolders(data_folder):
        if all(os.path.isdir(os.path.join(child, split)) for split in missing):
            raise UserError(f"{problem}, but '{child}' has: pass that folder instead")
    present = find_splits(data_folder)
    has = f"it has {', '.join(present)}" if present else "it has no SPLIT/SPEAKER/CHAPTER/*.flac"
    raise UserError(f"{problem} ({has}): unpack what is missing there, or ask for other splits")


def find_splits(data_folder: str | Path) -> list[str]:
    """The splits in a folder.

    >>> find_splits(getfixture("tmp_path"))
    []
    """
    return [os.path.basename(child) for child in list_subfolders(data_folder) if _is_split(child)]


def _is_split(folder):
    """Whether the first few folders two levels down hold audio: a glance, not a search."""
    try:
        for speaker in islice(list_subfolders(folder), 5):
            for chapter in islice(list_subfolders(speaker), 5):
                if any(entry.name.endswith(".flac") for entry in list_entries(chapter)):
                    return True
    except ValueError:  # not ours to read: no split for the purpose of a hint
        return False
    return False
