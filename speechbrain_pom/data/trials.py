"""Trials of verification: pairs of utterances, of one speaker or of two.

A list has a line for each trial, `LABEL ENROLMENT TEST` as VoxCeleb's: the label is 1 (or target)
for one speaker and 0 (or nontarget) for two, and an utterance is named by its ID or by the end of
its path, such as `id10270/5r0dWxy17C8/00001.wav`. Where there is no list, pairs are drawn by the
names of the utterances alone.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch

from speechbrain_pom.data.manifest import read_manifest
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.seeding import permutation, philox
from speechbrain_pom.utils.text import MAX_NAMED, and_more

_LABELS = {"1": True, "0": False, "target": True, "nontarget": False}
_MAX_UTTERANCES = 2000  # of drawn trials: two million pairs, of which some are taken


class Trial(NamedTuple):
    """A pair of utterances.

    Arguments
    ---------
    enrolment, test : str
        Utterances.
    is_same : bool
        Whether they are of one speaker.
    """

    enrolment: str
    test: str
    is_same: bool


def read_trials(path: str | Path) -> list[Trial]:
    """Read a list of trials, with the utterances as they are named in it.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    list of Trial

    Raises
    ------
    UserError
        If there is no such file, a line is no trial, or all trials are of one kind.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 a/1.wav a/2.wav\\n0 a/1.wav b/1.wav\\n")
    >>> read_trials(path)[1]
    Trial(enrolment='a/1.wav', test='b/1.wav', is_same=False)
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such list of trials: '{path}': check the path")
    trials = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 3 or words[0].lower() not in _LABELS:
            raise UserError(
                f"'{path}', line {number}: '{line[:80]}' is no trial: give 1 or 0 and two "
                "utterances, as '1 id10270/a/00001.wav id10270/b/00001.wav'"
            )
        trials.append(Trial(words[1], words[2], _LABELS[words[0].lower()]))
    kinds = {trial.is_same for trial in trials}
    if len(kinds) < 2:
        missing = "of one speaker" if False in kinds else "of two speakers" if kinds else "at all"
        raise UserError(f"'{path}' has no trial {missing}: an equal error rate needs both kinds")
    return trials


