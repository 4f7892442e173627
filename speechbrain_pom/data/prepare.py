"""What a recipe's keys say about its data, as manifests: CSV files, a preparation, or a layout."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain_pom.data.csv_manifest import CsvSource, parse_sources, prepare_csv
from speechbrain_pom.data.index_source import (
    divide_index,
    fetch_index,
    has_index,
    index_of,
    prepare_index,
)
from speechbrain_pom.data.trials import prepare_trial_lists
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically

RECORD_FILE = "prepared.json"
PARTS = ("train", "valid", "test", "verification")
TRIALS = "trials"  # of verification: not a CSV file, but a list of pairs
OPTIONS = ("max_bad_share", "check_data")


class Manifests(NamedTuple):
    """The manifests of a recipe.

    Arguments
    ---------
    train, valid : pathlib.Path
    tests : dict of str to pathlib.Path
        Manifests of the test sets by name.
    trials : pathlib.Path, optional
        Of a probe: utterances of speakers that are not in training.
    trial_lists : dict of str to pathlib.Path, optional
        Of verification: pairs of utterances of the test sets (`speechbrain_pom.data.trials`).
    """

    train: Path
    valid: Path
    tests: dict[str, Path]
    trials: Path | None = None
    trial_lists: dict[str, Path] | None = None


Hparams = Mapping[str, Any]
Sources = dict[str, Any]


def prepare_data(
    hparams: Hparams,
    from_layout: Callable[[Hparams, Path], Manifests],
    from_csv: Callable[[Hparams, Path, Sources], Manifests],
) -> Manifests:
    """Write the manifests of a recipe into `manifests/` of its output folder.

    Where the data come from, the first that is given:

    - `skip_prep: True`: the manifests of an earlier start, as they are.
    - `prepare`: your own function, called with `data_folder=` and `save_folder=` (which it
      makes if it writes there). It writes CSV files and returns what the keys `train_csv`,
      `valid_csv`, `test_csv` and `trials` would say, as {"train": PATH, "valid": PATH, "test": PATH
      or {NAME: PATH}, "trials": PATH or {NAME: PATH}}; parts that it does not return are taken from
      the keys, so that preparations of SpeechBrain's recipes, which return nothing, can be used.
    - `train_csv`, `valid_csv`, `test_csv`.
    - `data_folder`, in one of the recipe's layouts.

    Arguments
    ---------
    hparams : dict
        The recipe's keys: those above, `output_folder`, and what the two functions read.
    from_layout : callable
        Of the recipe: `from_layout(hparams, manifest_folder)`.
    from_csv : callable
        Of the recipe: `from_csv(hparams, manifest_folder, sources)`, with the CSV files by part.

    Returns
    -------
    Manifests

    Raises
    ------
    UserError
        If the data cannot be prepared; the message says what to do.
    """
    folder = Path(hparams["output_folder"]) / "manifests"
    if hparams.get("skip_prep", False):
        return _read_record(folder)
    sources = csv_sources(hparams, folder / "prepare")
    if sources["train"] is None:
        manifests = from_layout(hparams, folder)
    else:
        manifests = from_csv(hparams, folder, sources)
    write_atomically(folder / RECORD_FILE, _record_text(manifests, folder))
    return manifests


def csv_sources(hparams: Hparams, save_folder: Path) -> Sources:
    """The CSV files of each part, from `prepare` and from the keys; None where there are none."""
    sources = {part: hparams[f"{part}_csv"] for part in PARTS if f"{part}_csv" in hparams}
    parts = PARTS
    if TRIALS in hparams:
        sources[TRIALS] = hparams[TRIALS]
        parts = (*PARTS, TRIALS)
    prepare = hparams.get("prepare")
    if prepare is None:
        return sources
    if not callable(prepare):
        raise UserError(f"prepare is '{prepare}': give a function, as '!name:my_corpus.prepare'")
    made = prepare(data_folder=hparams["data_folder"], save_folder=str(save_folder)) or {}
    # Trial lists that the recipe has no use for are no error: others have.
    if not isinstance(made, Mapping) or not set(made) <= {*PARTS, TRIALS}:
        raise UserError(
            f"prepare returned {made!r}: return CSV files by part, as {{'train': 'a.csv', 'valid': "
            f"'b.csv'}} (parts: {', '.join(parts)}), or nothing"
        )
    made = {part: made[part] for part in sources if made.get(part) is not None}
    sources |= {part: _absolute(value) for part, value in made.items()}
    if sources["train"] is None:
        raise UserError(
            "prepare returned no CSV file for 'train', and train_csv is null: return {'train': "
            "PATH, 'valid': PATH}, or name the files that it writes in train_csv and valid_csv"
        )
    return sources


def _absolute(value):
    """Paths of CSV files that do not start in `data_folder`."""
    if isinstance(value, (str, os.PathLike)):
        return os.path.abspath(value)
    if isinstance(value, Mapping):
        return {name: os.path.abspath(path) for name, path in value.items()}
    return [os.path.abspath(path) for path in value]


def prepare_csvs(
    hparams: Hparams,
    manifest_folder: Path,
    sources: Sources,
    need_transcripts: bool = False,
    label_columns: Sequence[str] | None = None,
) -> Manifests:
    """`from_csv` of a recipe that trains, validates and tests on CSV files as they are.

    `label_columns` are the names that the column with the classes may have, where there must be
    one: it becomes `label` in the manifests.
    """
    for part in ("train", "valid"):
        if sources[part] is None:
            raise UserError(f"train_csv is given, but {part}_csv is not: give both")
    tests = parse_sources(sources["test"]) if sources.get("test") else []
    named = {part: parse_sources(sources[part]) for part in ("train", "valid")}
    check_test_names(tests, named)
    named |= {source.name: [source] for source in tests}
    options = {key: hparams[key] for key in OPTIONS}
    options |= {"need_transcripts": need_transcripts, "label_columns": label_columns}
    paths = {
        name: _prepare_part(name, group, manifest_folder, hparams, options)
        for name, group in named.items()
    }
    train, valid = paths.pop("train"), paths.pop("valid")
    lists = None
    if sources.get(TRIALS):
        lists = prepare_trial_lists(
            sources[TRIALS], paths, manifest_folder, data_folder=hparams["data_folder"]
        )
    return Manifests(train, valid, paths, trial_lists=lists)


def _prepare_part(name, group, manifest_folder, hparams, options):
    """The manifest of a part: an index as it is, or one made of CSV files."""
    index = index_of(group, hparams["data_folder"])
    if index is None:
        return prepare_csv(
            name, group, manifest_folder, data_folder=hparams["data_folder"], **options
        )
    return prepare_index(
        name,
        index,
        manifest_folder,
        need_transcripts=options["need_transcripts"],
        need_labels=bool(options["label_columns"]),
        resumes=is_resumed(hparams),
    )


def prepare_shards(
    hparams: Hparams, manifest_folder: Path, train_splits: Sequence[str], valid_split: str
) -> Manifests:
    """The manifests of `data_layout: shards`, from what `python -m speechbrain_pom pack` wrote.

    `data_folder` is such a folder, or its URL, of which `valid_share` are for validation, as of a
    folder of audio; or it holds one for each split.
    """
    options = {"resumes": is_resumed(hparams)}
    folder = hparams["data_folder"]
    if has_index(folder):
        paths = divide_index(folder, manifest_folder, hparams["valid_share"], **options)
        return Manifests(paths["train"], paths["valid"], {})
    if len(train_splits) > 1:
        raise UserError(
            f"train_splits {list(train_splits)}: of data in shards there is one, pack them together"
        )
    paths = {}
    for name, split in (("train", train_splits[0]), ("valid", valid_split)):
        index = fetch_index(f"{folder}/{split}", manifest_folder / f"{name}.parquet")
        paths[name] = prepare_index(name, index, manifest_folder, **options)
    return Manifests(paths["train"], paths["valid"], {})


def is_resumed(hparams: Hparams) -> bool:
    """Whether the run has a checkpoint, and must go on with the data that it was begun with."""
    has_checkpoint = any(Path(hparams["output_folder"]).glob("save/CKPT+*"))
    return has_checkpoint and not hparams.get("resume_anyway", False)


def check_test_names(tests: list[CsvSource], taken: Collection[str]) -> None:
    """Refuse test sets whose manifest would be that of another part."""
    for source in tests:
        if source.name in taken:
            raise UserError(
                f"a test set is called '{source.name}', which is the name of another "
                "manifest: rename its CSV file"
            )


def _record_text(manifests, folder):
    def relative(path):
        return path and os.path.relpath(path, folder)

    record = manifests._asdict()
    for part, value in record.items():
        by_name = isinstance(value, dict)
        record[part] = (
            {name: relative(path) for name, path in value.items()} if by_name else relative(value)
        )
    return json.dumps(record, indent=1) + "\n"


def _read_record(folder):
    path = folder / RECORD_FILE
    if not path.is_file():
        raise UserError(
            f"skip_prep is True, but '{folder}' has no manifests of an earlier start: give "
            "--skip_prep False"
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    for part, value in record.items():
        by_name = value if isinstance(value, dict) else {None: value}
        paths = {name: file and folder / file for name, file in by_name.items()}
        for manifest in filter(None, paths.values()):
            if not manifest.is_file():
                raise UserError(
                    f"skip_prep is True, but '{manifest}' is gone: give --skip_prep False"
                )
        record[part] = paths if isinstance(value, dict) else paths[None]
    return Manifests(**record)
