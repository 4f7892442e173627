"""What preparations of published corpora share: their folder, their lists, and checked manifests.

A preparation reads the lists of a corpus (`corpus_lists`, evaluation files) into entries, one for
each utterance that they name, with what is wrong with it already. `write_part` looks at the audio
of each entry, and writes the manifest of a part as all others are written: bad utterances are
named and counted, and a manifest that is up to date is kept.
"""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from speechbrain_pom.data.audio.files import (
    SAMPLE_RATE,
    has_placeholder,
    inspect_audio,
    path_problems,
    resampled_length,
    resampling_problems,
)
from speechbrain_pom.data.records import BadUtterance, check_options, sort_out, update_manifest
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.processes import map_in_processes

_RECORD_VERSION = 1  # raise it when the same corpus would give another manifest
_NO_TEXT = {"transcript": "has no transcript: restore it in the corpus' list"}
_NO_LABEL = {"label": "has no label: restore it in the corpus' list"}

logger = logging.getLogger(__name__)


class Corpus(NamedTuple):
    """A published corpus, for messages.

    Arguments
    ---------
    name : str
    url : str
        Where to get it.
    layout : str
        What its folder holds.
    """

    name: str
    url: str
    layout: str


class Entry(NamedTuple):
    """An utterance that the lists of a corpus name.

    Arguments
    ---------
    utterance : str
        Its ID.
    file : str
        Path of its audio in the corpus, with `/`.
    speaker, text, label : str
        Empty where unknown.
    problems : dict, optional
        What the lists have wrong: kind to a sentence that says what to do.
    """

    utterance: str
    file: str
    speaker: str = ""
    text: str = ""
    label: str = ""
    problems: dict | None = None


def find_corpus(data_folder: str | Path | None, corpus: Corpus, needed: Sequence[str]) -> Path:
    """The folder of a corpus, which must hold some files and folders.

    Arguments
    ---------
    data_folder : str or pathlib.Path, optional
    corpus : Corpus
    needed : sequence of str
        Paths in it; of `a|b`, one must be there.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UserError
        In one line, with where to get the corpus.

    Example
    -------
    >>> corpus = Corpus("Words", "https://example.org", "clips/*.wav and words.tsv")
    >>> (getfixture("tmp_path") / "clips").mkdir()
    >>> find_corpus(getfixture("tmp_path"), corpus, ["clips|audio"]).is_dir()
    True
    """
    advice = f"get {corpus.name} from {corpus.url}, and pass the folder with {corpus.layout}"
    if data_folder is None:
        raise UserError(f"data_folder is null: {advice}")
    folder = Path(data_folder)
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"data folder '{folder}' {state}: {advice}")
    missing = [item for item in needed if find_path(folder, item) is None]
    if missing:
        names = ", ".join(item.replace("|", " or ") for item in missing)
        raise UserError(f"data folder '{folder}' has no {names}: {advice}")
    return folder


def find_path(folder: Path, alternatives: str) -> Path | None:
    """The first of the paths `a|b|...` that a folder has.

    >>> find_path(getfixture("tmp_path"), "a.tsv|b.tsv") is None
    True
    """
    paths = [folder / name for name in alternatives.split("|")]
    return next((path for path in paths if path.exists()), None)


def share_of(name: str) -> float:
    """A number in [0, 1) that depends on a name alone, to divide utterances by.

    >>> round(share_of("id10001/a/00001"), 3)
    0.187
    """
    return int(hashlib.sha256(name.encode("utf-8")).hexdigest()[:13], 16) / 16**13


