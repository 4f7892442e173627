"""What must not change while a run is resumed: hashes in the run's folder."""

import json
from pathlib import Path

from speechbrain.utils.distributed import run_on_main

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically


def check_fingerprint(path, **fingerprints):
    """Record hashes at the first start of a run, and compare them at each later one.

    Arguments
    ---------
    path : str or pathlib.Path
        JSON file in the run's folder.
    **fingerprints : str
        Name to hash.

    Raises
    ------
    UserError
        If a hash is not the one recorded.

    Example
    -------
    >>> path = getfixture("tmp_path") / "fingerprints.json"
    >>> check_fingerprint(path, quantizer="ab12")
    >>> check_fingerprint(path, quantizer="cd34")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: quantizer is not what this run began with (cd34, was \
ab12): choose another output_folder
    """
    run_on_main(_check, args=[Path(path), fingerprints])


def record_fingerprint(path, **fingerprints):
    """Record hashes (or other words) whatever was recorded before.

    Arguments
    ---------
    path : str or pathlib.Path
        JSON file in the run's folder.
    **fingerprints : str
        Name to hash.
    """
    run_on_main(_record, args=[Path(path), fingerprints])


def read_fingerprint(path, name):
    """What is recorded under a name.

    Arguments
    ---------
    path : str or pathlib.Path
        JSON file in the run's folder.
    name : str

    Returns
    -------
    str or None

    Example
    -------
    >>> path = getfixture("tmp_path") / "fingerprints.json"
    >>> record_fingerprint(path, quantizer="ab12")
    >>> read_fingerprint(path, "quantizer")
    'ab12'
    """
    return _read(Path(path)).get(name)


def _check(path, fingerprints):
    recorded = _read(path)
    for name, value in fingerprints.items():
        if recorded.get(name, value) != value:
            raise UserError(
                f"{name} is not what this run began with ({value[:12]}, was "
                f"{recorded[name][:12]}): choose another output_folder"
            )
    _record(path, fingerprints)


def _record(path, fingerprints):
    recorded = _read(path)
    if not fingerprints.items() <= recorded.items():
        write_atomically(path, json.dumps({**recorded, **fingerprints}, indent=1) + "\n")


def _read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
