"""Negatives: other masked frames of the same utterance, and functions of it."""

import numpy as np
import torch

from speechbrain_pom.objectives.wav2vec2 import find_masked, sample_masks, sample_negatives


def drawn(num_masked, num_negatives=100, **options):
    options = {"seed": 7, "epoch": 1, "utterance_id": "a", **options}
    return sample_negatives(num_masked, num_negatives, **options)


def test_never_the_frame_itself_and_all_others_alike():
    found = drawn(40, 5000)
    assert found.min() == 0
    assert found.max() == 39
    times = np.stack([np.bincount(row, minlength=40) for row in found])
    assert (np.diag(times) == 0).all()
    others = times[~np.eye(40, dtype=bool)]
    expected = 5000 / 39
    assert 0.8 < ((others - expected) ** 2 / expected).mean() < 1.2  # chi-square per cell


def test_what_they_are_functions_of():
    assert (drawn(50) == drawn(50)).all()
    others = [{"seed": 8}, {"epoch": 2}, {"epoch": None}, {"utterance_id": "b"}]
    assert all((drawn(50, **other) != drawn(50)).any() for other in others)


def test_a_single_masked_frame_has_none():
    assert drawn(1).shape == (1, 0)


def test_in_a_batch_they_stay_in_their_utterance():
    ids, lengths = ["a", "b", "c"], [500, 63, 300]
    mask = sample_masks(
        lengths, ids, mask_prob=0.65, mask_length=10, scope="utterance", seed=7, epoch=1
    )
    mask = np.concatenate([mask, np.zeros((1, 500), dtype=bool)])  # one that is too short
    found = find_masked(mask, [*ids, "d"], 100, seed=7, epoch=1)
    assert found.counts == [*mask.sum(1)]
    assert found.counts[3] == 0
    utterance = torch.from_numpy(np.nonzero(mask)[0])  # of each of the N masked frames
    assert torch.equal(found.index, torch.from_numpy(np.flatnonzero(mask)))
    for row, count in enumerate(found.counts):
        assert (utterance[found.rows[row, :count]] == row).all()
        inside, padding = found.negatives[row, :count], found.negatives[row, count:]
        assert (padding == -1).all()
        if count:
            assert inside.min() == 0
            assert inside.max() == count - 1
            assert (inside != torch.arange(count).unsqueeze(1)).all()
    alone = find_masked(mask[1:2], ["b"], 100, seed=7, epoch=1)
    assert torch.equal(alone.negatives[0], found.negatives[1, : found.counts[1]])