def write_trials(path: str | Path, trials: Iterable[Trial]) -> Path:
    """Write a list that `read_trials` reads."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (f"{int(one.is_same)} {one.enrolment} {one.test}\n" for one in trials)
    write_atomically(path, "".join(lines))
    return path


def name_by_ids(trials: Sequence[Trial], rows: Mapping[str, Mapping], where: str) -> list[Trial]:
    """The same trials, with the IDs of utterances.

    Arguments
    ---------
    trials : sequence of Trial
        From `read_trials`.
    rows : dict of str to dict
        Utterance ID to a row with `wav`, as in a manifest.
    where : str
        Name of the list, for messages.

    Returns
    -------
    list of Trial

    Raises
    ------
    UserError
        If an utterance is not among the rows, or its path fits several.

    Example
    -------
    >>> rows = {"u1": {"wav": "/data/a/1.wav"}, "u2": {"wav": "/data/b/1.wav"}}
    >>> name_by_ids([Trial("a/1.wav", "u2", False)], rows, "trials.txt")
    [Trial(enrolment='u1', test='u2', is_same=False)]
    """
    names = {name for trial in trials for name in (trial.enrolment, trial.test)}
    found = _ids_of(names, rows)
    missing = sorted(names - set(found))
    if missing:
        raise UserError(
            f"{where} names {len(missing)} utterances that are in no test set: "
            f"{', '.join(missing[:MAX_NAMED])}{and_more(missing)}: add them to test_csv, or name "
            "them by their ID or the end of their path"
        )
    for name, ids in found.items():
        if len(ids) > 1:
            raise UserError(
                f"{where}: '{name}' may be {' or '.join(sorted(ids)[:3])}: write the ID"
            )
    return [
        trial._replace(enrolment=found[trial.enrolment][0], test=found[trial.test][0])
        for trial in trials
    ]


def _ids_of(names, rows):
    """Name to the IDs that it may be: the ID itself, or those whose path ends with it."""
    found = {name: [name] for name in names if name in rows}
    ends = {_parts(name): name for name in names if name not in rows}
    depths = sorted({len(parts) for parts in ends})
    for key, row in rows.items():
        path = _parts(row["wav"])
        for depth in depths:
            for parts in (path[-depth:], (*path[-depth:-1], PurePosixPath(path[-1]).stem)):
                name = ends.get(parts)
                if name is not None and key not in found.setdefault(name, []):
                    found[name].append(key)
    return found


def _parts(path):
    return tuple(part for part in path.split("/") if part not in ("", "."))


def prepare_trial_lists(
    value: str | Path | Sequence[str] | Mapping[str, str],
    tests: Mapping[str, Path],
    manifest_folder: str | Path,
    data_folder: str | Path | None = None,
) -> dict[str, Path]:
    """Check lists of trials, and write them with the IDs of the test sets' utterances.

    Arguments
    ---------
    value : str, list of str or dict of str to str
        One list, several, or several with names; relative paths start in `data_folder`.
    tests : dict of str to pathlib.Path
        Manifests of the test sets.
    manifest_folder : str or pathlib.Path
        Where the lists go, as `trials_NAME.txt`.
    data_folder : str or pathlib.Path, optional

    Returns
    -------
    dict of str to pathlib.Path
        Name of the list to what was written.

    Raises
    ------
    UserError
        If a list cannot be read, there is no test set, or an utterance is not in one.
    """
    if not tests:
        raise UserError(
            f"trials is {value!r}, but there is no test_csv: give the utterances of the trials"
        )
    if isinstance(value, Mapping):
        lists = dict(value)
    else:
        paths = [value] if isinstance(value, (str, os.PathLike)) else list(value)
        lists = {Path(path).stem: path for path in paths}
        if len(lists) < len(paths):
            raise UserError(f"two of the lists of trials {paths} have one name: rename one file")
    rows = {key: row for path in tests.values() for key, row in read_manifest(path).items()}
    written = {}
    for name, path in lists.items():
        trials = name_by_ids(read_trials(Path(data_folder or "", path)), rows, f"'{path}'")
        written[name] = write_trials(Path(manifest_folder) / f"trials_{name}.txt", trials)
    return written


def check_trials(speakers: Sequence[str], advice: str) -> None:
    """Refuse utterances of which no trials of both kinds can be made.

    Arguments
    ---------
    speakers : sequence of str
        The speaker of each utterance.
    advice : str
        What to do, for the message.

    Raises
    ------
    UserError
        If there are not two speakers, one of them with two utterances.
    """
    counts = Counter(speakers)
    if len(counts) < 2 or max(counts.values()) < 2:
        raise UserError(
            f"no trials can be made of {len(speakers)} utterances of {len(counts)} speakers: "
            f"verification needs two speakers, one of them with two utterances; {advice}"
        )


def draw_trials(speakers: Mapping[str, str], num_trials: int) -> list[Trial]:
    """Draw trials: half of them of one speaker and half of two, or all where there are fewer.

    They depend on the IDs of the utterances alone, and are the same for every encoder and seed.

    Arguments
    ---------
    speakers : dict of str to str
        Utterance ID to speaker; `check_trials` says whether there are both kinds.
    num_trials : int
        The largest number of trials.

    Returns
    -------
    list of Trial
        Those of one speaker first.

    Example
    -------
    >>> [trial.is_same for trial in draw_trials({"a": "1", "b": "1", "c": "2"}, 100)]
    [True, False, False]
    """
    keys = sorted(speakers)
    chosen = permutation(philox("utterances of trials"), len(keys))[:_MAX_UTTERANCES]
    keys = [keys[index] for index in sorted(chosen)]
    names = sorted({speakers[key] for key in keys})
    positions = {name: position for position, name in enumerate(names)}
    numbers = torch.tensor([positions[speakers[key]] for key in keys])
    first, second = torch.triu_indices(len(keys), len(keys), offset=1)
    same = numbers[first] == numbers[second]
    trials = []
    for kind, wanted in (("same", same), ("different", ~same)):
        pairs = wanted.nonzero().squeeze(1)
        drawn = permutation(philox("trials", kind), len(pairs))[: max(1, num_trials // 2)]
        pairs = pairs[torch.from_numpy(drawn)]
        ends = zip(first[pairs].tolist(), second[pairs].tolist(), strict=True)
        trials += [Trial(keys[a], keys[b], kind == "same") for a, b in ends]
    return trials
