"""Masks: properties over lengths and batch partners, for both scopes."""

import random
import re

import pytest
import torch
from speechbrain.lobes.models.BESTRQ import compute_mask

from speechbrain_pom.encoder.lengths import pad_to_multiple
from speechbrain_pom.objectives.bestrq.masks import (
    check_mask_options,
    predicted_positions,
    sample_masks,
    why_unmaskable,
)

PAPER = {"mask_prob": 0.15, "mask_length": 4, "seed": 1000}
LENGTHS = [*range(1, 70), 100, 101, 499, 500, 501, 1501]
IDS = [f"spk-{n}" for n in LENGTHS]


def draw(num_frames, ids, scope="utterance", epoch=1, **options):
    return sample_masks(num_frames, ids, **{**PAPER, "scope": scope, "epoch": epoch, **options})


def runs(row, block=4):
    """Number of masked frames in each aligned block."""
    return pad_to_multiple(row[None], block).view(-1, block).sum(dim=1).tolist()


@pytest.mark.parametrize("mask_length", [4, 8])
@pytest.mark.parametrize(("scope", "epoch"), [("utterance", 3), ("utterance", None), ("batch", 3)])
def test_only_whole_blocks_of_valid_frames_are_masked(scope, epoch, mask_length):
    for mask_prob in (0.001, 0.15 * 4 / mask_length, 0.99 / mask_length):
        mask = draw(LENGTHS, IDS, scope, epoch, mask_prob=mask_prob, mask_length=mask_length)
        assert mask.shape == (len(LENGTHS), max(LENGTHS))
        assert mask.dtype == torch.bool
        for row, length in zip(mask, LENGTHS, strict=True):
            masked = runs(row, mask_length)
            assert set(masked) <= {0, mask_length}
            assert not row[length // mask_length * mask_length :].any()
            num_blocks = length // mask_length
            assert 0 < sum(map(bool, masked)) < num_blocks if num_blocks >= 2 else not any(masked)


@pytest.mark.parametrize("epoch", [1, 7, None])
def test_an_utterance_is_masked_alike_with_any_partners(epoch):
    together = draw(LENGTHS, IDS, epoch=epoch)
    shuffled = list(range(len(IDS)))
    random.Random(0).shuffle(shuffled)
    for part in (shuffled[:5], shuffled[5:30], shuffled[30:31]):
        # Step and rank are those of another batch on purpose.
        some = draw([LENGTHS[i] for i in part], [IDS[i] for i in part], epoch=epoch, step=9, rank=1)
        for row, i in zip(some, part, strict=True):
            assert torch.equal(row[: LENGTHS[i]], together[i, : LENGTHS[i]])


def test_a_shared_mask_does_depend_on_partners():
    """The published way, as the guard that the test above can fail."""
    alone = draw([500], ["a"], "batch")
    batch = draw([500, 100], ["a", "b"], "batch")
    assert not torch.equal(alone[0], batch[0])


def test_utterance_masks_change_with_seed_epoch_and_id():
    base = draw([400], ["a"])
    assert torch.equal(base, draw([400], ["a"]))
    for other in (
        draw([400], ["a"], seed=1001),
        draw([400], ["a"], epoch=2),
        draw([400], ["b"]),
        draw([400], ["a"], epoch=None),
    ):
        assert not torch.equal(base, other)


def test_batch_mask_is_shared_and_bounded_by_the_shortest():
    mask = draw([500, 120, 300], ["a", "b", "c"], "batch", step=5, rank=1)
    assert torch.equal(mask[0], mask[1])
    assert torch.equal(mask[0], mask[2])
    assert not mask[:, 120:].any()
    assert torch.equal(mask, draw([500, 120, 300], ["x", "y", "z"], "batch", step=5, rank=1))
    for coordinates in ({"step": 6}, {"rank": 0}, {"epoch": 2}, {"seed": 1}):
        other = draw(
            [500, 120, 300], "abc", **{"scope": "batch", "step": 5, "rank": 1} | coordinates
        )
        assert not torch.equal(mask, other)


def test_an_utterance_without_two_blocks_does_not_unmask_its_partners():
    mask = draw([500, 7, 300], ["a", "b", "c"], "batch")
    assert not mask[1].any()
    assert mask[0].any()
    assert not draw([3, 7], ["a", "b"], "batch").any()


@pytest.mark.parametrize("mask_length", [1, 4, 8])
def test_what_is_too_short_for_a_mask_is_what_is_never_masked(mask_length):
    bad = [
        key for key, length in zip(IDS, LENGTHS, strict=True) if why_unmaskable(length, mask_length)
    ]
    options = {"mask_length": mask_length, "mask_prob": 0.1}
    for epoch in (1, 2, None):
        masks = draw(LENGTHS, IDS, epoch=epoch, **options)
        assert [key for key, mask in zip(IDS, masks, strict=True) if not mask.any()] == bad
    if mask_length == 4:
        reason = "7 frames are too short for a mask: one of 4 needs 8"
        assert why_unmaskable(7, mask_length) == reason


def test_validation_masks_belong_to_the_utterance_in_both_scopes():
    by_utterance = draw([500, 100], ["a", "b"], "utterance", None)
    by_batch = draw([500, 100], ["a", "b"], "batch", None, step=3, rank=1)
    assert torch.equal(by_utterance, by_batch)
    assert torch.equal(by_batch[1, :100], draw([100], ["b"], "batch", None)[0])


@pytest.mark.parametrize("num_frames", [63, 500])
def test_batch_masks_are_distributed_as_published(num_frames):
    """Mean number and mean position of masked frames, beside SpeechBrain's `compute_mask`."""
    draws = 600
    random.seed(0)
    torch.manual_seed(0)
    published = torch.zeros(num_frames)
    for _ in range(draws):
        published[compute_mask((2, num_frames, 80), [num_frames, 600], 0.15, 4)] += 1 / draws
    ours = sum(
        draw([num_frames, 600], "ab", "batch", step=step)[0, :num_frames].float() / draws
        for step in range(draws)
    )
    assert abs(ours.mean() - published.mean()) < 0.005
    whole = num_frames // 4 * 4
    assert (ours - published)[:whole].abs().max() < 0.14  # over 4 standard errors of a difference
    assert not ours[whole:].any()


def test_predicted_positions_are_the_fully_masked_valid_blocks():
    generator = torch.manual_seed(0)
    for stride in (1, 3, 4):
        lengths = torch.randint(1, 80, (20,), generator=generator)
        mask = torch.rand(20, 81, generator=generator) < 0.8
        found = predicted_positions(mask, lengths, stride)
        assert found.shape == (20, 81 // stride)
        for row, length, blocks in zip(mask, lengths, found, strict=True):
            for block, predicted in enumerate(blocks):
                frames = range(block * stride, (block + 1) * stride)
                assert predicted == all(i < length and row[i] for i in frames)


def test_every_masked_frame_is_predicted_for_drawn_masks():
    for scope in ("utterance", "batch"):
        mask = draw(LENGTHS, IDS, scope)
        predicted = predicted_positions(pad_to_multiple(mask, 4), LENGTHS)
        assert predicted.sum() * 4 == mask.sum()


def test_masks_off_the_grid_would_be_half_visible():
    """Why `mask_length` has to be a multiple of the stride."""
    mask = draw([500], ["a"], mask_length=6, mask_prob=0.1)
    assert predicted_positions(mask, [500], 4).sum() * 4 < mask.sum()


@pytest.mark.parametrize(
    ("mask_prob", "mask_length", "message"),
    [
        (
            0.25,
            4,
            "mask_prob = 0.25 with mask_length = 4 would mask every frame: mask_prob must be",
        ),
        (0.15, 8, "mask_prob = 0.15 with mask_length = 8 would mask every frame"),
        (0.0, 4, "mask_prob = 0.0 would mask nothing: it must be above 0"),
        (-0.1, 4, "mask_prob = -0.1 would mask nothing"),
        (float("nan"), 4, "mask_prob = nan would mask nothing"),
        (0.05, 6, "mask_length = 6 frames must be a positive multiple of 4"),
        (0.15, 0, "mask_length = 0 frames must be a positive multiple of 4"),
        (0.15, -4, "mask_length = -4 frames must be a positive multiple of 4"),
        (0.15, 4.0, "mask_length = 4.0 frames must be a positive multiple of 4"),
    ],
)
def test_options_that_cannot_work_are_refused(mask_prob, mask_length, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check_mask_options(mask_prob, mask_length)


def test_drawing_refuses_wrong_arguments():
    with pytest.raises(ValueError, match=r"mask_prob = 0\.3 with mask_length = 4 would mask every"):
        draw([100], ["a"], mask_prob=0.3)
    with pytest.raises(ValueError, match="mask_scope = 'each' does not exist: choose one of"):
        draw([100], ["a"], "each")
    with pytest.raises(ValueError, match="2 lengths with 1 ids: give one id per length"):
        draw([100, 50], ["a"])
