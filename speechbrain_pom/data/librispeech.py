"""Manifests of LibriSpeech, or of any folder in its layout, from audio headers alone.

The layout is ``SPLIT/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NUMBER.flac`` (16 kHz, mono) with one
``SPEAKER-CHAPTER.trans.txt`` per chapter, whose lines are ``UTTERANCE TRANSCRIPT``.
"""

import hashlib
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import soundfile
from tqdm import tqdm

from speechbrain_pom.data.manifest import COLUMNS, BadUtterance, is_up_to_date, save_manifest

SAMPLE_RATE = 16000
"""Sample rate of LibriSpeech, in Hz."""

_RECORD_VERSION = 1  # raise it when the same folder would give another manifest
_MAX_SAMPLES = 2**36  # of a FLAC header; libsndfile gives 2**63 - 1 for "unknown"
_PLACEHOLDER = re.compile(r"\$[\w.]")  # what SpeechBrain replaces in every value of a manifest


class _Chapter(NamedTuple):
    folder: str  # SPLIT/SPEAKER/CHAPTER
    audio: tuple  # file names, sorted
    transcripts: tuple  # file names, sorted


def prepare_librispeech(
    data_folder,
    splits,
    manifest_folder,
    num_workers=None,
    show_progress=True,
    need_transcripts=True,
    max_bad_share=0.0,
):
    """Writes ``SPLIT.csv`` for each split that is asked for, unless it is there and up to date.

    Only audio headers are read. ``SPLIT.json`` records what the manifest was made from (path, size
    and time of every audio and transcript file): it is made again when any of that, the folder, or
    the manifest itself changed. ``SPLIT.problems.json`` lists the bad utterances, if any.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder that holds the splits (LibriSpeech's own is called ``LibriSpeech``).
    splits : list of str
        Names of folders in ``data_folder``, for example ``["train-clean-100", "dev-clean"]``.
    manifest_folder : str or pathlib.Path
        Where the manifests go; made if needed.
    num_workers : int, optional
        Processes that read headers; the CPU cores of this process by default.
    show_progress : bool
        Whether a progress bar is shown.
    need_transcripts : bool
        Whether each utterance must have a transcript. If not, transcript files are not read,
        and the column ``wrd`` is empty.
    max_bad_share : float
        The share of a split's utterances that may be left out because they are bad, 0 <= x < 1.

    Returns
    -------
    dict of str to pathlib.Path
        Split to manifest, in the order of ``splits``.

    Raises
    ------
    ValueError
        If an argument is wrong, a folder or split is missing, ``manifest_folder`` cannot be
        written, or more utterances are bad than ``max_bad_share`` allows: audio that is
        unreadable, empty, not 16 kHz or not mono; a transcript that is missing, empty, given
        twice or without audio; an ID that occurs twice. The message names the first ten of each
        split.

    Example
    -------
    >>> import numpy as np
    >>> root = getfixture("tmp_path")
    >>> chapter = root / "dev-clean" / "84" / "121123"
    >>> chapter.mkdir(parents=True)
    >>> soundfile.write(chapter / "84-121123-0000.flac", np.zeros(8000), 16000)
    >>> _ = (chapter / "84-121123.trans.txt").write_text("84-121123-0000 GO ON\\n")
    >>> paths = prepare_librispeech(root, ["dev-clean"], root / "csv", show_progress=False)
    >>> paths["dev-clean"].read_text().splitlines()[1]
    '84-121123-0000,0.5,8000,$data_root/dev-clean/84/121123/84-121123-0000.flac,84,GO ON'
    """
    data_folder, manifest_folder = Path(data_folder), Path(manifest_folder)
    splits = _checked_splits(splits)
    num_workers = _checked_num_workers(num_workers)
    if not isinstance(max_bad_share, (int, float)) or not 0 <= max_bad_share < 1:
        raise ValueError(f"max_bad_share is {max_bad_share!r}: it must be a share, 0 <= x < 1")
    _check_data_folder(data_folder, splits)

    scans = {split: _scan_split(data_folder, split) for split in splits}
    manifests = {split: manifest_folder / f"{split}.csv" for split in splits}
    source = {
        "version": _RECORD_VERSION,
        "data_folder": str(data_folder.resolve()),
        "need_transcripts": bool(need_transcripts),
    }
    sources = {split: source | {"fingerprint": scans[split][1]} for split in splits}
    stale = [s for s in splits if not is_up_to_date(manifests[s], sources[s], max_bad_share)]
    if stale:
        _check_writable(manifest_folder)
    read = partial(_read_chapter, str(data_folder), bool(need_transcripts))
    errors = []
    for split in stale:
        chapters = scans[split][0]
        total = sum(len(chapter.audio) for chapter in chapters)
        with tqdm(total=total, desc=split, unit="file", disable=not show_progress) as bar:
            rows, bad = _read_split(read, chapters, num_workers, bar)
        try:
            save_manifest(manifests[split], rows, bad, sources[split], max_bad_share)
        except ValueError as error:  # the other splits' problems belong in the same message
            errors.append(str(error))
    if errors:
        raise ValueError(" | ".join(errors))
    return manifests


