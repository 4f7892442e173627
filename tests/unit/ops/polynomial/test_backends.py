"""Which implementation runs, what it says when there is none, and that torch.compile takes it."""

import importlib.util

import pytest
import torch

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.ops import (
    ChunkMask,
    available_backends,
    choose_backend,
    polynomial_mix,
)

OPERATORS = torch.ops.speechbrain_pom


@pytest.fixture
def compiled_triton(monkeypatch):
    """Triton as it is outside of these tests: without its interpreter."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("needs Triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_on_a_cpu(compiled_triton):
    assert available_backends("cpu") == ["tiled", "reference"]
    names = {"auto": "tiled", "fused": "tiled", "tiled": "tiled", "reference": "reference"}
    for backend, name in names.items():
        assert choose_backend(backend, "cpu") == name


def test_on_a_gpu(compiled_triton):
    assert available_backends("cuda:1") == ["triton", "tiled", "reference"]
    names = {"auto": "triton", "fused": "triton", "triton": "triton", "tiled": "tiled"}
    for backend, name in names.items():
        assert choose_backend(backend, "cuda:1", torch.bfloat16) == name
    # Kernels in float64 are nobody's need; "auto" works all the same.
    assert available_backends("cuda", torch.float64) == ["tiled", "reference"]
    assert choose_backend("auto", "cuda", torch.float64) == "tiled"


@pytest.mark.parametrize(
    ("backend", "device", "dtype", "obstacle"),
    [
        ("triton", "cpu", torch.float32, "run on GPUs, not on a device of type 'cpu'"),
        ("fused", "mps", torch.float32, "run on GPUs, not on a device of type 'mps'"),
        ("fused", "cuda", torch.float64, "know float32, bfloat16 and float16, not torch.float64"),
    ],
)
def test_what_is_not_available_is_refused(compiled_triton, backend, device, dtype, obstacle):
    with pytest.raises(ValueError, match="which is not available here") as error:
        choose_backend(backend, device, dtype)
    assert str(error.value) == (
        f"backend is {backend!r}, which is not available here: Triton's kernels {obstacle}; "
        "choose one of auto, reference, tiled"
    )


def test_the_name_of_version_0_1_is_taken():
    assert choose_backend("blocks") == "tiled"
    assert PolynomialMixer(6, backend="blocks").backend == "tiled"


def test_without_triton(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto", "cuda") == "tiled"
    with pytest.raises(
        ValueError,
        match=r"not available here: Triton is not installed \(pip install triton\); choose",
    ):
        choose_backend("fused", "cuda")


def test_the_function_refuses_what_is_not_available(compiled_triton, make_inputs):
    inputs = make_inputs(5)
    with pytest.raises(ValueError, match="backend is 'triton', which is not available here"):
        polynomial_mix(*inputs.arguments, **inputs.options, backend="triton")


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("mask", [None, ChunkMask(8, 1)])
@pytest.mark.parametrize("variant", ["base", "selective", "frequency3"])
def test_a_compiled_mixer_is_one_graph_and_equal(variant, mask, recompute):
    torch._dynamo.reset()
    mixer = PolynomialMixer(6, variant=variant, recompute=recompute)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
    frames = torch.randn(2, 50, 6, requires_grad=True)
    padding = torch.arange(50) >= torch.tensor([[50], [30]])
    results = []
    for function in (mixer, compiled):
        output, _ = function(frames, attn_mask=mask, key_padding_mask=padding)
        gradients = torch.autograd.grad(output.square().sum(), [frames, *mixer.parameters()])
        with torch.no_grad():
            inference, _ = function(frames, attn_mask=mask, key_padding_mask=padding)
        results.append([output, inference, *gradients])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_compiled_mixer_takes_other_lengths_and_autocast():
    torch._dynamo.reset()
    mixer = PolynomialMixer(6)
    compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager", dynamic=True)
    for num_frames in (63, 500, 2):
        frames = torch.randn(2, num_frames, 6)
        torch.testing.assert_close(compiled(frames)[0], mixer(frames)[0])
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(compiled(frames)[0], mixer(frames)[0])


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("chunk_size", [None, 4])
def test_operators_keep_pytorchs_contract(chunk_size, keep):
    """Shapes without data, no aliases, autograd and tracing: PyTorch's own checks."""

    def leaf(*shape):
        return torch.randn(*shape, requires_grad=True)

    frames, padding = leaf(2, 9, 3), torch.arange(9) >= torch.tensor([[9], [5]])
    how = (chunk_size, 2, "gelu_product")
    torch.library.opcheck(
        OPERATORS.feature_sums, (frames, leaf(8, 3), leaf(8), padding, *how, keep, "tiled")
    )
    state = leaf(2, 1 if chunk_size is None else 3, 8)
    weights = leaf(8, 3), leaf(8), leaf(5, 8), leaf(5)
    torch.library.opcheck(OPERATORS.select, (frames, state, *weights, chunk_size, keep, "tiled"))
