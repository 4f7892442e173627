"""Upstreams, the model, the cache and parts of utterances."""

import pytest
import torch

from speechbrain_pom.downstream import DownstreamModel, LogMel, StateCache, heads, load_upstream
from speechbrain_pom.downstream.cache import cut_waveforms, random_spans
from speechbrain_pom.utils.errors import UserError
from tests.helpers.encoders import build_encoder

LENGTHS = torch.tensor([16000, 15999, 400, 5000])


def batch():
    torch.manual_seed(0)
    wavs = torch.randn(len(LENGTHS), int(LENGTHS.max()))
    return wavs.masked_fill(torch.arange(wavs.shape[1]) >= LENGTHS.unsqueeze(1), 0.0)


@pytest.mark.parametrize("make", [LogMel, build_encoder])
@pytest.mark.parametrize("normalise", [False, True])
def test_the_sum_is_that_of_each_utterance_alone(make, normalise):
    upstream = make()
    model = DownstreamModel(upstream, heads.MeanLinear(upstream.d_model, 3), True, normalise)
    with torch.no_grad():
        model.layer_sum.scores.normal_()
    model.eval()
    wavs = batch()
    together, num_frames = model.frames(wavs, LENGTHS)
    outputs, _ = model(wavs, LENGTHS)
    for row, length in enumerate(LENGTHS):
        alone, count = model.frames(wavs[row : row + 1, :length], length.view(1))
        assert count == num_frames[row] == upstream.num_frames(int(length))
        torch.testing.assert_close(together[row, :count], alone[0], rtol=1e-3, atol=1e-4)
        assert not together[row, count:].any()
        output, _ = model(wavs[row : row + 1, :length], length.view(1))
        torch.testing.assert_close(outputs[row], output[0], rtol=1e-3, atol=1e-4)


def test_log_mel_features_keep_the_spectrum_and_lose_the_level():
    """A head that reads their mean over time tells a low voice from a high one."""
    upstream, wavs = LogMel(), batch()
    (states,), num_frames = upstream(wavs, LENGTHS)
    (louder,), _ = upstream(10 * wavs, LENGTHS)
    torch.testing.assert_close(louder, states, rtol=1e-3, atol=1e-3)
    frames = states[0, : num_frames[0] - 1]  # the last one is filled up with zeros
    assert abs(frames.mean()) < 0.1
    assert abs(frames.std() - 1) < 0.1
    times = torch.arange(16000) / 16000
    tones = torch.stack([torch.sin(2 * torch.pi * pitch * times) for pitch in (200.0, 3000.0)])
    (states,), _ = upstream(tones)
    low, high = states.mean(1).unflatten(1, (upstream.stack, -1)).mean(1)
    assert low.argmax() < 10 < 40 < high.argmax()
    assert low.max() > 3
    assert high.max() > 3
    (silence,), _ = upstream(torch.zeros(1, 4000))
    assert torch.isfinite(silence).all()


def test_a_frozen_encoder_has_neither_dropout_nor_gradients():
    upstream = build_encoder(dropout=0.5)
    frozen = DownstreamModel(upstream, heads.MeanLinear(16, 3)).train()
    wavs = batch()
    first, second = (frozen(wavs, LENGTHS)[0] for _ in range(2))
    assert torch.equal(first, second)
    first.sum().backward()
    assert all(weight.grad is None for weight in upstream.parameters())
    assert frozen.layer_sum.scores.grad is not None
    tuned = build_encoder(dropout=0.5).requires_grad_(True)
    model = DownstreamModel(tuned, heads.MeanLinear(16, 3), freeze=False).train()
    first, second = (model(wavs, LENGTHS)[0] for _ in range(2))
    assert not torch.equal(first, second)  # and this can fail
    first.square().sum().backward()
    wanted = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert wanted == {name for name, weight in model.named_parameters() if weight.grad is not None}


def test_no_layer_is_dropped_while_the_encoder_is_fine_tuned():
    upstream = build_encoder(num_layers=3, dropout=0.0, layerdrop_prob=0.9)
    model = DownstreamModel(upstream, heads.MeanLinear(16, 3), freeze=False).train()
    for _ in range(5):
        states, _ = model.states(batch(), LENGTHS)
        assert len(states) == 4


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_cache_gives_back_what_was_put_in(dtype):
    torch.manual_seed(0)
    cache = StateCache(1.0, dtype)
    states = [torch.randn(3, 9, 4) for _ in range(2)]
    lengths = torch.tensor([9, 1, 5])
    cache.add(list("abc"), states, lengths)
    assert "a" in cache
    assert "d" not in cache
    found, num_frames = cache.batch(["c", "b"])
    assert num_frames.tolist() == [5, 1]
    assert found.shape == (2, 2, 5, 4)
    error = (found[0, 1] - states[1][2, :5]).abs().max()
    assert error == 0 if dtype == "fp32" else 0 < error < 2e-3
    assert not found[1, :, 1:].any()
    part, num_frames = cache.batch(["a", "b"], [(2, 5), (0, 1)])
    torch.testing.assert_close(part[0, 0], states[0][0, 2:5], rtol=1e-3, atol=1e-3)
    assert num_frames.tolist() == [3, 1] == [b - a for a, b in [(2, 5), (0, 1)]]
    assert cache.lengths(["b", "a"]).tolist() == [1, 9]


def test_parts_reach_every_place_and_never_beyond():
    lengths = torch.tensor([10] * 100)
    spans = random_spans(lengths, 4, [place / 100 for place in range(100)])
    assert {start for start, _ in spans} == set(range(7))
    assert all(stop - start == 4 and stop <= 10 for start, stop in spans)
    wavs = torch.arange(20.0).view(2, 10)
    cut, cut_lengths = cut_waveforms(wavs, [(6, 10), (3, 4)])
    assert cut.tolist() == [[6, 7, 8, 9], [13, 0, 0, 0]]
    assert cut_lengths.tolist() == [4, 1]


def test_upstreams_that_cannot_be(pretrained_run):
    random = load_upstream("random", pretrained_run, seed=1)
    again, other = (load_upstream("random", pretrained_run, seed=seed) for seed in (1, 2))
    weights = [torch.cat([w.flatten() for w in one.parameters()]) for one in (random, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    tuned = load_upstream("random", pretrained_run, freeze=False)
    assert all(weight.requires_grad for weight in tuned.parameters())
    with pytest.raises(UserError, match="pretrained is null, and a probe needs an encoder"):
        load_upstream("pretrained", None)
