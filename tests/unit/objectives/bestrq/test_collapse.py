"""Targets that have collapsed are said, healthy ones are not."""

import pytest
import torch

from speechbrain_pom.objectives.bestrq import find_collapse, nearest_codes, summarise


def summary_of(targets, num_codes):
    counts = torch.bincount(targets, minlength=num_codes)
    return summarise(
        {"loss_sum": 1.0, "num_correct": 0, "num_masked": 1, "num_valid": 2, "counts": counts}
    )


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
    healthy = summary_of(quantized(normalised), 1024)
    collapsed = summary_of(quantized(log_mel), 1024)
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
