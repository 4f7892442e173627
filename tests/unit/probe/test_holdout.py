"""Held-out utterances: by names alone, sessions and speakers kept together."""

import random

import pytest

from speechbrain_pom.probe.holdout import divide_by_group, divide_by_session

SHARES = {"valid": 0.1, "test": 0.2}


def utterances(label, sessions):
    return [
        {"ID": f"{label}-{session}-{i}", "wav": f"{label}/{session}/{i}.flac", "label": label}
        for session, count in sessions.items()
        for i in range(count)
    ]


def names(parts):
    return {part: sorted(row["ID"] for row in rows) for part, rows in parts.items()}


def sessions_of(rows):
    return {row["wav"].rpartition("/")[0] for row in rows}


def test_a_test_is_of_another_session_where_there_is_one():
    rows = [row for s in range(20) for row in utterances(f"s{s}", {"a": 30, "b": 25, "c": 12})]
    parts = divide_by_session(rows, SHARES)
    assert sum(map(len, parts.values())) == len(rows)
    for speaker in range(20):
        of = {n: [r for r in p if r["label"] == f"s{speaker}"] for n, p in parts.items()}
        assert all(of.values())
        assert not sessions_of(of["test"]) & sessions_of(of["train"] + of["valid"])
        assert len(of["train"]) >= 12


def test_a_session_too_small_or_too_large_is_not_held_out():
    rows = [row for s in range(30) for row in utterances(f"s{s}", {"a": 25, "b": 1})]
    parts = divide_by_session(rows, SHARES)
    shares = {name: len(part) / len(rows) for name, part in parts.items()}
    assert 0.15 < shares["test"] < 0.25
    assert 0.05 < shares["valid"] < 0.15
    assert {row["label"] for row in parts["train"]} == {f"s{s}" for s in range(30)}


def test_the_order_of_the_files_does_not_matter():
    rows = [row for s in range(9) for row in utterances(f"s{s}", {"a": s + 1, "b": 5})]
    shuffled = random.Random(0).sample(rows, len(rows))
    for divide in (divide_by_session, divide_by_group):
        assert names(divide(rows, SHARES)) == names(divide(shuffled, SHARES))


def test_every_class_is_trained():
    rows = [row for s in range(63) for row in utterances(f"s{s}", {"a": 1})]
    for divide in (divide_by_session, divide_by_group):
        parts = divide(rows, {"valid": 0.4, "test": 0.4})
        assert {row["label"] for row in parts["train"]} == {f"s{s}" for s in range(63)}


def test_a_speaker_is_on_one_side_in_all_classes():
    rows = [
        {"ID": f"{label}/{s}{n}", "wav": f"{label}/{s:04x}_nohash_{n}.wav", "label": label}
        for label in ("go", "stop", "yes")
        for s in range(100)
        for n in range(2)
    ]
    parts = divide_by_group(rows, SHARES)
    speakers = [{row["wav"].split("/")[1][:4] for row in part} for part in parts.values()]
    assert all(speakers)
    assert sum(map(len, speakers)) == 100
    others = divide_by_group(
        [{**row, "wav": row["wav"].replace("_nohash_", "-")} for row in rows], SHARES
    )
    split = [{row["wav"].split("/")[1][:4] for row in part} for part in others.values()]
    assert sum(map(len, split)) > 100  # without the names' mark nothing says who speaks


@pytest.mark.parametrize("divide", [divide_by_group, divide_by_session])
def test_where_a_corpus_lies_decides_nothing(divide):
    def parts_in(folder):
        rows = [
            {"ID": f"{s}-{i}", "wav": f"{folder}/{s}/{i}.wav", "label": f"{s % 3}"}
            for s in range(30)
            for i in range(9)
        ]
        divided = divide(rows, {"test": 0.2, "valid": 0.2})
        return {part: [row["ID"] for row in found] for part, found in divided.items()}

    here, there = parts_in("/data/corpora/words"), parts_in("/mnt/x")
    assert here == there
    assert all(here.values())
