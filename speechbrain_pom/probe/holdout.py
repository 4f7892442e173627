"""Which utterances are held out for validation and test: by their names alone, never by chance."""

import os
from collections import defaultdict
from pathlib import PurePosixPath

from speechbrain_pom.utils.seeding import philox, uniform

PARTS = ("train", "valid", "test")


def position(*parts) -> float:
    """A number in [0, 1) that depends on the parts alone.

    >>> 0 <= position("test", "84-121123-0000") < 1
    True
    """
    return float(uniform(philox(*parts), 1)[0])


def _places(rows):
    """Paths by ID; of absolute ones what follows their common folder: a corpus may be moved."""
    folders = [os.path.dirname(row["wav"]) for row in rows if os.path.isabs(row["wav"])]
    shared = f"{os.path.commonpath(folders).rstrip('/')}/" if folders else ""
    return {row["ID"]: PurePosixPath(row["wav"].removeprefix(shared)) for row in rows}


def divide_by_session(rows: list[dict], shares: dict[str, float]) -> dict[str, list[dict]]:
    """Divide the utterances of each class, so that tests are of other sessions where possible.

    A session is the folder of an utterance (LibriSpeech: a chapter). Of the sessions of a class
    that have at least half of the share and at most half of all its utterances, one is held out
    whole; where there is none, utterances are, one by one.

    >>> rows = [{"ID": f"{s}{i}", "wav": f"{s}/{i}", "label": "x"} for s in "abc" for i in "123"]
    >>> parts = divide_by_session(rows, {"test": 0.2, "valid": 0.2})
    >>> {name: len({row["wav"][0] for row in part}) for name, part in parts.items()}
    {'train': 1, 'valid': 1, 'test': 1}
    """
    classes = defaultdict(list)
    for row in rows:
        classes[row["label"]].append(row)
    parts, places = {name: [] for name in PARTS}, _places(rows)
    for label in sorted(classes):
        rest, total = classes[label], len(classes[label])
        for part in ("test", "valid"):
            held = _hold_out(rest, places, part, shares[part], total)
            if len(held) == len(rest):  # training needs one
                continue
            parts[part] += [row for row in rest if row["ID"] in held]
            rest = [row for row in rest if row["ID"] not in held]
        parts["train"] += rest
    return parts


def _hold_out(rows, places, part, share, total):
    """The IDs of a class that are held out for one part."""
    sessions = defaultdict(set)
    for row in rows:
        sessions[places[row["ID"]].parent.as_posix()].add(row["ID"])
    fitting = [
        session
        for session, ids in sessions.items()
        if share * total / 2 <= len(ids) <= len(rows) / 2
    ]
    if share and fitting:
        return sessions[min(fitting, key=lambda session: position(part, session))]
    return {row["ID"] for row in rows if position(part, row["ID"]) < share}


def divide_by_group(rows: list[dict], shares: dict[str, float]) -> dict[str, list[dict]]:
    """Divide utterances, keeping those of one speaker together over all classes.

    >>> rows = [
    ...     {"ID": f"{label}{s}{i}", "wav": f"{label}/{s}_nohash_{i}.wav", "label": label}
    ...     for label in ("go", "no") for s in range(99) for i in "01"
    ... ]
    >>> parts = divide_by_group(rows, {"test": 0.1, "valid": 0.1})
    >>> speakers = [{row["wav"][3:].split("_")[0] for row in part} for part in parts.values()]
    >>> [len(speakers[0] & other) for other in speakers[1:]]
    [0, 0]
    """
    parts, places = {name: [] for name in PARTS}, _places(rows)
    for row in rows:
        path = places[row["ID"]]
        speaker, mark, _ = path.name.partition("_nohash_")
        group = speaker if mark else path.as_posix()
        place = position("group", group) - shares["test"]
        parts["test" if place < 0 else "valid" if place < shares["valid"] else "train"].append(row)
    trained = {row["label"] for row in parts["train"]}
    for name in ("valid", "test"):
        parts["train"] += [row for row in parts[name] if row["label"] not in trained]
        parts[name] = [row for row in parts[name] if row["label"] in trained]
    return parts
