"""Augmentation by SpeechBrain's Augmenter: of waveforms and of features."""

import pytest
import torch
from speechbrain.augment.augmenter import Augmenter
from speechbrain.augment.freq_domain import SpectrogramDrop
from speechbrain.augment.time_domain import SpeedPerturb

from speechbrain_pom.training.augmentation import augment_features, batch_waveforms
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import seed_step

LENGTHS = torch.tensor([1.0, 0.5])


def augmenter(*augmentations, **options):
    return Augmenter(
        min_augmentations=len(augmentations),
        max_augmentations=len(augmentations),
        augmentations=list(augmentations),
        **options,
    )


def drop(**options):
    return augmenter(SpectrogramDrop(drop_length_low=5, drop_length_high=20, dim=1), **options)


def test_waveforms_and_their_lengths():
    wavs = torch.randn(2, 16000)
    same, num_samples = batch_waveforms((wavs, LENGTHS), "cpu")
    assert torch.equal(same, wavs)
    assert num_samples.tolist() == [16000, 8000]
    faster = augmenter(SpeedPerturb(orig_freq=16000, speeds=[125]))
    shorter, num_samples = batch_waveforms((wavs, LENGTHS), "cpu", faster)
    assert shorter.shape == (2, 12800)
    assert num_samples.tolist() == [12800, 6400]


def test_features_keep_their_shape_and_their_empty_padding():
    torch.manual_seed(0)
    feats = torch.randn(2, 40, 80)
    feats[1, 20:] = 0
    num_frames = torch.tensor([40, 20])
    assert augment_features(None, feats, num_frames) is feats
    augmented = augment_features(drop(), feats, num_frames)
    assert augmented.shape == feats.shape
    assert not torch.equal(augmented, feats)
    assert (augmented[1, 20:] == 0).all()

    def fill(x, lengths):
        return torch.ones_like(x), lengths

    assert augment_features(fill, feats, num_frames).sum() == 60 * 80


def test_it_is_a_function_of_the_step():
    feats, num_frames = torch.randn(2, 40, 80), torch.tensor([40, 40])
    found = []
    for step in (1, 2, 1):
        seed_step(seed=1, epoch=1, step=step, rank=0)
        found.append(augment_features(drop(augment_prob=0.9), feats.clone(), num_frames))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])


def test_more_utterances_than_there_are_labels():
    wavs, feats = torch.randn(2, 16000), torch.randn(2, 40, 80)
    double = augmenter(SpeedPerturb(orig_freq=16000, speeds=[100]), concat_original=True)
    with pytest.raises(UserError, match="wav_augment made 4 waveforms of 2, and the others"):
        batch_waveforms((wavs, LENGTHS), "cpu", double)
    with pytest.raises(
        UserError, match=r"fea_augment made features \(4, 40, 80\) of \(2, 40, 80\)"
    ):
        augment_features(drop(concat_original=True), feats, torch.tensor([40, 40]))
