"""The words of a KenLM language model, and its checks before decoding."""

import gzip
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path

from speechbrain_pom.ctc.tokenizers import Units
from speechbrain_pom.utils.errors import UserError

NOT_WORDS = ("<s>", "</s>", "<unk>", "<UNK>")
KENLM_BINARY_MAGIC = b"mmap lm "
GZIP_MAGIC = b"\x1f\x8b"


def language_model_words(model_path: str, words_path: str | None, units: Units) -> set[str]:
    """Check a language model as far as possible before it is loaded; return its words."""
    for key, path in (("kenlm_model_path", model_path), ("kenlm_words_path", words_path)):
        if path is not None and not Path(path).is_file():
            raise UserError(f"{key}: {str(path)!r} is not a file")
    words = _read_words(model_path, words_path)
    _check_writable(words, units)
    try:
        import kenlm  # noqa: F401
        import pygtrie  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"decoding with a language model needs the package {error.name}: "
            'pip install "speechbrain-pom[lm]", or decode without kenlm_model_path'
        ) from error
    return words


def _check_writable(words: set[str], units: Units) -> None:
    """Raise if the units can write none of the words: none would ever be recognised."""

    def writable(word: str) -> bool:
        return not units.missing_characters(word)

    if any(map(writable, words)):
        return
    advice = units.advice
    for case, convert in (("upper", str.upper), ("lower", str.lower)):
        if any(writable(convert(word)) for word in words):
            advice = (
                f"the units have only letters in {case} case: convert the language model's words "
                f"to {case} case, in the text that it is built from or in its ARPA file"
            )
    raise UserError(
        f"no word of the language model ({', '.join(islice(sorted(words), 3))}, ...) can be "
        f"written with the units; {advice}"
    )


def _read_words(model_path: str, words_path: str | None) -> set[str]:
    """Read the words from their list, or else from the ARPA file."""
    if words_path is None and _starts_with(model_path, KENLM_BINARY_MAGIC):
        raise UserError(
            f"kenlm_model_path: {model_path} is a KenLM binary, which does not list its words: "
            "give them with kenlm_words_path (one per line), or give the ARPA file"
        )
    if not _starts_with(model_path, KENLM_BINARY_MAGIC) and _is_unigram_arpa(model_path):
        raise UserError(
            f"kenlm_model_path: {model_path} is a model of single words (1-grams), which KenLM "
            "does not load: build one of order 2 or more, as with lmplz -o 3"
        )
    if words_path is None:
        key, path, read, form = "kenlm_model_path", model_path, _arpa_words, "an ARPA file"
    else:
        key, path, read, form = "kenlm_words_path", words_path, _listed_words, "one word per line"
    try:
        words = set(read(path)) - set(NOT_WORDS)
    except (OSError, EOFError) as error:
        raise UserError(f"{key}: {path} is damaged ({error})") from error
    if not words:
        raise UserError(f"{key}: {path} holds no words; it should be {form}")
    return words


def _is_unigram_arpa(path: str) -> bool:
    """Tell whether the head of an ARPA file counts 1-grams and nothing longer."""
    try:
        head = list(takewhile(lambda line: not line.startswith("\\1-"), _lines(path)))
    except (OSError, EOFError):  # damaged: said where it is read
        return False
    orders = [line[6:].partition("=")[0].strip() for line in head if line.startswith("ngram ")]
    return orders == ["1"]


def _listed_words(path: str) -> Iterator[str]:
    """Yield the first field of each line."""
    for line in _lines(path):
        yield from line.split()[:1]


def _arpa_words(path: str) -> Iterator[str]:
    """Yield the words of an ARPA file's 1-grams: `log10-probability word [back-off]`."""
    in_unigrams = False
    for line in _lines(path):
        if line.startswith("\\"):
            if in_unigrams:
                return
            in_unigrams = line.strip() == "\\1-grams:"
        elif in_unigrams:
            yield from line.split()[1:2]


def _lines(path: str) -> Iterator[str]:
    """Yield the lines of a text file, compressed or not."""
    open_text = gzip.open if _starts_with(path, GZIP_MAGIC) else open
    with open_text(path, "rt", encoding="utf-8", errors="replace") as file:
        yield from file


def _starts_with(path: str, magic: bytes) -> bool:
    """Tell whether a file starts with these bytes."""
    with open(path, "rb") as file:
        return file.read(len(magic)) == magic
