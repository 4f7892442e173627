"""Every message that bad input can bring about is quoted by a test, at least in part."""

import ast
import re

import pytest

from tests.consistency.conftest import ROOT

WORDS_IN_A_ROW = 3
LOGGED = {"warning", "error", "warn", "exit"}
# Not about input: what a caller inside the package can get wrong, or what ends a run by itself.
WITHOUT_A_TEXT = {
    "SystemExit",
    "NotImplementedError",
    "AttributeError",
    "KeyError",
    "StopIteration",
}


def words_of(text):
    """Words of a message or of a pattern that is looked for in one, without its escapes."""
    return re.findall(r"[\w']+", re.sub(r"\\(.)", r"\1", text).replace(".*", " ").lower())


def runs_of(words, length):
    return {tuple(words[i : i + length]) for i in range(len(words) - length + 1)}


def fragments_of(node):
    """The constant parts of a message expression: those between the values it quotes."""
    parts = [
        leaf.value
        for leaf in ast.walk(node)
        if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str)
    ]
    return [words_of(re.sub(r"%[sdrfg]", "|", part)) for part in parts]


def messages_of(path):
    """(line, constant fragments) of every exception and warning with a text in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call) or not call.args:
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        if (isinstance(node, ast.Raise) and name not in WITHOUT_A_TEXT) or name in LOGGED:
            fragments = fragments_of(call)
            if any(fragments):
                yield node.lineno, fragments


MESSAGES = [
    (f"{path.relative_to(ROOT)}:{line}", fragments)
    for folder in ("speechbrain_pom", "recipes")
    for path in sorted((ROOT / folder).rglob("*.py"))
    for line, fragments in messages_of(path)
]


@pytest.fixture(scope="module")
def quoted():
    """All runs of words in the strings of the tests, this file's aside."""
    runs = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        if path.name == "test_messages.py":
            continue
        for leaf in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(leaf, ast.Constant) and isinstance(leaf.value, str):
                words = words_of(leaf.value)
                for length in range(1, WORDS_IN_A_ROW + 1):
                    runs |= runs_of(words, length)
    return runs


@pytest.mark.parametrize(("place", "fragments"), MESSAGES, ids=[place for place, _ in MESSAGES])
def test_a_test_quotes_the_message(place, fragments, quoted):
    length = min(WORDS_IN_A_ROW, max(len(fragment) for fragment in fragments))
    runs = set().union(*(runs_of(fragment, length) for fragment in fragments))
    assert runs & quoted, f"{place}: no test quotes {length} words in a row of {fragments}"


def test_a_message_without_a_test_would_be_found(tmp_path, quoted):
    path = tmp_path / "module.py"
    path.write_text("raise ValueError(f'{value} zebras cannot' f' be cast into the {name}')")
    ((line, fragments),) = messages_of(path)
    with pytest.raises(AssertionError, match=r"module\.py:1: no test quotes 3 words"):
        test_a_test_quotes_the_message(f"module.py:{line}", fragments, quoted)
