"""The table of a replica's error rates by chunk size and left context."""

from collections.abc import Iterator, Sequence

from experiments.replica.statistics import error_rate
from speechbrain_pom.reports.chunks import describe_chunk


def chunk_rows(record: dict, mixers: Sequence[str], split: str) -> Iterator[tuple[str, ...]]:
    """Rows of a table, heading first: chunks by mixers; nothing if no test had chunks.

    The full context comes first. A cell has the WER in %, and half of its 95 % interval.
    """
    chunks = {}
    for run in record["runs"]:
        for label, found in run.get("chunks", {}).get(split, {}).items():
            parts = (found["chunk_frames"], found["left_chunks"], found["chunk_s"])
            chunks[label] = describe_chunk(*parts)
    if not chunks:
        return
    yield "chunk", "left context", *mixers
    for label, texts in {"": describe_chunk(None, None, None), **chunks}.items():
        rates = [error_rate(record, mixer, "finetuning", split, label) for mixer in mixers]
        yield *texts, *map(_cell, rates)


def _cell(rate):
    return "" if rate is None else f"{rate.mean:.2f} ±{(rate.high - rate.low) / 2:.2f}"
