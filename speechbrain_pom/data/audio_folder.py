"""Manifests of a folder of audio without transcripts: any nesting, format and sample rate."""

import hashlib
import logging
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from speechbrain_pom.data.audio.files import (
    SAMPLE_RATE,
    inspect_audio,
    path_problems,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.data.audio.formats import (
    EXTENSIONS,
    first_names,
    is_audio_name,
    looks_like_audio,
)
from speechbrain_pom.data.layout import check_is_folder, file_stamp, list_entries
from speechbrain_pom.data.manifest import COLUMNS, read_manifest, write_manifest
from speechbrain_pom.data.records import (
    BadUtterance,
    check_options,
    inspection_s,
    sort_out,
    update_manifest,
)
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.processes import map_in_processes

_RECORD_VERSION = 2  # raise it when the same folder would give another manifest
_UNSAFE = re.compile(r"[^\w./+-]")

logger = logging.getLogger(__name__)


class FolderScan(NamedTuple):
    """What a folder of audio holds."""

    files: list  # paths in the folder, with `/`, sorted
    fingerprint: str  # another one whenever a file changed
    unread: list  # paths of files that hold audio, but have another ending


def prepare_audio_folder(
    data_folder: str | Path,
    manifest_folder: str | Path,
    *,
    valid_share: float = 0.01,
    num_workers: int | None = None,
    show_progress: bool = True,
    max_bad_share: float = 0.0,
    check_data: str = "headers",
) -> dict[str, Path]:
    """Write `train.csv` and `valid.csv` for a folder of audio, unless they are up to date.

    Each file is one utterance. Its ID is its path in the folder; where that holds other characters
    than letters, digits and `_ . / + -`, these become `_` and a part of the path's SHA-256 is
    added. Files of other sample rates and of several channels are resampled to 16 kHz and mixed
    down when they are read: `num_samples` and `duration` are those of the result, and the
    column `sample_rate` is that of the file. Which utterances are for validation depends on
    their IDs alone, so others do not change sides when files are added.

    `audio.csv` holds both parts; `audio.json` and `audio.problems.json` lie beside it as
    for `prepare_librispeech`. Hidden files are ignored, and so are files that are not audio by
    their name; the log counts and names those of them that hold audio.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder; links in it are followed.
    manifest_folder : str or pathlib.Path
        Where the manifests go; made if needed.
    valid_share : float
        The share of utterances for validation, 0 < x < 1; at least one.
    num_workers : int, optional
        Processes that read audio; the CPU cores of this process by default.
    show_progress : bool
        Whether a progress bar is shown.
    max_bad_share : float
        The share of utterances that may be left out because they are bad, 0 <= x < 1.
    check_data : str
        `"headers"` or `"decode"`, as `prepare_librispeech` takes it. MP3 files are always
        decoded.

    Returns
    -------
    dict of str to pathlib.Path
        The manifests `train` and `valid`.

    Raises
    ------
    UserError
        If an argument is wrong, a folder cannot be read or written, it holds fewer than two good
        audio files, or more are bad than `max_bad_share` allows.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> root = getfixture("tmp_path") / "audio"
    >>> root.mkdir()
    >>> for name in ("a.flac", "b.wav"):
    ...     soundfile.write(root / name, np.ones((44101, 2)) / 2, 44100)
    >>> paths = prepare_audio_folder(root, root.parent / "csv", show_progress=False)
    >>> read_manifest(paths["train"])["b.wav"]["num_samples"]
    16001
    """
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    check_share(valid_share)
    num_workers = check_options(max_bad_share, check_data, num_workers)
    check_is_folder(data_folder, "the folder that holds your audio files")

    files, fingerprint, unread = scan_folder(data_folder)
    if unread:
        logger.warning("%s: %s", data_folder, describe_unread(unread))
    source = {
        "version": _RECORD_VERSION,
        "data_folder": str(data_folder.resolve()),
        "check_data": check_data,
        "fingerprint": fingerprint,
    }
    manifest = manifest_folder / "audio.csv"
    title = data_folder.name if show_progress else None
    read = partial(read_files, data_folder, files, check_data, num_workers, title)
    expected_s = inspection_s(len(files), check_data, num_workers)
    update_manifest(manifest, source, read, max_bad_share, expected_s)
    return _split(manifest, valid_share)


def check_share(valid_share: float) -> None:
    """Refuse a share for validation that leaves nothing for it, or nothing else.

    >>> check_share(0.01)
    """
    if not isinstance(valid_share, (int, float)) or not 0 < valid_share < 1:
        raise UserError(f"valid_share is {valid_share!r}: it must be a share, 0 < x < 1")


def scan_folder(data_folder: Path) -> FolderScan:
    """List a folder's audio files, and digest their paths, sizes and times.

    >>> (getfixture("tmp_path") / "deep").mkdir()
    >>> (getfixture("tmp_path") / "deep" / "A.WAV").touch()
    >>> scan_folder(getfixture("tmp_path")).files
    ['deep/A.WAV']
    """
    found, unread = {}, []
    for entry in _walk(data_folder):
        file = Path(entry.path).relative_to(data_folder).as_posix()
        if is_audio_name(entry.name):
            found[file] = file_stamp(entry)
        elif entry.is_file() and looks_like_audio(entry.path):
            unread.append(file)
    if not found:
        endings = ", ".join(sorted(EXTENSIONS))
        but = f"; {describe_unread(unread)}" if unread else ""
        raise UserError(
            f"data folder '{data_folder}' holds no audio files ({endings}), at any depth: "
            f"pass the folder that holds your audio files{but}"
        )
    digest = hashlib.sha256()
    for file in sorted(found):
        digest.update(os.fsencode(f"{file}\0{found[file]}\n"))
    return FolderScan(sorted(found), digest.hexdigest(), sorted(unread))


def describe_unread(files: list[str]) -> str:
    """What is said of files that hold audio and are not read, because of how their names end.

    >>> describe_unread(["a.bin"])
    '1 file(s) hold audio, but do not end as audio files do, and are not read: rename a.bin'
    """
    sentence = "file(s) hold audio, but do not end as audio files do, and are not read: rename"
    return f"{len(files)} {sentence} {first_names(files)}"


def _walk(data_folder):
    """Yield the files in a folder and its folders; links are followed, each folder once."""
    folders, visited = [Path(data_folder)], set()
    while folders:
        folder = folders.pop()
        real = os.path.realpath(folder)
        if real in visited:  # links may lead back
            continue
        visited.add(real)
        for entry in list_entries(folder):
            if entry.is_dir():
                folders.append(Path(entry.path))
            else:
                yield entry


def read_files(
    data_folder: Path, files: list[str], check_data: str, num_workers: int, bar_title: str | None
) -> tuple[list[dict], list[BadUtterance]]:
    """Look at the files of a folder, in several processes.

    The rows of a manifest, in the order of the files, and the bad utterances. Without a
    `bar_title` there is no progress bar.
    """
    read = partial(_read_file, str(data_folder), check_data)
    return sort_out(map_in_processes(read, files, num_workers, bar_title=bar_title, chunksize=16))


def _read_file(data_folder, check_data, file):
    """The manifest row of a file, or None, and a bad utterance, or None."""
    utterance = utterance_id(file)
    facts = inspect_audio(os.path.join(data_folder, file), check_data)
    problems = facts.problems | path_problems(file)
    if facts.sample_rate:
        problems |= resampling_problems(facts)
    if problems:
        return None, BadUtterance(utterance, file, facts.duration_s, problems)
    num_samples = resampled_length(facts.num_samples, facts.sample_rate)
    values = (utterance, num_samples / SAMPLE_RATE, num_samples, f"$data_root/{file}", "", "")
    row = dict(zip(COLUMNS, values, strict=True))
    return row | {"sample_rate": facts.sample_rate}, None


def utterance_id(file: str) -> str:
    """The ID of a file by its path in the folder.

    >>> utterance_id("deep/a.wav"), utterance_id("a b.wav")
    ('deep/a.wav', 'a_b-7301eec9d260')
    """
    safe = _UNSAFE.sub("_", file)
    if safe == file:
        return file
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()
    return f"{PurePosixPath(safe).with_suffix('')}-{digest[:12]}"


def _split(manifest, valid_share):
    """Write the two parts of a manifest."""
    rows = [{"ID": key, **row} for key, row in read_manifest(manifest).items()]
    if len(rows) < 2:
        raise UserError(
            f"'{manifest}' holds {len(rows)} audio file: training and validation need one each, "
            "at least; add files"
        )
    valid = choose_valid([row["ID"] for row in rows], valid_share)
    parts = {
        name: [row for row, side in zip(rows, valid, strict=True) if side == (name == "valid")]
        for name in ("train", "valid")
    }
    return {name: write_manifest(manifest.with_name(f"{name}.csv"), parts[name]) for name in parts}


def choose_valid(ids: Sequence[str], valid_share: float) -> np.ndarray:
    """Which utterances are for validation: at least one, and not all; (num_utterances,) booleans.

    >>> choose_valid(["a", "b", "c"], 0.5).tolist()
    [False, True, True]
    """
    positions = np.fromiter(map(_position, ids), dtype=np.float64, count=len(ids))
    num_valid = min(max(1, int((positions < valid_share).sum())), len(ids) - 1)
    valid = np.zeros(len(ids), dtype=bool)
    valid[np.argsort(positions, kind="stable")[:num_valid]] = True
    return valid


def _position(utterance):
    """A number in [0, 1) that depends on the utterance alone."""
    return int(hashlib.sha256(utterance.encode("utf-8")).hexdigest()[:13], 16) / 16**13
