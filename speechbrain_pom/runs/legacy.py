"""Run folders of version 0.1, which had three records. To be removed in version 0.3."""

import json
from pathlib import Path

# Where each entry of run.json stood.
OLD_FILES = {
    "configuration": "configuration.json",
    "fingerprints": "fingerprints.json",
    "finished": "finished.json",
}


def read_old_record(folder: str | Path) -> dict:
    """The record of a run that version 0.1 began; empty if there is none."""
    paths = {entry: Path(folder) / name for entry, name in OLD_FILES.items()}
    return {
        entry: json.loads(path.read_text(encoding="utf-8"))
        for entry, path in paths.items()
        if path.is_file()
    }


def comparable(begun: dict, now: dict) -> list:
    """The keys by which a run of version 0.1 and a command of today can be compared.

    Plain values that both have: the YAML files have lost and gained keys since, and the classes
    that they name have moved.
    """
    return [key for key in begun if key in now and "!" not in begun[key] + now[key]]
