"""Labels of a CTC model: characters or SentencePiece pieces, and their checks before training.

Both kinds share one interface (`Units`), in which output 0 is the CTC blank:

* `char`: the 29 outputs published for LibriSpeech, whatever the corpus: blank, space, A to Z and
  the apostrophe;
* `bpe`: pieces learnt from the training transcripts. The blank takes SentencePiece's padding
  slot (id 0, which no text encodes to), so that a piece's id is its output: nothing is shifted.
"""

import hashlib
import io
import json
import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.text import hash_texts, name_characters, single_spaces

BLANK = "<blank>"
UNKNOWN = "<unk>"
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"
UNITS_FILE = "units.json"
MODEL_FILE = "pieces.model"


class Units:
    """What a CTC model's outputs mean: base class of the two kinds.

    Arguments
    ---------
    vocab_list : list of str
        One token per output, the blank first.
    alphabet : iterable of str
        The characters that a transcript may hold.

    Attributes
    ----------
    kind : str
        `char` or `bpe`: the value of the key `tokenizer`.
    blank_index : int
        Always 0.
    vocab_list : list of str
        The tokens, as SpeechBrain's beam searchers want them.
    """

    kind: str
    advice: str
    blank_index = 0

    def __init__(self, vocab_list: list[str], alphabet: Iterable[str]):
        self.vocab_list = vocab_list
        self._alphabet = frozenset(alphabet)

    @property
    def size(self) -> int:
        """Number of outputs, the blank included."""
        return len(self.vocab_list)

    def missing_characters(self, text: str) -> list[str]:
        """Return the characters of a text that cannot be encoded, sorted, each once."""
        return sorted(set(single_spaces(text)) - self._alphabet)

    def encode(self, text: str) -> list[int]:
        """Return the labels of a transcript, without blanks."""
        missing = self.missing_characters(text)
        if missing:
            raise UserError(f"{name_characters(missing)} cannot be encoded: {self.advice}")
        return self._labels(single_spaces(text))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of labels (no blanks, repetitions already collapsed)."""
        raise NotImplementedError

    def save(self, folder: str | os.PathLike) -> None:
        """Write the units into a folder, the JSON file last; `load_units` reads it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        record = json.dumps(self.record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / UNITS_FILE, record)

    @property
    def record(self) -> dict:
        """What `save` writes as JSON."""
        raise NotImplementedError

    def _labels(self, text: str) -> list[int]:
        raise NotImplementedError


class CharacterUnits(Units):
    """The 29 outputs published for LibriSpeech: blank, space, A to Z, apostrophe (paper section 4).

    The set never depends on the data, so that a head trained on one corpus fits another.

    Example
    -------
    >>> units = CharacterUnits()
    >>> units.size, units.encode("IT'S A")
    (29, [10, 21, 28, 20, 1, 2])
    >>> units.decode([10, 21, 28, 20, 1, 2])
    "IT'S A"
    """

    kind = "char"
    advice = (
        "the character units are A to Z, the space and the apostrophe; write the transcripts in "
        "upper case with these alone, or set tokenizer: bpe"
    )

    def __init__(self):
        characters = [" ", *string.ascii_uppercase, "'"]
        super().__init__([BLANK, *characters], characters)
        self._label_of = {character: 1 + i for i, character in enumerate(characters)}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of labels, with single spaces, as beam search writes it."""
        return single_spaces("".join(self.vocab_list[i] for i in ids))

    @property
    def record(self) -> dict:
        """Kind and tokens."""
        return {"kind": self.kind, "vocab_list": self.vocab_list}

    def _labels(self, text: str) -> list[int]:
        return [self._label_of[character] for character in text]


class SentencePieceUnits(Units):
    """Byte-pair pieces learnt from the training transcripts.

    Arguments
    ---------
    model : bytes
        A SentencePiece model whose piece 0 is the blank; see `train`.
    texts_sha256 : str
        Hash of the transcripts that it was trained on.

    Raises
    ------
    UserError
        If piece 0 of the model is not the blank.

    Example
    -------
    >>> units = SentencePieceUnits.train(["ONE TWO", "TWO ONE ONE"], num_pieces=12)
    >>> units.size, units.decode(units.encode("TWO ONE"))
    (12, 'TWO ONE')
    """

    kind = "bpe"
    advice = (
        "the pieces were learnt from the training transcripts, where it never occurs; clean the "
        "transcripts or add some that hold it to the training data"
    )

    def __init__(self, model: bytes, texts_sha256: str):
        self._model = model
        self._texts_sha256 = texts_sha256
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        pieces = [self._processor.id_to_piece(i) for i in range(self._processor.vocab_size())]
        if pieces[self.blank_index] != BLANK:
            raise UserError(
                f"piece 0 of a CTC model's pieces is the blank, {BLANK!r}, but this SentencePiece "
                f"model has {pieces[0]!r} there: let the recipe train the pieces"
            )
        # With full coverage, every character of the training transcripts is a piece by itself.
        alphabet = {" " if piece == WORD_START else piece for piece in pieces if len(piece) == 1}
        super().__init__(pieces, alphabet)

    @classmethod
    def train(cls, texts: Iterable[str], num_pieces: int) -> "SentencePieceUnits":
        """Learn pieces; the same transcripts, in any order, give the same model."""
        if isinstance(num_pieces, bool) or not isinstance(num_pieces, int):
            raise UserError(
                f"num_pieces is {num_pieces!r}: with tokenizer: bpe, give the number of outputs "
                "as an integer, e.g. 500"
            )
        texts = sorted(single_spaces(text) for text in texts)
        if not any(texts):
            raise UserError("pieces cannot be learnt: the training transcripts hold no text")
        model = io.BytesIO()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(texts),
                model_writer=model,
                model_type="bpe",
                vocab_size=num_pieces,
                character_coverage=1.0,
                normalization_rule_name="identity",  # decode(encode(text)) == text
                pad_id=cls.blank_index,
                pad_piece=BLANK,
                unk_id=1,
                unk_piece=UNKNOWN,
                unk_surface=UNKNOWN,  # as greedy and beam search write it
                bos_id=-1,
                eos_id=-1,
                num_threads=1,
                minloglevel=2,
            )
        except (RuntimeError, OSError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(
                f"num_pieces: {num_pieces} does not fit the {len(texts)} training transcripts "
                f"(SentencePiece: {reason}): choose another number"
            ) from error
        return cls(model.getvalue(), hash_texts(texts))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of labels, with single spaces, as beam search writes it."""
        return single_spaces(self._processor.decode(list(ids)))

    def save(self, folder: str | os.PathLike) -> None:
        """Write the model and, last, the JSON file into a folder."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / MODEL_FILE, self._model)
        super().save(folder)

    @property
    def record(self) -> dict:
        """Kind, size, and the hashes of the transcripts and of the model."""
        return {
            "kind": self.kind,
            "num_pieces": self.size,
            "texts_sha256": self._texts_sha256,
            "model_sha256": hashlib.sha256(self._model).hexdigest(),
        }

    def _labels(self, text: str) -> list[int]:
        return self._processor.encode(text)
