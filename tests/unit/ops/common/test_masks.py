"""Masks: the structured form, its detection, and what is refused."""

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask
from speechbrain.lobes.models.transformer.TransformerASR import make_transformer_src_mask
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.ops import ChunkMask, parse_attn_mask, polynomial_mix

LENGTHS = (1, 2, 7, 16, 63)
CHUNKS = [(size, left) for size in (1, 2, 5, 16, 63, 100) for left in (None, 0, 1, 3, 70)]


def speechbrain_mask(num_frames, chunk_size, left):
    return make_transformer_src_mask(
        torch.zeros(1, num_frames, 1), dynchunktrain_config=DynChunkTrainConfig(chunk_size, left)
    )


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_chunk_masks_are_those_of_speechbrain_and_are_found(num_frames):
    for chunk_size, left in CHUNKS:
        expected = speechbrain_mask(num_frames, chunk_size, left)
        assert torch.equal(ChunkMask(chunk_size, left).to_bool(num_frames), expected)
        found = parse_attn_mask(expected, num_frames, num_frames)
        if found is None:
            assert not expected.any()
        else:
            assert isinstance(found, ChunkMask)
            assert torch.equal(found.to_bool(num_frames), expected)


@pytest.mark.parametrize("num_frames", LENGTHS)
def test_causal_masks_are_found_in_both_forms(num_frames):
    causal = get_lookahead_mask(torch.zeros(1, num_frames))
    expected = None if num_frames == 1 else ChunkMask(1)
    assert parse_attn_mask(causal, num_frames, num_frames) == expected
    assert parse_attn_mask(causal == -torch.inf, num_frames, num_frames) == expected


@pytest.mark.parametrize("num_frames", [2, 7, 63])
def test_a_mask_that_differs_in_one_place_is_not_taken_for_chunks(num_frames):
    generator = torch.Generator().manual_seed(num_frames)
    for chunk_size, left in CHUNKS:
        mask = speechbrain_mask(num_frames, chunk_size, left)
        row, column = torch.randint(num_frames, (2,), generator=generator)
        mask[row, column] = ~mask[row, column]
        found = parse_attn_mask(mask, num_frames, num_frames)
        hidden = torch.zeros_like(mask) if found is None else found
        if isinstance(hidden, ChunkMask):  # flipping one place may give another chunk mask
            hidden = hidden.to_bool(num_frames)
        assert torch.equal(hidden, mask)


def test_masks_that_need_nothing_are_none():
    assert parse_attn_mask(None, 4, 6) is None
    assert parse_attn_mask(torch.zeros(4, 6), 4, 6) is None
    assert parse_attn_mask(torch.zeros(4, 6, dtype=torch.bool), 4, 6) is None
    assert parse_attn_mask(ChunkMask(5), 5, 5) is None
    assert parse_attn_mask(ChunkMask(4), 5, 5) == ChunkMask(4)


def test_other_masks_stay_tensors():
    hidden = torch.rand(5, 7) < 0.5
    assert torch.equal(parse_attn_mask(hidden, 5, 7), hidden)
    everything_hidden = torch.ones(5, 5, dtype=torch.bool)
    assert torch.equal(parse_attn_mask(everything_hidden, 5, 5), everything_hidden)


SHAPE_ADVICE = (
    ": give one mask for the whole batch of shape (4, 4), a ChunkMask, or None "
    "(padding goes to key_padding_mask)"
)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.zeros(2, 4, 4, dtype=torch.bool), "attn_mask is (2, 4, 4)" + SHAPE_ADVICE),
        (torch.zeros(4, 5), "attn_mask is (4, 5)" + SHAPE_ADVICE),
        ("causal", "attn_mask is str" + SHAPE_ADVICE),
        (
            torch.full((4, 4), -1e9),
            "attn_mask adds values other than 0 and -inf (an attention bias): a mixer without "
            "attention scores cannot honour it; give a boolean mask",
        ),
        (
            torch.full((4, 4), torch.nan),
            "attn_mask adds values other than 0 and -inf (an attention bias): a mixer without "
            "attention scores cannot honour it; give a boolean mask",
        ),
        (
            torch.zeros(4, 4, dtype=torch.long),
            "attn_mask has dtype torch.int64: give a boolean mask (True = may not be seen) or "
            "an additive one (0 and -inf)",
        ),
    ],
)
def test_masks_that_cannot_be_honoured_raise(mask, message):
    with pytest.raises(ValueError, match="attn_mask") as error:
        parse_attn_mask(mask, 4, 4)
    assert str(error.value) == message


def test_chunk_masks_need_one_length():
    with pytest.raises(ValueError, match="same length") as error:
        parse_attn_mask(ChunkMask(2, 1), 4, 6)
    assert str(error.value) == (
        "ChunkMask(chunk_size=2, left_context_chunks=1) needs query and key of the same length, "
        "got 4 and 6 frames"
    )


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0,), "chunk_size is 0: it must be at least 1 frame"),
        (
            (4, -1),
            "left_context_chunks is -1: give 0 or more chunks, or None to see the whole past",
        ),
    ],
)
def test_numbers_out_of_range_raise(numbers, message):
    with pytest.raises(ValueError, match="chunk") as error:
        ChunkMask(*numbers)
    assert str(error.value) == message


@pytest.mark.parametrize("as_tensor", [False, True], ids=["ChunkMask", "tensor"])
@pytest.mark.parametrize("gradients", [False, True], ids=["tiles", "whole"])
@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (8, 0), (8, 2), (40, None), (40, 3)])
def test_what_a_frame_may_not_see_changes_no_bit(
    make_inputs, chunk_size, left, gradients, as_tensor
):
    inputs = make_inputs(301, degree=2, batch=1)
    query, *weights = inputs.arguments
    mask = ChunkMask(chunk_size, left)
    hidden = mask.to_bool(301)
    mask = hidden if as_tensor else mask
    frames = query.detach()
    with torch.set_grad_enabled(gradients):
        before = polynomial_mix(frames, *weights, **inputs.options, attn_mask=mask)
        for position in (300, 160, 159, 0):
            changed = frames.clone()
            changed[:, position] = 1e4 * torch.randn(1, 7)
            after = polynomial_mix(changed, *weights, **inputs.options, attn_mask=mask)
            blind = hidden[:, position]
            assert torch.equal(before[:, blind], after[:, blind])
            assert not torch.equal(before[:, ~blind], after[:, ~blind])
