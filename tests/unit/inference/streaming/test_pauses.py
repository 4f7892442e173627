"""Cuts of labels that arrive: those of `split_at_pauses`, each as soon as it is certain."""

import random

import torch

from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.inference.pauses import split_at_pauses
from speechbrain_pom.inference.streaming.pauses import PauseFinder

UNITS = CharacterUnits()
BLANK_RUNS = [1, 1, 1, 2, 3, 5, 8, 13, 30]


def random_labels(choose):
    """Labels with pauses, words of one or two letters, and labels that last."""
    num_frames, blank_share = choose.randrange(1, 160), choose.choice([0.2, 0.5, 0.8])
    labels = []
    while len(labels) < num_frames:
        if choose.random() < blank_share:
            labels += [0] * choose.choice(BLANK_RUNS)
        else:
            labels += [choose.choice([1, 1, 2, 3])] * choose.choice([1, 1, 2, 20])
    return labels[:num_frames]


def test_cuts_are_those_of_the_whole():
    choose = random.Random(0)
    for _ in range(1500):
        labels = random_labels(choose)
        lengths = choose.choice([2, 3, 5, 8]), choose.choice([1, 2, 3, 8, 12, 20, 50])
        spans = split_at_pauses(torch.tensor(labels), UNITS, *lengths)
        finder, found, start = PauseFinder(UNITS, *lengths), [], 0
        while start < len(labels):
            stop = start + choose.choice([1, 2, 5, 16])
            cuts = finder.add(labels[start:stop])
            assert all(cut <= stop for cut in cuts)
            found, start = found + cuts, stop
        assert found + finder.finish() == [stop for _, stop in spans[:-1]]


def test_hours_of_silence_take_no_memory():
    finder = PauseFinder(UNITS, 15, 750)
    finder.add([9, 1])
    for _ in range(5000):
        finder.add([0] * 16)
    assert finder.num_frames == 80_002
    assert finder.trailing_blanks == 80_000
    assert len(finder.runs) == 3
    cuts = finder.add([9])
    assert 2 + 40_000 in cuts  # the middle of the pause
    assert 80_002 - cuts[-1] <= 750
    assert len(finder.runs) == 2
