"""One definition of the features: any partners, any precision, zeros in the padding."""

import math

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechbrain_pom.encoder.features import FeatureExtractor, Waveform
from speechbrain_pom.utils.errors import UserError

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


def extract(wavs, num_samples, compute_features, normalize, stride=4):
    features = FeatureExtractor(compute_features, normalize, stride)
    return features(wavs, torch.as_tensor(num_samples))


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
    features = FeatureExtractor(fbank, InputNormalization(update_until_epoch=2))
    wavs, num_samples = padded_batch(LENGTHS), torch.tensor(LENGTHS)
    features(wavs, num_samples, epoch=1)
    frames = sum(1 + length // 160 for length in LENGTHS)
    assert features.count == frames  # without padding
    before = features.mean.clone()
    features(3 * wavs, num_samples, epoch=2)
    features(3 * wavs, num_samples)
    features.eval()(3 * wavs, num_samples, epoch=1)
    assert features.count == frames
    assert torch.equal(features.mean, before)


def test_without_an_epoch_statistics_stay_even_if_updates_never_end(fbank):
    features = FeatureExtractor(fbank, InputNormalization(update_until_epoch=None))
    wavs, num_samples = padded_batch([16000]), torch.tensor([16000])
    features(wavs, num_samples, epoch=1)
    features(wavs, num_samples)
    assert features.count == 101
    features(wavs, num_samples, epoch=1000)  # the comparison can fail
    assert features.count == 202


def test_training_updates_and_saves_as_speechbrain_does(fbank, tmp_path):
    """Bit by bit: several batches, the file of the statistics, and what follows after loading."""
    ours, theirs = FeatureExtractor(fbank, InputNormalization()), InputNormalization()
    for epoch in (1, 1, 2):
        wavs = padded_batch(LENGTHS, seed=epoch)
        found, num_frames = ours(wavs, torch.tensor(LENGTHS), epoch)
        expected = theirs(fbank(wavs), num_frames / found.shape[1], epoch=epoch)
        assert torch.equal(found[-1], expected[-1])
    ours.save_statistics(tmp_path / "ours.ckpt")
    theirs._save(tmp_path / "theirs.ckpt")
    files = [torch.load(tmp_path / f"{name}.ckpt") for name in ("ours", "theirs")]
    assert int(files[0]["count"]) == int(files[1]["count"])
    assert all(torch.equal(files[0][key], files[1][key]) for key in ("glob_mean", "glob_std"))
    again = FeatureExtractor(fbank, InputNormalization())
    again.load_statistics(tmp_path / "theirs.ckpt")
    wavs = padded_batch(LENGTHS, seed=9)
    both = [one(wavs, torch.tensor(LENGTHS), 1)[0] for one in (ours, again)]
    assert torch.equal(*both)


def test_a_state_dict_brings_statistics_that_a_checkpoint_can_hold(fbank, normalize, tmp_path):
    known, fresh = (FeatureExtractor(fbank, norm) for norm in (normalize, InputNormalization()))
    assert not fresh.has_statistics
    fresh.load_state_dict(known.state_dict())
    fresh.save_statistics(tmp_path / "normalize.ckpt")
    last = FeatureExtractor(fbank, InputNormalization())
    last.load_statistics(tmp_path / "normalize.ckpt")
    assert torch.equal(last.mean, known.mean)


def test_a_file_without_statistics(fbank, tmp_path):
    path = tmp_path / "normalize.ckpt"
    FeatureExtractor(fbank, InputNormalization(norm_type="sentence")).save_statistics(path)
    features = FeatureExtractor(fbank, InputNormalization())
    with pytest.raises(UserError, match=r"normalize\.ckpt has no statistics of the features"):
        features.load_statistics(path)


def test_waveforms_as_features():
    wavs = padded_batch(LENGTHS) + 1.0
    feats, num_frames = extract(wavs, LENGTHS, Waveform(), None, stride=1)
    assert feats.shape == (len(LENGTHS), 23999, 1)
    assert num_frames.tolist() == LENGTHS
    assert torch.equal(feats[4, :8000, 0], wavs[4, :8000])
    assert (feats[4, 8000:] == 0).all()
    normalised, _ = extract(
        wavs, LENGTHS, Waveform(), InputNormalization(norm_type="sentence"), stride=1
    )
    assert abs(float(normalised[4, :8000].mean())) < 1e-4


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


def test_a_running_floor_depends_on_nothing_that_comes_later(fbank, normalize):
    wavs = padded_batch([24000, 9000])
    wavs[:, :4000] *= 1e-6
    features = FeatureExtractor(fbank, normalize, 4, floor="running")
    whole, _ = features(wavs, torch.tensor([24000, 9000]))
    start, _ = features(wavs[:1, :3300], torch.tensor([3300]))
    torch.testing.assert_close(start[:, :20], whole[:1, :20], rtol=0, atol=1e-5)
    alone, _ = features(wavs[1:, :9000], torch.tensor([9000]))
    torch.testing.assert_close(alone[0, :57], whole[1, :57], rtol=0, atol=1e-5)
    by_utterance, _ = features(wavs, torch.tensor([24000, 9000]), floor="utterance")
    assert (by_utterance[:, :20] > whole[:, :20]).any(-1).all()  # quieter than 80 dB below
    torch.testing.assert_close(by_utterance[0, 40:150], whole[0, 40:150], rtol=0, atol=1e-5)


def test_another_floor_is_refused(fbank, normalize):
    with pytest.raises(UserError, match="feature_floor is 'chunk': give utterance"):
        FeatureExtractor(fbank, normalize, 4, floor="chunk")
