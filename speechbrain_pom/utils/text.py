"""Transcripts as text: spaces, hashes, and characters named in messages."""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence

MAX_NAMED = 10


def single_spaces(text: str) -> str:
    """Return a text with single spaces between its words and none around them.

    Arguments
    ---------
    text : str
        Any text; only the space (U+0020) is touched.

    Returns
    -------
    str

    Example
    -------
    >>> single_spaces("  A  B ")
    'A B'
    """
    return " ".join(word for word in text.split(" ") if word)


def name_characters(characters: Sequence[str]) -> str:
    """Name up to 10 characters as they print and as Unicode calls them."""
    return ", ".join(
        f"{character!r} ({unicodedata.name(character, f'U+{ord(character):04X}')})"
        for character in characters[:MAX_NAMED]
    ) + and_more(characters)


def and_more(items: Sequence) -> str:
    """Say how many items are left out of a list of at most 10."""
    return f" and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else ""


def hash_texts(texts: Iterable[str]) -> str:
    """Hash transcripts, whatever their order."""
    lines = sorted(single_spaces(text) for text in texts)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
