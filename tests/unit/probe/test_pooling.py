"""Pooled layers: exact whatever the batch, and all that a probe needs."""

import pytest
import torch

from speechbrain_pom.data.audio_folder import prepare_audio_folder
from speechbrain_pom.probe import Probe
from speechbrain_pom.probe.pooling import (
    Statistics,
    check_cache_size,
    encode_dataset,
    layer_means,
)
from speechbrain_pom.training.dataset import audio_dataset
from speechbrain_pom.utils.errors import UserError

LENGTHS = [1, 63, 500, 4000, 7777]  # samples: one frame up to a dozen


def batch():
    torch.manual_seed(1)
    return [torch.randn(length) for length in LENGTHS]


def test_an_utterance_has_the_same_means_alone_and_in_a_batch(encoder):
    wavs = batch()
    padded = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    together = layer_means(encoder, padded, torch.tensor(LENGTHS))
    assert together.shape == (5, 3, 16)
    assert not together.requires_grad
    for wav, states in zip(wavs, together, strict=True):
        (alone,) = layer_means(encoder, wav.unsqueeze(0))
        assert (alone - states).abs().max() <= 1e-4 * alone.abs().max()
    frames, _ = encoder(padded, torch.tensor(LENGTHS), layers=[0, 1, 2])
    naive = torch.stack([state.mean(1) for state in frames], dim=1)  # padding counts
    assert (naive[0] - together[0]).abs().max() > 0.1 * together[0].abs().max()


def test_means_of_layers_give_what_the_mean_of_weighted_frames_gives(encoder):
    probe = Probe(3, 16, 4)
    statistics = Statistics()
    statistics.add(torch.randn(9, 3, 16))
    probe.set_statistics(statistics)
    torch.nn.init.normal_(probe.layer_sum.scores)
    (wav,) = (wav.unsqueeze(0) for wav in batch()[-1:])
    frames, _ = encoder(wav, layers=[0, 1, 2])
    standard = [
        (state - mean) / std for state, mean, std in zip(frames, probe.mean, probe.std, strict=True)
    ]
    slow = probe.classifier(probe.layer_sum(standard).mean(1))
    torch.testing.assert_close(probe(layer_means(encoder, wav)), slow, rtol=1e-4, atol=1e-5)


def test_a_dataset_is_encoded_once_per_utterance(encoder, write_audio, tmp_path):
    for number, length in enumerate((1600, 6300, 5000)):
        write_audio(tmp_path / f"data/{number}.wav", length)
    prepare_audio_folder(tmp_path / "data", tmp_path / "csv", show_progress=False)
    dataset = audio_dataset(tmp_path / "csv/audio.csv", tmp_path / "data")
    found = {}
    for ids, states in encode_dataset(encoder, dataset, max_batch_duration_s=0.7):
        assert not found.keys() & set(ids)
        found.update(zip(ids, states, strict=True))
    assert found.keys() == {"0.wav", "1.wav", "2.wav"}
    (alone,) = layer_means(encoder, dataset[0]["sig"].unsqueeze(0))
    torch.testing.assert_close(found[dataset[0]["id"]], alone, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="more than max_batch_duration_s"):
        next(encode_dataset(encoder, dataset, max_batch_duration_s=0.1))


def test_statistics_of_several_batches():
    torch.manual_seed(0)
    states = 100.0 + torch.randn(50, 2, 8)
    states[:, 1, 3] = 7.0  # does not vary
    statistics = Statistics()
    for part in states.split(7):
        statistics.add(part)
    torch.testing.assert_close(statistics.mean(), states.mean(0))
    std = states.std(0, correction=0)
    std[1, 3] = 1.0
    torch.testing.assert_close(statistics.std(), std, rtol=1e-4, atol=0)


def test_a_cache_that_would_be_too_large_is_refused(encoder):
    check_cache_size(10, encoder, max_cache_gib=1)
    words = r"max_cache_gib is 1, but 10000000 utterances x 3 layers x 16 numbers take 1\.79 GiB"
    words += ": raise it, or encode in every epoch"
    with pytest.raises(UserError, match=words):
        check_cache_size(10**7, encoder, max_cache_gib=1)
