"""Runs of version 0.1 (commit 0d3f9ef): the same outputs as then."""

import pytest
import torch

from speechbrain_pom import load_encoder, load_recogniser
from speechbrain_pom.ctc.decoding import greedy_decode
from tests.helpers import ROOT

RUNS = ROOT / "tests/data/runs_of_0d3f9ef"
LENGTHS = torch.tensor([8000, 5000])


@pytest.fixture(scope="module")
def expected():
    return torch.load(RUNS / "expected.pt", weights_only=True)


@pytest.fixture(scope="module")
def wavs():
    generator = torch.Generator().manual_seed(0)
    wavs = torch.zeros(2, 8000)
    wavs[0] = 0.1 * torch.randn(8000, generator=generator)
    wavs[1, :5000] = 0.1 * torch.randn(5000, generator=generator)
    return wavs


@pytest.mark.parametrize("stage", ["bestrq", "ctc"])
def test_the_encoder(stage, expected, wavs):
    encoder = load_encoder(RUNS / stage)
    assert sorted(encoder.state_dict()) == expected[f"{stage}_keys"]
    with torch.no_grad():
        frames, _ = encoder(wavs, LENGTHS)
    torch.testing.assert_close(frames, expected[stage], rtol=1e-5, atol=1e-6)
    # Another run gives something else: the comparison can fail.
    other = expected["ctc" if stage == "bestrq" else "bestrq"]
    assert not torch.allclose(frames, other, rtol=1e-2)


def test_the_recogniser(expected, wavs):
    recogniser = load_recogniser(RUNS / "ctc")
    with torch.no_grad():
        log_probs, num_frames = recogniser(wavs, LENGTHS)
    torch.testing.assert_close(log_probs, expected["log_probs"], rtol=1e-5, atol=1e-6)
    relative = num_frames / log_probs.shape[1]
    assert greedy_decode(log_probs, relative, recogniser.units)[0] == expected["text"] == "E"
