"""The masks of wav2vec 2.0: their number, their bounds, and what they depend on."""

import numpy as np
import pytest

from speechbrain_pom.objectives.wav2vec2 import check_mask_options, sample_masks
from speechbrain_pom.objectives.wav2vec2.masks import min_frames, why_unmaskable
from speechbrain_pom.utils.errors import UserError

OPTIONS = {"mask_prob": 0.65, "mask_length": 10, "scope": "utterance", "seed": 7, "epoch": 1}


def masks(lengths, ids=None, **options):
    ids = [f"u{number}" for number in range(len(lengths))] if ids is None else ids
    return sample_masks(lengths, ids, **{**OPTIONS, **options})


@pytest.mark.parametrize("scope", ["utterance", "batch"])
@pytest.mark.parametrize("epoch", [1, None])
@pytest.mark.parametrize("mask_length", [1, 2, 10])
def test_every_length_that_can_be_masked_is(scope, epoch, mask_length):
    lengths = list(range(1, 130))
    drawn = masks(lengths, scope=scope, epoch=epoch, mask_length=mask_length)
    for length, row in zip(lengths, drawn, strict=True):
        assert not row[length:].any()
        if length < min_frames(mask_length):
            assert not row.any()
            assert why_unmaskable(length, mask_length).startswith(f"{length} frames are too short")
        else:
            assert 2 <= row.sum() < length
            assert row.sum() % mask_length == 0
            assert why_unmaskable(length, mask_length) is None


def test_the_share_is_that_of_the_publication():
    """67 % of ten seconds, on average over u."""
    shares = masks([498] * 400).sum(1) / 498
    assert set(np.round(shares * 498)) == {330, 340}
    assert shares.mean() == pytest.approx((0.65 * 498 + 10) / 498, abs=0.003)


def test_every_frame_is_masked_alike():
    """The last start included: SpeechBrain masks the last frame in 43 % of 10 s, others in 77 %."""
    drawn = masks([60] * 4000).mean(0)
    assert drawn[-1] == pytest.approx(drawn[0], abs=0.04)
    assert drawn[1:-1].min() > drawn[-1] - 0.04


def test_an_utterance_is_masked_alike_with_any_partners():
    alone = masks([500], ["a"])[0]
    together = masks([60, 500, 1000], ["b", "a", "c"])
    assert (together[1, :500] == alone).all()
    assert together[0, :60].mean() == pytest.approx(0.65 + 10 / 60, abs=0.2)
    assert together[2].mean() == pytest.approx(0.66, abs=0.02)
    assert (masks([60, 500], ["b", "a"], width=700)[1, :500] == alone).all()


def test_the_published_scope_is_bounded_by_the_shortest():
    lengths = [1000, 500, 60]
    drawn = masks(lengths, scope="batch")
    assert len(set(drawn.sum(1))) == 1
    assert drawn[0].mean() < 0.06
    # Validation has no partners, in any scope.
    valid = masks(lengths, scope="batch", epoch=None)
    assert (valid == masks(lengths, epoch=None)).all()
    # What cannot be masked bounds nobody.
    assert (masks([*lengths, 4], scope="batch")[:3] == drawn).all()


def test_what_masks_are_functions_of():
    assert (masks([500]) == masks([500])).all()
    others = [{"seed": 8}, {"epoch": 2}, {"epoch": None}, {"ids": ["x"]}]
    assert all((masks([500], **other) != masks([500])).any() for other in others)
    assert (masks([500], step=2, rank=1) == masks([500])).all()
    counts = {int(masks([500], scope="batch", step=step).sum()) for step in range(20)}
    assert len(counts) == 2  # the number is that of the step


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_prob": 0.0}, "mask_prob = 0.0: give a share of the frames above 0 and below 1"),
        ({"mask_prob": 1.0}, "mask_prob = 1.0: give a share"),
        ({"mask_length": 0}, "mask_length = 0: give a whole number of frames, at least 1"),
        ({"mask_length": 2.5}, "mask_length = 2.5: give a whole number"),
        ({"scope": "epoch"}, "mask_scope = 'epoch' does not exist: choose one of"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    given = {"mask_prob": 0.65, "mask_length": 10, "scope": "batch", **options}
    with pytest.raises(UserError) as error:
        check_mask_options(**given)
    assert str(error.value).startswith(message)
