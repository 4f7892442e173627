"""One definition of the features: any partners, any precision, zeros in the padding."""

import math

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechbrain_pom.encoder.extraction import extract_features

LENGTHS = [1, 159, 160, 641, 8000, 16001, 23999]


@pytest.fixture(scope="module")
def fbank():
    return Fbank(sample_rate=16000, n_fft=400, hop_length=10, n_mels=80)


@pytest.fixture
def normalize():
    """Global normalisation with statistics of some noise, no longer updated."""
    module = InputNormalization(update_until_epoch=4)
    module(5 * torch.randn(4, 500, 80) - 30, torch.ones(4), epoch=1)
    return module.eval()


def extract(wavs, num_samples, compute_features, normalize, stride=4, **options):
    return extract_features(
        wavs,
        torch.as_tensor(num_samples),
        compute_features=compute_features,
        normalize=normalize,
        sample_rate=16000,
        hop_ms=10,
        stride=stride,
        **options,
    )


def padded_batch(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    wavs = torch.zeros(len(lengths), max(lengths))
    for row, length in zip(wavs, lengths, strict=True):
        row[:length] = 0.1 * torch.randn(length, generator=generator)
    return wavs


def test_shapes_and_zeros_in_all_padding(fbank, normalize):
    feats, num_frames = extract(padded_batch(LENGTHS), LENGTHS, fbank, normalize)
    assert num_frames.tolist() == [1 + length // 160 for length in LENGTHS]
    assert feats.shape == (len(LENGTHS), 152, 80)  # 150 frames, up to a multiple of 4
    for row, frames in zip(feats, num_frames.tolist(), strict=True):
        assert (row[frames:] == 0).all()
        assert (row[:frames] != 0).any(dim=-1).all()


@pytest.mark.parametrize("stride", [1, 3, 4])
def test_time_is_padded_to_a_multiple_of_the_stride(fbank, normalize, stride):
    feats, num_frames = extract(padded_batch([16000]), [16000], fbank, normalize, stride=stride)
    assert num_frames.tolist() == [101]
    assert feats.shape[1] == math.ceil(101 / stride) * stride


@pytest.mark.parametrize("length", LENGTHS)
def test_features_do_not_depend_on_the_partners(fbank, normalize, length):
    wavs = padded_batch([length, 30000])
    wavs[1] *= 20
    alone, num_frames = extract(wavs[:1, :length], [length], fbank, normalize)
    together, _ = extract(wavs, [length, 30000], fbank, normalize)
    valid = int(num_frames[0])
    torch.testing.assert_close(together[0, :valid], alone[0, :valid], rtol=1e-5, atol=1e-5)


def test_statistics_are_updated_in_training_until_the_epoch_and_never_after(fbank):
    module = InputNormalization(update_until_epoch=2)
    wavs = padded_batch(LENGTHS)
    extract(wavs, LENGTHS, fbank, module, epoch=1)
    frames = sum(1 + length // 160 for length in LENGTHS)
    assert int(module.count) == frames  # without padding
    before = module.glob_mean.clone()
    extract(3 * wavs, LENGTHS, fbank, module, epoch=2)
    extract(3 * wavs, LENGTHS, fbank, module, epoch=math.inf)
    extract(3 * wavs, LENGTHS, fbank, module.eval(), epoch=1)
    assert int(module.count) == frames
    assert torch.equal(module.glob_mean, before)


def test_frozen_statistics_hold_even_if_updates_never_end(fbank):
    module = InputNormalization(update_until_epoch=None)
    wavs = padded_batch([16000])
    extract(wavs, [16000], fbank, module, epoch=1)
    extract(wavs, [16000], fbank, module, epoch=math.inf)
    assert int(module.count) == 101


def test_half_precision_does_not_reach_the_features(fbank, normalize):
    wavs = padded_batch([8000])
    expected, _ = extract(wavs, [8000], fbank, normalize)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast, _ = extract(wavs, [8000], fbank, normalize)
    assert torch.equal(under_autocast, expected)
    from_half, _ = extract(wavs.bfloat16(), [8000], fbank, normalize)
    assert from_half.dtype == torch.float32


def test_relative_lengths_are_refused(fbank, normalize):
    with pytest.raises(ValueError, match="num_samples"):
        extract(padded_batch([8000]), torch.tensor([1.0]), fbank, normalize)


def test_what_lies_beyond_the_end_of_a_waveform_does_not_matter(fbank, normalize):
    """Augmentation leaves something there, and the last window reaches it."""
    wavs = padded_batch(LENGTHS)
    beyond = torch.arange(wavs.shape[1]) >= torch.tensor(LENGTHS)[:, None]
    expected, _ = extract(wavs, LENGTHS, fbank, normalize)
    assert torch.equal(extract(wavs + beyond, LENGTHS, fbank, normalize)[0], expected)
    assert torch.equal(
        extract(wavs.masked_fill(beyond, torch.nan), LENGTHS, fbank, normalize)[0], expected
    )
