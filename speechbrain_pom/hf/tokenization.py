"""The units of a CTC model as a tokenizer of transformers."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedTokenizer

from speechbrain_pom.ctc.tokenizer_store import load_units
from speechbrain_pom.ctc.tokenizers import BLANK, MODEL_FILE, UNITS_FILE
from speechbrain_pom.utils.errors import UserError


class PoMSpeechTokenizer(PreTrainedTokenizer):
    """Characters or SentencePiece pieces, as `speechbrain_pom.ctc` has them.

    `decode` takes the outputs of CTC, frame by frame: repetitions are collapsed and blanks left
    out. The padding token is the blank.

    Arguments
    ---------
    units_file : str
        Path of units.json.
    pieces_file : str, optional
        Path of pieces.model beside it; it is found there.
    **options
        Options of every tokenizer.

    Example
    -------
    >>> from speechbrain_pom.ctc.tokenizers import CharacterUnits
    >>> folder = getfixture("tmp_path")
    >>> CharacterUnits().save(folder)
    >>> tokenizer = PoMSpeechTokenizer(str(folder / "units.json"))
    >>> tokenizer("HELLO").input_ids
    [9, 6, 13, 13, 16]
    >>> tokenizer.decode([9, 9, 0, 6, 13, 0, 13, 16, 16])
    'HELLO'
    """

    vocab_files_names: ClassVar = {"units_file": UNITS_FILE, "pieces_file": MODEL_FILE}
    model_input_names: ClassVar = ["input_ids", "attention_mask"]

    def __init__(self, units_file: str, pieces_file: str | None = None, **options) -> None:
        if pieces_file is not None and Path(pieces_file).parent != Path(units_file).parent:
            raise UserError(f"'{pieces_file}' is not beside '{units_file}': keep them together")
        self.units = load_units(Path(units_file).parent)
        self._ids = {token: i for i, token in enumerate(self.units.vocab_list)}
        options.setdefault("pad_token", BLANK)
        options.setdefault("special_tokens_pattern", "none")
        super().__init__(**options)

    @property
    def vocab_size(self) -> int:
        """Number of outputs, the blank included."""
        return self.units.size

    def get_vocab(self) -> dict[str, int]:
        """Token to output."""
        return dict(self._ids)

    def _tokenize(self, text, **kwargs):
        return [self.units.vocab_list[i] for i in self.units.encode(text)]

    def _convert_token_to_id(self, token):
        return self._ids.get(token)

    def _convert_id_to_token(self, index):
        return self.units.vocab_list[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """The text of tokens without blanks."""
        return self.units.decode([self._ids[token] for token in tokens if token != BLANK])

    def _decode(
        self,
        token_ids: int | list[int],
        skip_special_tokens: bool = False,
        group_tokens: bool = True,
        **_,
    ) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else [int(i) for i in token_ids]
        if group_tokens:
            ids = [i for i, _ in groupby(ids)]
        return self.units.decode([i for i in ids if i != self.units.blank_index])

    def save_vocabulary(
        self, save_directory: str, filename_prefix: str | None = None
    ) -> tuple[str, ...]:
        """Write the files of the units; their paths."""
        if filename_prefix:
            raise UserError(f"filename_prefix is {filename_prefix!r}: the files keep their names")
        self.units.save(save_directory)
        paths = [Path(save_directory, name) for name in self.vocab_files_names.values()]
        return tuple(str(path) for path in paths if path.exists())