def _checked_splits(splits):
    if isinstance(splits, str) or not splits:
        raise ValueError(f"splits is {splits!r}: pass a list of names, such as ['train-clean-100']")
    for split in splits:
        if not isinstance(split, str) or split in ("", ".", "..") or Path(split).name != split:
            raise ValueError(f"split {split!r} is no folder name: pass names such as 'dev-clean'")
    return list(dict.fromkeys(splits))


def _checked_num_workers(num_workers):
    if num_workers is None:
        has_affinity = hasattr(os, "sched_getaffinity")
        return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    if not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"num_workers is {num_workers!r}: it must be an integer of at least 1")
    return num_workers


def _check_data_folder(data_folder, splits):
    """Raises unless every split is a folder in ``data_folder``; says where they are if near."""
    if not os.path.isdir(data_folder):
        state = "is not a folder" if os.path.exists(data_folder) else "does not exist"
        raise ValueError(
            f"data folder '{data_folder}' {state}: pass the folder that holds {', '.join(splits)}"
        )
    missing = [split for split in splits if not os.path.isdir(data_folder / split)]
    if not missing:
        return
    problem = f"data folder '{data_folder}' has no split {', '.join(map(repr, missing))}"
    if _is_split(data_folder):
        parent = data_folder.resolve().parent
        raise ValueError(f"{problem}, it is itself a split: pass the folder above it, '{parent}'")
    children = _subfolders(data_folder)
    for child in children:
        if all(os.path.isdir(os.path.join(child, split)) for split in missing):
            raise ValueError(f"{problem}, but '{child}' has: pass that folder instead")
    present = [os.path.basename(child) for child in children if _is_split(child)]
    has = f"it has {', '.join(present)}" if present else "it has no SPLIT/SPEAKER/CHAPTER/*.flac"
    raise ValueError(f"{problem} ({has}): unpack what is missing there, or ask for other splits")


def _entries(folder):
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise ValueError(
            f"folder '{folder}' cannot be listed ({error.strerror}): check its permissions"
        ) from None
    return sorted(found, key=lambda entry: entry.name)


def _subfolders(folder):
    return [entry.path for entry in _entries(folder) if entry.is_dir()]


def _is_split(folder):
    """Whether the first few folders two levels down hold audio: a glance, not a search."""
    try:
        for speaker in islice(_subfolders(folder), 5):
            for chapter in islice(_subfolders(speaker), 5):
                if any(entry.name.endswith(".flac") for entry in _entries(chapter)):
                    return True
    except ValueError:  # not ours to read: no split for the purpose of a hint
        return False
    return False


def _scan_split(data_folder, split):
    """Lists a split's chapters, and digests paths, sizes and times of their files."""
    digest, chapters = hashlib.sha256(), []
    for speaker in _subfolders(data_folder / split):
        for chapter in _subfolders(speaker):
            files = [e for e in _entries(chapter) if e.name.endswith((".flac", ".trans.txt"))]
            folder = Path(chapter).relative_to(data_folder).as_posix()
            for entry in files:
                try:
                    stat = entry.stat()
                    size, mtime_ns = stat.st_size, stat.st_mtime_ns
                except OSError:  # a dangling link: reading it names the problem
                    size, mtime_ns = -1, -1
                digest.update(os.fsencode(f"{folder}/{entry.name}\0{size}\0{mtime_ns}\n"))
            audio = tuple(e.name for e in files if e.name.endswith(".flac"))
            transcripts = tuple(e.name for e in files if not e.name.endswith(".flac"))
            if files:
                chapters.append(_Chapter(folder, audio, transcripts))
    if not any(chapter.audio for chapter in chapters):
        raise ValueError(
            f"split '{split}' in '{data_folder}' holds no SPEAKER/CHAPTER/*.flac: "
            "unpack it again, or ask for other splits"
        )
    return chapters, digest.hexdigest()


