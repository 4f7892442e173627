"""`run.json`: the record of a run, in its folder.

- `configuration`: what the run was begun with, as text by key, without the keys that may change;
- `fingerprints`: hashes of what must stay the same (the targets, the pretrained encoder);
- `metrics`: what the task of the run measures, as it declares it;
- `finished`: the whole configuration that was carried out to its end; missing before that.
"""

import json
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from speechbrain_pom.runs.legacy import read_old_record
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

RUN_FILE = "run.json"


def read_run(folder: str | Path) -> dict:
    """The entries of a run's record; none if the folder has no record.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> record_run(folder, configuration={"seed": "1"})
    >>> read_run(folder)
    {'configuration': {'seed': '1'}}
    """
    path = Path(folder) / RUN_FILE
    if not path.is_file():
        return read_old_record(folder)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(
            f"'{path}' cannot be read ({error}): restore it, or choose another output folder"
        ) from error
    return record


def record_run(folder: str | Path, **entries: object) -> None:
    """Set entries of a run's record and keep the others, in one step; for the main process."""
    record = read_run(folder)
    changed = {**record, **entries}
    path = Path(folder) / RUN_FILE
    if changed != record or not path.is_file():
        write_atomically(path, json.dumps(changed, indent=1) + "\n")


def finished_configuration(folder: str | Path) -> dict | None:
    """The configuration that a run was finished with, None if it is not finished."""
    return read_run(folder).get("finished")


def read_fingerprint(folder: str | Path, name: str) -> str | None:
    """The hash that is recorded under a name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> record_fingerprint(folder, quantizer="ab12")
    >>> read_fingerprint(folder, "quantizer")
    'ab12'
    """
    return read_run(folder).get("fingerprints", {}).get(name)


def record_fingerprint(folder: str | Path, **fingerprints: str) -> None:
    """Record hashes (or other words) whatever was recorded before; called on every process."""
    run_on_main(_record_fingerprints, args=[folder, fingerprints])


def check_fingerprint(folder: str | Path, **fingerprints: str) -> None:
    """Record hashes at the first start of a run, compare them later; called on every process.

    Raises
    ------
    UserError
        If a hash is not the one recorded.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_fingerprint(folder, quantizer="ab12")
    >>> check_fingerprint(folder, quantizer="cd34")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: quantizer is not what this run began with (cd34, was \
ab12): choose another output_folder
    """
    run_on_main(_check_fingerprints, args=[folder, fingerprints])


def _check_fingerprints(folder, fingerprints):
    recorded = read_run(folder).get("fingerprints", {})
    for name, value in fingerprints.items():
        if recorded.get(name, value) != value:
            raise UserError(
                f"{name} is not what this run began with ({value[:12]}, was "
                f"{recorded[name][:12]}): choose another output_folder"
            )
    _record_fingerprints(folder, fingerprints)


def _record_fingerprints(folder, fingerprints):
    recorded = read_run(folder).get("fingerprints", {})
    if not fingerprints.items() <= recorded.items():
        record_run(folder, fingerprints={**recorded, **fingerprints})
