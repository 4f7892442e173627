"""The units of a run, kept in a folder: made once, checked and loaded afterwards."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from speechbrain_pom.ctc.tokenizers import (
    MODEL_FILE,
    UNITS_FILE,
    CharacterUnits,
    SentencePieceUnits,
    Units,
)
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.text import hash_texts


def make_units(
    kind: str,
    texts: Iterable[str],
    *,
    num_pieces: int | None = None,
    folder: str | os.PathLike,
) -> Units:
    """Make the units of a run in a folder, or load those that an earlier start made there.

    A folder with other units is refused: a model trained with them cannot go on with new ones.

    With several processes, the main one calls this first; the others may then call it too, or
    `load_units`.

    >>> folder = getfixture("tmp_path")
    >>> make_units("bpe", ["ONE TWO", "TWO ONE"], num_pieces=10, folder=folder).size
    10
    >>> load_units(folder).vocab_list[0]
    '<blank>'
    """
    num_outputs(kind, num_pieces)
    folder, texts = Path(folder), list(texts)
    if not (folder / UNITS_FILE).exists():
        if kind == CharacterUnits.kind:
            units = CharacterUnits()
        else:
            units = SentencePieceUnits.train(texts, num_pieces)
        units.save(folder)
        return units
    wanted = {"kind": kind}
    if kind == SentencePieceUnits.kind:
        wanted |= {"num_pieces": num_pieces, "texts_sha256": hash_texts(texts)}
    units = load_units(folder)
    differing = [key for key, value in wanted.items() if units.record.get(key) != value]
    if differing:
        now = {key: wanted[key] for key in differing}
        stored = {key: units.record.get(key) for key in differing}
        raise UserError(
            f"{folder} holds units made with {stored}, and this run asks for {now}: use another "
            "output folder, or delete this one if nothing trained with it is needed"
        )
    return units


def num_outputs(kind: str, num_pieces: int | None) -> int:
    """Size of the output layer that the units need, before they are made.

    >>> num_outputs("char", None), num_outputs("bpe", 500)
    (29, 500)
    """
    if kind == CharacterUnits.kind:
        return CharacterUnits().size
    if kind == SentencePieceUnits.kind:
        return num_pieces
    raise UserError(f"tokenizer: {kind!r} does not exist: choose char or bpe")


def load_units(folder: str | os.PathLike) -> Units:
    """Load units that `Units.save` wrote.

    >>> folder = getfixture("tmp_path")
    >>> CharacterUnits().save(folder)
    >>> load_units(folder).size
    29
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / UNITS_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no units: {UNITS_FILE} is missing") from error
    except ValueError as error:
        raise UserError(f"{folder / UNITS_FILE} is damaged ({error}): delete {folder}") from error
    if record == CharacterUnits().record:
        return CharacterUnits()
    if isinstance(record, dict) and record.get("kind") == SentencePieceUnits.kind:
        model_file = folder / MODEL_FILE
        model = model_file.read_bytes() if model_file.exists() else b""
        if hashlib.sha256(model).hexdigest() != record.get("model_sha256"):
            raise UserError(
                f"{model_file} is missing or is not the model that {UNITS_FILE} describes: "
                f"delete {folder}"
            )
        return SentencePieceUnits(model, record.get("texts_sha256", ""))
    raise UserError(f"{folder / UNITS_FILE} describes no units known to this version")