def _check_writable(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(
            f"manifest folder '{folder}' cannot be written ({error.strerror}): "
            "choose another one or change its permissions"
        ) from None


def _read_split(read, chapters, num_workers, bar):
    """Reads all chapters; returns the rows and the bad utterances, in the order of their paths."""
    rows, bad = {}, []
    results = _map(read, chapters, min(num_workers, len(chapters)))
    for chapter, (chapter_rows, chapter_bad) in zip(chapters, results, strict=True):
        for row in chapter_rows:
            first = rows.setdefault(row["ID"], row)
            if first is not row:
                file, other = (item["wav"].removeprefix("$data_root/") for item in (row, first))
                problem = f"has the same ID as {other}: rename one"
                bad.append(BadUtterance(row["ID"], file, row["duration"], [problem]))
        bad += chapter_bad
        bar.update(len(chapter.audio))
    return list(rows.values()), bad


def _map(function, items, num_workers):
    if num_workers == 1:
        yield from map(function, items)
        return
    # Forked workers touch nothing but soundfile; spawned ones would import the recipe and torch.
    context = get_context("fork" if sys.platform == "linux" else None)
    pool = ProcessPoolExecutor(num_workers, mp_context=context)
    try:
        yield from pool.map(function, items, chunksize=4)
    finally:
        pool.shutdown(cancel_futures=True)


def _read_chapter(data_folder, need_transcripts, chapter):
    """Returns the chapter's manifest rows and its bad utterances."""
    speaker = chapter.folder.split("/")[-2]
    texts, absent = _read_transcripts(data_folder, chapter) if need_transcripts else ({}, "")
    rows, bad = [], []
    for name in chapter.audio:
        utterance, file = name.removesuffix(".flac"), f"{chapter.folder}/{name}"
        num_samples, duration_s, problems = _read_header(os.path.join(data_folder, file))
        if _PLACEHOLDER.search(file) or not file.isprintable():
            problems.append("its path holds '$' or an unprintable character: rename it")
        found = texts.pop(utterance, []) if need_transcripts else [""]
        if need_transcripts:
            problems += _transcript_problems(found, absent)
        if problems:
            bad.append(BadUtterance(utterance, file, duration_s, problems))
        else:
            values = (utterance, duration_s, num_samples, f"$data_root/{file}", speaker, found[0])
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    for utterance in sorted(texts):
        problem = "has a transcript but no audio: restore it"
        bad.append(BadUtterance(utterance, f"{chapter.folder}/{utterance}.flac", 0.0, [problem]))
    return rows, bad


def _read_transcripts(data_folder, chapter):
    """Returns {utterance: [each transcript given for it]}, and why one that is absent is so."""
    if not chapter.transcripts:
        name = "-".join(chapter.folder.split("/")[-2:]) + ".trans.txt"
        return {}, f"no transcript: {chapter.folder}/{name} is missing, restore it"
    texts = {}
    for name in chapter.transcripts:
        try:
            text = Path(data_folder, chapter.folder, name).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            return {}, f"no transcript: {chapter.folder}/{name} is unreadable ({error})"
        for words in filter(None, map(str.split, text.split("\n"))):
            texts.setdefault(words[0], []).append(" ".join(words[1:]))
    return texts, f"no transcript: add its line to {chapter.folder}/{chapter.transcripts[0]}"


def _transcript_problems(found, absent):
    if not found:
        return [absent]
    if len(found) > 1:
        return [f"{len(found)} transcripts in its chapter: keep one line"]
    if not found[0]:
        return ["empty transcript: add its words, or remove line and audio"]
    if _PLACEHOLDER.search(found[0]):
        return [f"transcript '{found[0]}' holds '$', a placeholder in manifests: write it out"]
    return []


def _read_header(path):
    """Returns the number of samples, the duration in seconds and a list of problems."""
    try:
        with soundfile.SoundFile(os.fsencode(path)) as audio:  # a name may be no valid UTF-8
            num_samples, rate, channels = audio.frames, audio.samplerate, audio.channels
    except soundfile.LibsndfileError as error:
        return 0, 0.0, [f"unreadable audio ({error.error_string.rstrip('.')}): restore it"]
    if num_samples <= 0:
        return 0, 0.0, ["holds no samples: restore or remove it"]
    if num_samples > _MAX_SAMPLES:
        return 0, 0.0, ["its header does not say how long it is: encode it again"]
    problems = []
    if rate != SAMPLE_RATE:
        problems.append(f"sample rate {rate} Hz is not {SAMPLE_RATE} Hz: resample it")
    if channels != 1:
        problems.append(f"has {channels} channels: mix it down to mono")
    return num_samples, num_samples / rate, problems