def write_part(
    name: str,
    entries: Iterable[Entry],
    data_folder: str | Path,
    save_folder: str | Path,
    *,
    need_text: bool = False,
    need_label: bool = False,
    max_duration_s: float | None = None,
    max_bad_share: float = 0.0,
    check_data: str = "headers",
    num_workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Write the manifest `NAME.csv` of a part of a corpus, unless it is up to date.

    Arguments
    ---------
    name : str
    entries : iterable of Entry
    data_folder, save_folder : str or pathlib.Path
        Of the corpus, and of the manifest.
    need_text, need_label : bool
        Whether an utterance without one is bad.
    max_duration_s : float, optional
        Longer ones are left out; the log says how many and how many hours.
    max_bad_share, check_data, num_workers, show_progress
        As `speechbrain_pom.data.librispeech.prepare_librispeech` takes them.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UserError
        If there is nothing in the part, or more is bad than `max_bad_share` allows.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> root = getfixture("tmp_path")
    >>> soundfile.write(root / "a.flac", np.ones(8000) / 2, 16000)
    >>> entries = [Entry("u1", "a.flac", label="alarm")]
    >>> path = write_part("train", entries, root, root / "csv", show_progress=False)
    >>> path.read_text().splitlines()[1].split(",")[:3]
    ['u1', '0.5', '8000']
    """
    num_workers = check_options(max_bad_share, check_data, num_workers)
    entries = _with_doubles(name, list(entries))
    if not entries:
        raise UserError(f"the lists of '{data_folder}' name no utterance for {name}: restore them")
    needs = (_NO_TEXT if need_text else {}, _NO_LABEL if need_label else {})
    root, path = os.path.abspath(data_folder), Path(save_folder) / f"{name}.csv"
    source = {
        "version": _RECORD_VERSION,
        "needs": [bool(need_text), bool(need_label)],
        "max_duration_s": max_duration_s,
        "check_data": check_data,
        "fingerprint": _fingerprint(root, entries),
    }
    title = name if show_progress else None

    def read():
        look = partial(_look_at, root, needs, check_data)
        found = map_in_processes(look, entries, num_workers, bar_title=title, chunksize=16)
        rows, bad = sort_out(found)
        return _not_too_long(name, rows, max_duration_s), bad

    update_manifest(path, source, read, max_bad_share)
    return path


def _with_doubles(name, entries):
    """The entries in order, each once, with a problem for an ID that has several."""
    unique = list(
        {entry[:-1]: entry for entry in sorted(entries, key=lambda entry: entry[:-1])}.values()
    )
    if len(unique) < len(entries):
        logger.info("%s: %d lines repeat another one", name, len(entries) - len(unique))
    counts = Counter(entry.utterance for entry in unique)
    double = {"same ID": "is named with different values in the corpus' lists: keep one"}
    return [
        entry._replace(problems=(entry.problems or {}) | double)
        if counts[entry.utterance] > 1
        else entry
        for entry in unique
    ]


def _fingerprint(root, entries):
    """Another one whenever a list or an audio file changed."""
    digest = hashlib.sha256(os.fsencode(root))
    for entry in entries:
        try:
            stat = os.stat(os.path.join(root, entry.file))
            stamp = f"{stat.st_size} {stat.st_mtime_ns}"
        except OSError:  # looking at it names the problem
            stamp = "-1 -1"
        digest.update(os.fsencode(f"{tuple(entry)}\0{stamp}\n"))
    return digest.hexdigest()


def _look_at(root, needs, check_data, entry):
    """The manifest's row, or None, and a bad utterance, or None."""
    path = os.path.join(root, entry.file)
    facts = inspect_audio(path, check_data)
    problems = (entry.problems or {}) | facts.problems | path_problems(path)
    if facts.sample_rate:
        problems |= resampling_problems(facts)
    text = " ".join(entry.text.split())
    problems |= {} if text else needs[0]
    problems |= {} if entry.label else needs[1]
    for value in (entry.utterance, entry.speaker, text, entry.label):
        if has_placeholder(value):
            problems["placeholder"] = f"'{value}' holds '$', a placeholder: write it out"
    if problems:
        return None, BadUtterance(entry.utterance, entry.file, facts.duration_s, problems)
    num_samples = resampled_length(facts.num_samples, facts.sample_rate)
    return {
        "ID": entry.utterance,
        "duration": num_samples / SAMPLE_RATE,
        "num_samples": num_samples,
        "wav": path,
        "spk_id": entry.speaker,
        "wrd": text,
        "label": entry.label,
    }, None


def _not_too_long(name, rows, max_duration_s):
    if max_duration_s is None:
        return rows
    kept = [row for row in rows if row["duration"] <= max_duration_s]
    if not kept and rows:
        raise UserError(
            f"{name}: all {len(rows)} utterances are longer than max_duration_s = "
            f"{max_duration_s:g}: give more"
        )
    if len(kept) < len(rows):
        seconds = sum(row["duration"] for row in rows) - sum(row["duration"] for row in kept)
        logger.info(
            "%s: %d utterances (%.3f h) are longer than %g s and left out",
            name,
            len(rows) - len(kept),
            seconds / 3600,
            max_duration_s,
        )
    return kept
