"""Sums that fade or begin anew, against the weights of each frame."""

import random

import pytest
import torch

from speechbrain_pom.ops import ChunkMask, parse_attn_mask, polynomial_mix, summary_mixing
from speechbrain_pom.ops.common.means import visible_means
from speechbrain_pom.ops.common.windows import running_sums, visible_sums
from speechbrain_pom.utils.errors import UserError


def random_mask(choose, num_chunks):
    resets = [
        sorted(choose.sample(range(num_chunks + 2), choose.randrange(num_chunks))) for _ in range(3)
    ]
    left, half_life = choose.choice([(None, None), (choose.randrange(9), None), (None, 2.5)])
    return ChunkMask(1, left, half_life, choose.choice([None, resets]))


def by_weights(values, mask):
    return mask.to_weights(values.shape[1]).to(values.dtype) @ values


@pytest.mark.parametrize("seed", range(4))
def test_sums_and_gradients_are_those_of_the_weights(seed):
    choose, several = random.Random(seed), set()
    for _ in range(15):
        num_chunks = choose.randrange(1, 70)
        mask = random_mask(choose, num_chunks)
        values = torch.randn(3, num_chunks, 2, dtype=torch.float64, requires_grad=True)
        direction = torch.randn(3, num_chunks, 2, dtype=torch.float64)
        found, expected = visible_sums(values, mask), by_weights(values, mask)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        gradients = [
            torch.autograd.grad((sums * direction).sum(), values)[0] for sums in (found, expected)
        ]
        torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)
        several.add((mask.left_context_chunks is None, mask.half_life_chunks, mask.resets is None))
    assert len(several) > 3


def test_weights_by_hand():
    mask = ChunkMask(2, half_life_chunks=1, resets=[[2], []])
    expected = torch.tensor([[1.0, 1, 0, 0, 0, 0], [0.5, 0.5, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]])
    weights = mask.to_weights(6)
    assert torch.equal(weights[0, ::2].float(), expected)
    assert torch.equal(weights[1, 4].float(), torch.tensor([0.25, 0.25, 0.5, 0.5, 1, 1]))
    limited = ChunkMask(1, 1, resets=[[2]]).to_weights(4)[0]
    assert torch.equal(
        limited, torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1.0]]).double()
    )


@pytest.mark.parametrize("half_life", [1e-3, 0.5, 1e6])
def test_long_sequences_are_stable(half_life):
    """A running sum of growing factors, divided by them, overflows."""
    values = torch.rand(1, 5000, 1) + 0.5
    mask = ChunkMask(1, half_life_chunks=half_life)
    expected = visible_sums(values.double(), mask)
    found = visible_sums(values, mask)
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=0)
    total = 0.0
    for value in values.flatten().tolist():
        total = total * mask.decay + value
    assert expected[0, -1].item() == pytest.approx(total, rel=1e-12)
    if half_life < 1e6:
        growing = (1 / mask.decay) ** torch.arange(5000.0)[:, None]
        assert not torch.isfinite((values * growing).cumsum(1) / growing).all()


@pytest.mark.parametrize("mask", [ChunkMask(1, None, 2.0, [[20]]), ChunkMask(1, 3, None, [[20]])])
def test_what_is_not_seen_leaves_no_trace(mask):
    values = torch.randn(1, 60, 2)
    expected = visible_sums(values, mask)
    for hidden, same in ((slice(0, 20), slice(20, 60)), (slice(31, 60), slice(0, 31))):
        other = values.clone()
        other[:, hidden] = torch.nan
        assert torch.equal(visible_sums(other, mask)[:, same], expected[:, same])
        assert visible_sums(other, mask).isnan().any()


def test_a_mean_that_fades_and_that_of_no_half_life():
    values = torch.zeros(1, 200, 1, dtype=torch.float64)
    values[:, 100:] = 1.0
    means = visible_means(values, None, ChunkMask(10, half_life_chunks=2.0))
    still = visible_means(values, None, ChunkMask(10))
    assert means[0, -1].item() > 0.95 > 0.6 > still[0, -1].item()
    endless = visible_means(values, None, ChunkMask(10, half_life_chunks=1e12))
    torch.testing.assert_close(endless, still, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(running_sums(values), values.cumsum(1))


def test_masks_that_cannot_be():
    for options, message in (
        ({"half_life_chunks": 0}, "half_life_chunks is 0: give chunks, more than 0"),
        ({"half_life_chunks": float("nan")}, "half_life_chunks is nan: give chunks"),
        ({"half_life_chunks": True}, "half_life_chunks is True: give chunks"),
        (
            {"half_life_chunks": 2.0, "left_context_chunks": 3},
            "half_life_chunks is 2 and left_context_chunks 3: both limit the past, give one",
        ),
        ({"resets": [3]}, r"resets is \[3\]: give the numbers of chunks, from 0 on, for each"),
        ({"resets": [[-1]]}, r"resets is \[\[-1\]\]: give the numbers of chunks"),
    ):
        with pytest.raises(UserError, match=message):
            ChunkMask(4, **options)


def test_weights_are_no_boolean_mask_and_not_for_every_operator():
    mask = ChunkMask(4, half_life_chunks=2.5, resets=[[1]])
    text = "ChunkMask(chunk_size=4, left_context_chunks=None, half_life_chunks=2.5, resets=((1,),))"
    assert repr(mask) == text
    assert mask == ChunkMask(4, half_life_chunks=2.5, resets=((1,),))
    assert len({mask, ChunkMask(4)}) == 2
    with pytest.raises(UserError, match="has weights: no boolean tensor is equal to it"):
        mask.to_bool(9)
    with pytest.raises(UserError, match="is for mixers of sums over time, which alone fade"):
        parse_attn_mask(mask, 9, 9)
    assert parse_attn_mask(mask, 9, 9, weighs=True) is mask
    assert parse_attn_mask(mask, 4, 4, weighs=True) is None


def test_resets_are_of_each_utterance():
    frames, layers = torch.randn(2, 9, 4), [(torch.randn(1, 4, 4), torch.zeros(1, 4))]
    mask = ChunkMask(2, resets=[[1]])
    with pytest.raises(UserError, match="resets are of 1 utterances and the batch has 2: give"):
        summary_mixing(frames, layers, attn_mask=mask)
    linear = [(torch.randn(16, 4), torch.zeros(16))]
    out = torch.randn(4, 16), torch.zeros(4)
    with pytest.raises(UserError, match="resets are of 1 utterances and the batch has 2: give"):
        polynomial_mix(frames, linear, linear, *out, degree=2, attn_mask=mask)
