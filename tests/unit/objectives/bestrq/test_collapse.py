"""Targets that have collapsed are said, healthy ones are not; states of the figures."""

import json
import math

import pytest
import torch

from speechbrain_pom.objectives.bestrq import CodeStatistics, find_collapse, nearest_codes


def statistics_of(targets, num_codes):
    statistics = CodeStatistics(num_codes)
    statistics.update(torch.zeros_like(targets), targets, 1.0)
    return statistics


def quantized(features, num_codes=1024):
    """Codes of (N, 320) features by a random quantizer."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(features.shape[1], 16, generator=generator)
    codebook = torch.nn.functional.normalize(torch.randn(num_codes, 16, generator=generator), dim=1)
    return nearest_codes(features, projection, codebook)


def test_features_that_are_not_normalised_are_noticed():
    generator = torch.Generator().manual_seed(1)
    normalised = torch.randn(2000, 320, generator=generator)
    log_mel = -20 + 2 * normalised  # dB-like: far from zero
    healthy = statistics_of(quantized(normalised), 1024).summary()
    collapsed = statistics_of(quantized(log_mel), 1024).summary()
    assert find_collapse(healthy, 1024) is None
    message = find_collapse(collapsed, 1024)
    share, perplexity = collapsed["top_code_share"], collapsed["code_perplexity"]
    assert message == (
        f"targets have collapsed: the commonest code is {share:.0%} of them, the perplexity of "
        f"the 1024 codes {perplexity:.1f}: check the normalisation and the audio"
    )


@pytest.mark.parametrize(("num_codes", "top"), [(8192, 0.02), (8192, 0.14), (32, 0.24), (4, 1.0)])
def test_common_codes_of_healthy_targets(num_codes, top):
    """In a small codebook every code is common."""
    assert find_collapse({"top_code_share": top, "code_perplexity": 3.0}, num_codes) is None


@pytest.mark.parametrize(("num_codes", "top"), [(8192, 0.16), (8192, 1.0), (32, 0.26)])
def test_common_codes_of_collapsed_targets(num_codes, top):
    assert find_collapse({"top_code_share": top, "code_perplexity": 3.0}, num_codes)


def test_state_goes_through_json_and_back():
    statistics = statistics_of(torch.tensor([0, 0, 3, 63]), 64)
    statistics.update_frames(16, 40)
    restored = CodeStatistics(64)
    restored.load_state_dict(json.loads(json.dumps(statistics.state_dict())))
    assert restored.summary() == statistics.summary()
    for each in (statistics, restored):
        each.update(torch.tensor([1, 2]), torch.tensor([1, 1]), 0.125)
    assert restored.state_dict() == statistics.state_dict()
    assert restored.counts.dtype == torch.int64


def test_a_loss_that_is_not_finite_stays_visible_in_the_state():
    statistics = statistics_of(torch.tensor([0]), 4)
    statistics.loss_sum = math.nan
    restored = CodeStatistics(4)
    restored.load_state_dict(json.loads(json.dumps(statistics.state_dict())))
    assert math.isnan(restored.summary()["loss"])
