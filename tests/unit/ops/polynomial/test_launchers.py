"""Triton's kernels against the definition in float64: natively on a GPU, else interpreted."""

import importlib.util

import pytest
import torch
import torch.nn.functional as F

from speechbrain_pom.ops.polynomial import launchers as kernels
from speechbrain_pom.ops.polynomial.backends import triton_obstacle
from speechbrain_pom.ops.polynomial.features import Polynomial
from speechbrain_pom.ops.polynomial.reference import polynomial_features
from speechbrain_pom.utils.errors import UserError

pytestmark = pytest.mark.skipif(
    triton_obstacle(torch.float32) is not None, reason="Triton is not installed"
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Of the largest value. Sums and states are fp32; the rest is rounded once to its dtype.
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
MASKS = [
    (1, None), (1, 1), (63, None), (63, 7), (64, 64), (65, 1), (500, None), (500, 16), (500, 200),
    (63, 1000),
]  # fmt: skip
PRODUCT_2 = Polynomial(2, "gelu_product")
FEATURES = [("gelu_product", 1), ("gelu_product", 2), ("gelu_product", 4), ("relu_power", 2)]


@pytest.fixture(autouse=True)
def exact_products(monkeypatch):
    """SpeechBrain allows tf32: not while fp32 is compared with float64."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


def assert_close(found, expected, dtype=torch.float32):
    assert found.dtype == dtype
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    assert error <= 2 * TOLERANCES[dtype], f"relative error {error:.3g}"


def random(*shape, dtype=torch.float32, scale=1.0):
    return (torch.randn(*shape) * scale).to(DEVICE, dtype)


def random_padding(batch, num_frames):
    lengths = torch.randint(1, num_frames + 1, (batch,))
    lengths[0] = num_frames
    return (torch.arange(num_frames) >= lengths.unsqueeze(1)).to(DEVICE)


def poisoned(tensor, padding):
    return tensor.masked_fill(padding.unsqueeze(-1), float("nan"))


def slow_sums(projected, padding, chunk_size, degree, activation):
    identity = torch.eye(projected.shape[-1], dtype=torch.float64, device=DEVICE)
    features = polynomial_features(projected, identity, None, degree, activation)
    features = features.masked_fill(padding.unsqueeze(-1), 0.0)
    return torch.stack([part.sum(1) for part in features.split(chunk_size or 10**9, 1)], 1)


def slow_select(scores, state, chunk_size):
    rows = torch.arange(scores.shape[1], device=DEVICE) // (chunk_size or 10**9)
    return torch.sigmoid(scores) * state[:, rows]


def assert_sums_and_gradient(projected, padding, chunk_size, degree, activation):
    exact = projected.double().requires_grad_()
    expected = slow_sums(exact, padding, chunk_size, degree, activation)
    arguments = padding, chunk_size, Polynomial(degree, activation)
    sums = kernels.sum_features(poisoned(projected, padding), *arguments)
    assert_close(sums, expected.detach())
    grad_sums = torch.randn_like(sums)
    (expected,) = torch.autograd.grad(expected, exact, grad_sums.double())
    grad = kernels.sum_features_backward(
        poisoned(projected, padding), padding, grad_sums, *arguments[1:]
    )
    assert_close(grad, expected, projected.dtype)
    assert not grad[padding].any()


# Each mask with two kinds of features, each kind with half of the masks: the interpreter is slow.
@pytest.mark.parametrize(
    ("num_frames", "chunk_size", "activation", "degree"),
    [
        (*mask, *FEATURES[(row + column) % 4])
        for row, mask in enumerate(MASKS)
        for column in (0, 1 + row // 4)
    ],
)
def test_sums_of_features_and_their_gradient(num_frames, chunk_size, activation, degree):
    projected = random(2, num_frames, 7 * (1 if activation == "relu_power" else degree))
    padding = random_padding(2, num_frames)
    assert_sums_and_gradient(projected, padding, chunk_size, degree, activation)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("width", [1, 70])
def test_widths_and_dtypes_of_the_projection(dtype, width):
    projected = random(3, 130, 2 * width, dtype=dtype)
    assert_sums_and_gradient(projected, random_padding(3, 130), 16, 2, "gelu_product")
    assert_sums_and_gradient(projected, random_padding(3, 130), None, 5, "relu_power")


def assert_selection_and_gradients(scores, state, chunk_size):
    exact = [tensor.double().requires_grad_() for tensor in (scores, state)]
    expected = slow_select(*exact, chunk_size)
    assert_close(kernels.gate_state(scores, state, chunk_size), expected.detach(), scores.dtype)
    grad_gated = torch.randn_like(scores)
    grads = torch.autograd.grad(expected, exact, grad_gated.double())
    found = kernels.gate_state_backward(scores, state, grad_gated, chunk_size)
    assert_close(found[0], grads[0], scores.dtype)
    assert_close(found[1], grads[1])
    assert_close(found[2], expected.detach(), scores.dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("num_frames", "chunk_size"), MASKS)
def test_selection_and_its_gradients(num_frames, chunk_size, dtype):
    num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
    width = 70 if num_frames == 65 else 3
    scores = random(2, num_frames, width, dtype=dtype)
    assert_selection_and_gradients(scores, random(2, num_chunks, width), chunk_size)


def test_one_state_for_the_whole_batch():
    scores, state, grad = random(3, 20, 5), random(1, 4, 5), random(3, 20, 5)
    for_all = state.repeat(3, 1, 1)
    assert torch.equal(kernels.gate_state(scores, state, 5), kernels.gate_state(scores, for_all, 5))
    shared = kernels.gate_state_backward(scores, state, grad, 5)
    for found, expected in zip(
        shared, kernels.gate_state_backward(scores, for_all, grad, 5), strict=True
    ):
        assert torch.equal(found, expected)


# Each length with and without a bias, each dtype with both; (65, 5) falls back to F.linear.
PROJECTED = [(1, None), (63, 1), (65, 5), (130, 16), (260, 240), (500, None)]


@pytest.mark.parametrize(
    ("num_frames", "chunk_size", "with_bias", "dtype"),
    [
        (*mask, with_bias, list(TOLERANCES)[(row + with_bias) % 3])
        for row, mask in enumerate(PROJECTED)
        for with_bias in (True, False)
    ],
)
def test_projection_and_pass_in_one_kernel(num_frames, chunk_size, with_bias, dtype):
    frames, padding = random(2, num_frames, 37, dtype=dtype), random_padding(2, num_frames)
    num_chunks = 1 if chunk_size is None else -(-num_frames // chunk_size)
    for activation, degree, width in [("gelu_product", 2, 40), ("relu_power", 3, 20)]:
        weight = random(width, 37, dtype=dtype, scale=0.2)
        bias = random(width, dtype=dtype) if with_bias else None
        exact = F.linear(*[None if t is None else t.double() for t in (frames, weight, bias)])
        polynomial = Polynomial(degree, activation)
        sums = kernels.project_and_sum_features(
            poisoned(frames, padding), weight, bias, padding, chunk_size, polynomial
        )
        expected = slow_sums(exact, padding, chunk_size, degree, activation)
        # Where it falls back to F.linear, half precision rounds the projection.
        error = (sums.double() - expected).abs().max() / expected.abs().max()
        assert error < (2e-6 if dtype == torch.float32 or chunk_size != 5 else 0.01)
        state = random(2, num_chunks, width)
        gated = kernels.project_and_gate_state(frames, weight, bias, state, chunk_size)
        assert_close(gated, slow_select(exact, state.double(), chunk_size), dtype)


@pytest.mark.parametrize("degree", [1, 3, 4, 5])
def test_degrees_of_the_projection_in_the_kernel(degree):
    frames, weight, bias = random(1, 70, 9), random(3 * degree, 9), random(3 * degree)
    padding = random_padding(1, 70)
    sums = kernels.project_and_sum_features(
        frames, weight, bias, None, None, Polynomial(degree, "gelu_product")
    )
    exact = F.linear(frames.double(), weight.double(), bias.double())
    assert_close(sums, slow_sums(exact, padding & False, None, degree, "gelu_product"))


def strided(tensor):
    """The same values with other strides, in a part of a (T, B, .) tensor full of NaN."""
    batch, num_frames, width = tensor.shape
    memory = torch.full((num_frames, batch, width + 5), float("nan"), device=DEVICE)
    view = memory.to(tensor.dtype)[:, :, 1 : width + 1].transpose(0, 1)
    return view.copy_(tensor)


def test_inputs_that_are_not_contiguous():
    projected, scores = random(2, 70, 12), random(2, 70, 12)
    state, weight = random(2, 5, 12), random(12, 12)
    padding = random_padding(70, 2)
    arguments = padding.T, 16, PRODUCT_2
    plain = padding.T.contiguous(), *arguments[1:]
    sparse = torch.stack([weight, weight], -1)[..., 0]
    for found, expected in [
        (kernels.sum_features(strided(projected), *arguments),
         kernels.sum_features(projected, *plain)),
        (kernels.sum_features_backward(
            strided(projected), padding.T, strided(state), 16, PRODUCT_2),
         kernels.sum_features_backward(projected, padding.T, state, 16, PRODUCT_2)),
        (kernels.gate_state(strided(scores), strided(state), 16),
         kernels.gate_state(scores, state, 16)),
        (kernels.gate_state_backward(strided(scores), strided(state), strided(projected), 16)[1],
         kernels.gate_state_backward(scores, state, projected, 16)[1]),
        (kernels.project_and_sum_features(strided(projected), sparse, sparse[0], *arguments),
         kernels.project_and_sum_features(projected, weight, weight[0], *plain)),
        (kernels.project_and_gate_state(strided(projected), sparse, sparse[0], strided(state), 16),
         kernels.project_and_gate_state(projected, weight, weight[0], state, 16)),
    ]:  # fmt: skip
        assert torch.equal(found, expected)


def test_equal_inputs_give_equal_bits():
    projected, scores, grad = random(2, 300, 6), random(2, 300, 6), random(2, 300, 6)
    weight, state = random(6, 6), random(2, 1, 6)
    runs = [
        (
            kernels.sum_features(projected, None, None, PRODUCT_2),
            kernels.sum_features_backward(projected, None, state, None, PRODUCT_2),
            *kernels.gate_state_backward(scores, state, grad, None),
            kernels.project_and_sum_features(projected, weight, None, None, None, PRODUCT_2),
        )
        for _ in range(2)
    ]
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_products_that_overflow_half_precision():
    loud = torch.full((1, 200, 4), 60.0, device=DEVICE, dtype=torch.float16)
    sums = kernels.sum_features(loud, None, None, Polynomial(4, "gelu_product"))
    assert torch.isinf(loud.prod(-1)).all()
    expected = torch.tensor([60.0**i for i in (1, 2, 3, 4)], device=DEVICE) * 200
    torch.testing.assert_close(sums[0, 0], expected)
    power = kernels.sum_features(loud, None, 1, Polynomial(3, "relu_power"))
    torch.testing.assert_close(power, torch.full_like(power, 60.0**3))


@pytest.mark.filterwarnings("ignore:overflow")
def test_activation_and_slope_over_their_whole_range():
    z = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e30, -65504, 0.0, 65504, 1e30])])
    z = z.view(1, -1, 1).to(DEVICE)
    exact = z.double().requires_grad_()
    expected = F.gelu(exact)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    gelu = Polynomial(1, "gelu_product")
    found = kernels.sum_features(z, None, 1, gelu)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=3e-7, atol=3e-7)
    found = kernels.sum_features_backward(
        z, None, torch.ones_like(z), 1, Polynomial(1, "gelu_product")
    )
    torch.testing.assert_close(found.double(), slope, rtol=3e-7, atol=3e-7)


def test_no_frames():
    empty = random(2, 0, 6)
    sums = kernels.sum_features(empty, None, None, PRODUCT_2)
    assert torch.equal(sums, torch.zeros(2, 1, 6, device=DEVICE))
    assert kernels.sum_features(empty, None, 4, PRODUCT_2).shape == (2, 0, 6)
    assert kernels.gate_state(empty, random(2, 1, 6), None).shape == (2, 0, 6)


def test_other_dtypes_are_refused():
    message = "kernels cannot run: .* know float32, bfloat16 and float16, not torch.float64"
    with pytest.raises(ValueError, match=message):
        kernels.gate_state(torch.zeros(1, 2, 3).double(), torch.zeros(1, 1, 3), None)


def test_a_launch_without_triton_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = r"kernels cannot run: Triton is not installed \(pip install triton\)$"
    with pytest.raises(UserError, match=message):
        kernels.gate_state(random(1, 2, 3), random(1, 1, 3), None)
