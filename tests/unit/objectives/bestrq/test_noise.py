"""The noise in place of masked frames."""

import pytest
import torch

from speechbrain_pom.objectives.bestrq.noise import sample_noise


@pytest.mark.parametrize("seed", [None, 3])
def test_mean_and_deviation(seed):
    noise = sample_noise(torch.zeros(8, 500, 80), list("abcdefgh"), mean=2.0, std=0.1, seed=seed)
    assert noise.shape == (8, 500, 80)
    assert noise.dtype == torch.float32
    assert float(noise.mean()) == pytest.approx(2.0, abs=1e-3)
    assert float(noise.std()) == pytest.approx(0.1, rel=1e-2)
    standard = (noise - 2.0) / 0.1
    # Normal, not merely of that deviation: 68.3 % and 95.4 % within one and two of it.
    assert float((standard.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=5e-3)
    assert float((standard.abs() < 2).float().mean()) == pytest.approx(0.9545, abs=5e-3)
    assert float((noise[0, 1:] * noise[0, :-1]).mean() - 4.0) == pytest.approx(0.0, abs=1e-2)


def test_deviation_zero_gives_the_mean_alone():
    for seed in (None, 1):
        noise = sample_noise(torch.randn(1, 63, 3), ["a"], mean=0.5, std=0.0, seed=seed)
        assert torch.equal(noise, torch.full((1, 63, 3), 0.5))


def test_training_noise_comes_from_the_generators_that_each_step_seeds():
    feats = torch.zeros(2, 63, 5)
    torch.manual_seed(1)
    first = sample_noise(feats, ["a", "b"], mean=0.0, std=1.0)
    second = sample_noise(feats, ["a", "b"], mean=0.0, std=1.0)
    torch.manual_seed(1)
    assert torch.equal(first, sample_noise(feats, ["a", "b"], mean=0.0, std=1.0))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("num_frames", [1, 2, 63, 500])
@pytest.mark.parametrize("dim", [3, 80])
def test_validation_noise_is_a_function_of_seed_and_utterance(num_frames, dim):
    options = {"mean": 0.0, "std": 0.1, "seed": 7}
    alone = sample_noise(torch.zeros(1, num_frames, dim), ["b"], **options)[0]
    torch.manual_seed(num_frames)  # whatever was drawn before
    partners = sample_noise(torch.zeros(3, num_frames + 137, dim), ["a", "b", "c"], **options)
    assert torch.equal(partners[1, :num_frames], alone)
    assert not torch.equal(partners[0, :num_frames], alone)
    other_seed = sample_noise(torch.zeros(1, num_frames, dim), ["b"], **{**options, "seed": 8})
    assert not torch.equal(other_seed[0], alone)


def test_plain_randn_would_depend_on_the_padding():
    """Why the noise of validation is not drawn by torch.randn."""

    def draw(size):
        return torch.randn(size, generator=torch.Generator().manual_seed(1))

    assert not torch.equal(draw(15), draw(2000)[:15])


def test_validation_leaves_the_global_generators_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    sample_noise(torch.zeros(1, 5, 3), ["a"], mean=0.0, std=1.0, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_dtype_follows_the_features():
    feats = torch.zeros(1, 5, 3, dtype=torch.bfloat16)
    for seed in (None, 1):
        assert sample_noise(feats, ["a"], mean=0.0, std=1.0, seed=seed).dtype == torch.bfloat16
