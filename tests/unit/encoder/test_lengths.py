"""Lengths agree with what SpeechBrain's modules really produce, and stay exact."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd

from speechbrain_pom.encoder.lengths import (
    num_encoder_frames,
    num_feature_frames,
    num_whole_blocks,
    pad_to_multiple,
    padding_mask,
    relative_lengths,
)

AWKWARD_SAMPLES = [1, 2, 63, 159, 160, 161, 199, 200, 400, 500, 1599, 1600, 16000, 40001]


@pytest.mark.parametrize(
    ("sample_rate", "hop_ms", "n_fft"), [(16000, 10, 400), (16000, 12.5, 512), (8000, 10, 256)]
)
def test_feature_frames_are_those_of_fbank(sample_rate, hop_ms, n_fft):
    fbank = Fbank(sample_rate=sample_rate, hop_length=hop_ms, n_fft=n_fft, n_mels=20)
    random_lengths = torch.randint(1, 30000, (20,), generator=torch.manual_seed(0)).tolist()
    for num_samples in AWKWARD_SAMPLES + random_lengths:
        frames = fbank(torch.zeros(1, num_samples)).shape[1]
        assert num_feature_frames(num_samples, sample_rate, hop_ms) == frames, num_samples


def test_encoder_frames_are_those_of_the_front_end():
    front_end = ConvolutionFrontEnd(
        (None, None, 20),
        num_blocks=2,
        num_layers_per_block=1,
        out_channels=(4, 2),
        kernel_sizes=(3, 3),
        strides=(2, 2),
        residuals=(False, False),
    )
    for num_frames in [*range(3, 40), 63, 500]:
        padded = pad_to_multiple(torch.zeros(1, num_frames, 20), 4)
        assert front_end(padded).shape[1] == num_encoder_frames(num_frames), num_frames


def test_tensors_give_what_integers_give():
    samples = torch.tensor(AWKWARD_SAMPLES)
    frames = num_feature_frames(samples)
    assert frames.dtype == torch.int64
    assert frames.tolist() == [num_feature_frames(n) for n in AWKWARD_SAMPLES]
    assert num_encoder_frames(frames).tolist() == [num_encoder_frames(n) for n in frames.tolist()]
    assert num_whole_blocks(frames).tolist() == [num_whole_blocks(n) for n in frames.tolist()]


def test_whole_blocks_and_encoder_frames_bracket_the_length():
    for stride in (1, 3, 4):
        for num_frames in range(50):
            whole, encoder = (
                num_whole_blocks(num_frames, stride),
                num_encoder_frames(num_frames, stride),
            )
            assert whole * stride <= num_frames <= encoder * stride
            assert encoder - whole == (num_frames % stride > 0)


@pytest.mark.parametrize("function", [num_feature_frames, num_encoder_frames, num_whole_blocks])
def test_relative_lengths_are_refused_as_lengths(function):
    with pytest.raises(ValueError, match=r"must be integers, not torch\.float32: relative"):
        function(torch.tensor([0.5, 1.0]))
    with pytest.raises(ValueError, match=r"must be integers, not 0\.5: relative"):
        function(0.5)


def test_hop_below_one_sample_is_refused():
    with pytest.raises(ValueError, match=r"hop_ms = 0\.01 at sample_rate = 16000 is less than one"):
        num_feature_frames(100, hop_ms=0.01)


@pytest.mark.parametrize("num_frames", [1, 4, 63, 500])
def test_padding_is_on_the_right_and_exactly_zero(num_frames):
    feats = torch.rand(2, num_frames, 5) + 1
    padded = pad_to_multiple(feats, 4)
    assert padded.shape[1] % 4 == 0
    assert padded.shape[1] - num_frames < 4
    assert torch.equal(padded[:, :num_frames], feats)
    assert not padded[:, num_frames:].any()


def test_masks_are_padded_too():
    padded = pad_to_multiple(torch.ones(2, 5, dtype=torch.bool), 4)
    assert padded.dtype == torch.bool
    assert padded.sum(dim=1).tolist() == [5, 5]


def test_relative_lengths_give_back_every_integer():
    for max_length in [*range(1, 300), 1023, 4095, 4096]:
        lengths = torch.arange(max_length + 1)
        relative = relative_lengths(lengths, max_length)
        assert relative.dtype == torch.float32
        assert torch.equal(torch.round(relative * max_length).long(), lengths), max_length


def test_relative_lengths_are_exact_for_hours_of_audio():
    generator = torch.manual_seed(0)
    for max_length in torch.randint(4096, 1_000_000, (50,), generator=generator).tolist():
        lengths = torch.randint(0, max_length + 1, (2000,), generator=generator)
        relative = relative_lengths(lengths, max_length)
        assert torch.equal(torch.round(relative * max_length).long(), lengths), max_length
    lengths = torch.arange(2**22 - 5000, 2**22 + 1)
    assert torch.equal(torch.round(relative_lengths(lengths, 2**22) * 2**22).long(), lengths)


def test_lengths_that_float32_cannot_hold_are_refused():
    lengths = torch.arange(57_000_000, 57_000_100)  # an hour in samples: the reason for the limit
    naive = lengths.float() / 57_600_000
    assert not torch.equal(torch.round(naive * 57_600_000).long(), lengths)
    with pytest.raises(ValueError, match=r"max_length = 57600000 is beyond .* in frames, not"):
        relative_lengths(lengths, 57_600_000)


def test_padding_mask_marks_the_padding():
    mask = padding_mask([0, 1, 63, 500], 500)
    assert (~mask).sum(dim=1).tolist() == [0, 1, 63, 500]
    assert torch.equal(mask, mask.sort(dim=1).values)  # False first
    with pytest.raises(ValueError, match="lengths must be integers"):
        padding_mask(torch.tensor([0.5]), 10)
