"""Tests with dynamic chunks: a table with a row for each chunk size and left context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from speechbrain_pom.reports.comparison import table
from speechbrain_pom.runs.metrics import Metric, TaskMetrics, interval

SIZE, LEFT, DURATION = "chunk_frames", "left_chunks", "chunk_s"  # in the results of a test
_NOTE = "± is half of the 95 % interval over utterances. A frame waits for the end of its chunk."


def has_chunks(results: Mapping) -> bool:
    """Whether the results of a test were made with chunks.

    >>> has_chunks({"wer": 5.0, "chunk_frames": 16}), has_chunks({"wer": 5.0})
    (True, False)
    """
    return SIZE in results


def format_chunks(results: Mapping, task: TaskMetrics) -> str:
    """Tables of the tests in the contents of results.json, one for each way of decoding.

    Arguments
    ---------
    results : dict
        The contents of results.json.
    task : TaskMetrics
        What was measured: its first metric of tests is shown.

    Returns
    -------
    str
        Markdown; empty if no test had chunks.

    Example
    -------
    >>> task = TaskMetrics(
    ...     "CTC",
    ...     (
    ...         Metric("wer", "%", label="WER", better="lower"),
    ...         Metric("wer", "%", label="WER", better="lower", parts=("test",)),
    ...     ),
    ...     best="wer",
    ... )
    >>> chunk = {"chunk_frames": 16, "left_chunks": 4, "chunk_s": 0.64}
    >>> found = {"clean": {"no_lm": {"wer": 5.0}, "chunk16_left4": {"no_lm": {"wer": 6.5} | chunk}}}
    >>> print(format_chunks(found, task).split("\\n\\n")[1])
    | chunk              | left context      | clean |
    | ------------------ | ----------------- | ----- |
    | full context       |                   | 5.00  |
    | 0.64 s (16 frames) | 2.56 s (4 chunks) | 6.50  |
    """
    tests = dict(task.find_results(results))
    chunked = {_system(names): None for names, found in tests.items() if has_chunks(found)}
    blocks = []
    for system in chunked:
        metric = task.of("test")[0]
        ours = {names: found for names, found in tests.items() if _system(names) == system}
        title = ", ".join([f"{metric.label} ({metric.shown_unit}) by chunk", *system])
        blocks += [f"{title}:", "\n".join(table(_rows(ours, metric)))]
    return "\n\n".join([*blocks, _NOTE]) if blocks else ""


def _system(names):
    """What tells the tests of a table from others: the way of decoding."""
    return names[-1:] if len(names) > 1 else ()


def _rows(tests: Mapping, metric: Metric) -> Iterator[tuple[str, ...]]:
    """A row for each chunk size and left context, the heading first; a column for each test set."""
    columns = list(dict.fromkeys(names[0] for names in tests))
    yield "chunk", "left context", *columns
    cells = {}
    for names, found in tests.items():
        row = describe_chunk(found.get(SIZE), found.get(LEFT), found.get(DURATION))
        cells.setdefault(row, {})[names[0]] = _rate(metric, found)
    for row, found in cells.items():
        yield *row, *(found.get(column, "") for column in columns)


def describe_chunk(size: int | None, left: int | None, chunk_s: float | None) -> tuple[str, str]:
    """Chunk and left context in words, with their seconds; a size of None is the full context.

    >>> describe_chunk(8, None, 0.32), describe_chunk(8, 1, 0.32)
    (('0.32 s (8 frames)', 'all'), ('0.32 s (8 frames)', '0.32 s (1 chunk)'))
    """
    if size is None:
        return "full context", ""
    chunk = f"{chunk_s:g} s ({size} frame{'s' * (size > 1)})"
    if left is None:
        return chunk, "all"
    return chunk, f"{left * chunk_s:g} s ({left} chunk{'s' * (left != 1)})"


def _rate(metric, results):
    ends = interval(metric, results)
    text = metric.number(results[metric.name])
    return text if ends is None else f"{text} ±{metric.number((ends[1] - ends[0]) / 2)}"
