"""Half precision: the products and the means over time are in fp32 whatever the dtype."""

import pytest
import torch

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.ops import ChunkMask, polynomial_mix
from speechbrain_pom.ops.polynomial.autograd import Passes
from speechbrain_pom.ops.polynomial.features import Polynomial
from speechbrain_pom.ops.polynomial.reference import polynomial_features

NUM_FRAMES = 15_000  # ten minutes at 25 frames a second


def loud_frames(d_model):
    return 10 * torch.randn(1, NUM_FRAMES, d_model)


@pytest.mark.parametrize("gradients", [False, True], ids=["tiles", "whole"])
@pytest.mark.parametrize("mask", [None, ChunkMask(1), ChunkMask(64, 4)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_close_to_fp32_on_long_loud_audio(dtype, mask, gradients):
    mixer, frames = PolynomialMixer(8), loud_frames(8)
    with torch.set_grad_enabled(gradients):
        expected, _ = mixer(frames, attn_mask=mask)
        with torch.autocast("cpu", dtype):
            output, _ = mixer(frames, attn_mask=mask)
    assert torch.isfinite(output).all()
    # LayerNorm brings the outputs to a size of 1
    assert (output - expected).abs().mean() < (0.02 if dtype == torch.bfloat16 else 0.003)
    if gradients:
        gradient = torch.autograd.grad(output.square().mean(), list(mixer.parameters()))
        assert all(torch.isfinite(tensor).all() for tensor in gradient)


def test_a_mean_in_half_precision_fails_where_ours_is_exact():
    weight, bias = torch.randn(32, 8), torch.randn(32)
    frames = loud_frames(8)
    features = polynomial_features(frames, weight, bias, degree=2)
    exact = features.double().mean(1)

    def error(mean):
        return ((mean.double() - exact).abs() / exact.abs()).max()

    assert torch.isinf(features.half().sum(1)).any()  # fp16: the naive sum overflows
    running = torch.zeros(1, 32, dtype=torch.bfloat16)  # bf16: it rounds the frames away
    for block in features.split(256, dim=1):
        running = running + block.to(torch.bfloat16).sum(1)
    passes = Passes(chunk_size=None, keep=False, backend="tiled")
    sums = passes.feature_sums(frames, weight, bias, None, Polynomial(2, "gelu_product"))
    state = sums[:, 0] / NUM_FRAMES
    assert state.dtype == torch.float32
    assert error(state) < 1e-5
    assert error(running / NUM_FRAMES) > 1e-2


def test_the_products_are_in_fp32_under_autocast():
    # relu(w x)^4 of 30 is 810,000: infinite in fp16. The state is scaled back by the gate.
    tiny_gate = (torch.zeros(1, 1), torch.tensor([-12.0]))
    frames = torch.full((1, 50, 1), 30.0)
    weights = [(torch.ones(1, 1), torch.zeros(1))], [tiny_gate], torch.ones(1, 1), torch.zeros(1)
    options = {"degree": 4, "activation": "relu_power"}
    assert torch.isinf(frames.half() ** 4).all()
    with torch.no_grad():
        expected = polynomial_mix(frames, *weights, **options)
        with torch.autocast("cpu", torch.float16):
            output = polynomial_mix(frames, *weights, **options)
    torch.testing.assert_close(output.float(), expected, rtol=5e-3, atol=0)
