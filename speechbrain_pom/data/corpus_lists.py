"""Lists of utterances as corpora have them: tab-separated columns, JSON lines."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechbrain_pom.utils.errors import UserError


def read_tsv(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of a file with tab-separated columns and a header; quotes mean nothing in it.

    >>> path = getfixture("tmp_path") / "a.tsv"
    >>> _ = path.write_text('path\\tsentence\\na.mp3\\t"Ie," meddai.\\n')
    >>> list(read_tsv(path, ["path", "sentence"]))
    [{'path': 'a.mp3', 'sentence': '"Ie," meddai.'}]
    """
    lines = read_lines(path)
    header = lines[0].split("\t") if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise UserError(
            f"'{path}' has no column {', '.join(missing)} in its first line: restore the file"
        )
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        row = dict(zip(header, values, strict=False))  # the last columns may be empty
        if len(values) > len(header) or not all(name in row for name in columns):
            raise UserError(
                f"'{path}', line {number}: {len(values)} columns, but the first line names "
                f"{len(header)}: restore the file"
            )
        yield row


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that has one on each line.

    >>> path = getfixture("tmp_path") / "a.jsonl"
    >>> _ = path.write_text('{"scenario": "alarm"}\\n')
    >>> list(read_json_lines(path))
    [{'scenario': 'alarm'}]
    """
    for number, line in enumerate(read_lines(path), start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise UserError(
                f"'{path}', line {number}: '{line[:40]}' is no JSON object: restore the file"
            )
        yield value


def read_lines(path: Path) -> list[str]:
    """The lines of a text file without their ends, and without empty ones.

    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"a b\\r\\n\\r\\nc\\n")
    >>> read_lines(path)
    ['a b', 'c']
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"'{path}' cannot be read ({error}): restore the file") from None
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]
