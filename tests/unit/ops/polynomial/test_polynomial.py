"""The fused path against the reference: outputs and every gradient, for all masks."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask

from speechbrain_pom.ops import ChunkMask, polynomial_mix
from speechbrain_pom.ops.polynomial.cpu_tiles import CPU_TILE_FRAMES

VARIANTS = ("base", "selective", "frequency2", "frequency3")
LENGTHS = (1, 63, 500)


def arbitrary_mask(num_queries, num_keys):
    hidden = torch.rand(num_queries, num_keys) < 0.5
    hidden[num_queries // 2] = True  # a query that sees nothing
    return hidden


MASKS = {
    "none": lambda t: None,
    "causal": lambda t: ChunkMask(1),
    "causal, SpeechBrain's": lambda t: get_lookahead_mask(torch.zeros(1, t)),
    "chunks of 16": lambda t: ChunkMask(16),
    "chunks of 8, none left": lambda t: ChunkMask(8, 0),
    "chunks of 5, 2 left": lambda t: ChunkMask(5, 2),
    "chunks of 3, 1 left, tensor": lambda t: ChunkMask(3, 1).to_bool(t),
    "chunks of 200, 1 left": lambda t: ChunkMask(200, 1),
    "half-life": lambda t: ChunkMask(5, half_life_chunks=2.5),
    "half-life, resets": lambda t: ChunkMask(3, None, 1.5, [[2, 9], [], [0, 1, 40]]),
    "chunks of 5, 2 left, resets": lambda t: ChunkMask(5, 2, resets=[[3], [1, 2], []]),
    "arbitrary": lambda t: arbitrary_mask(t, t),
}


def assert_close(found, expected, rtol):
    """Relative to the largest value: gradients of biases are sums with cancellation."""
    assert found.dtype == expected.dtype
    assert torch.isfinite(found).all()
    error = (found - expected).abs().max()
    assert error <= rtol * expected.abs().max().clamp(min=1e-30), f"relative error {error:.3g}"


def assert_fused_equals_reference(inputs, rtol, **masks):
    results = {}
    for backend in ("reference", "fused"):
        output = polynomial_mix(*inputs.arguments, **inputs.options, **masks, backend=backend)
        direction = torch.linspace(-1, 2, output.numel()).view_as(output).to(output.dtype)
        gradients = torch.autograd.grad((output * direction).sum(), inputs.leaves)
        results[backend] = [output.detach(), *gradients]
    with torch.no_grad():
        blockwise = polynomial_mix(*inputs.arguments, **inputs.options, **masks, backend="fused")
    for found, expected in zip(results["fused"], results["reference"], strict=True):
        assert_close(found, expected, rtol)
    assert_close(blockwise, results["reference"][0], rtol)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize("mask", MASKS)
def test_masks_in_float64(make_inputs, random_padding, mask, num_frames, padded):
    inputs = make_inputs(num_frames, dtype=torch.float64)
    padding = random_padding(3, num_frames) if padded else None
    assert_fused_equals_reference(
        inputs, 1e-11, attn_mask=MASKS[mask](num_frames), key_padding_mask=padding
    )


@pytest.mark.parametrize("num_frames", LENGTHS)
@pytest.mark.parametrize("mask", ["none", "chunks of 5, 2 left", "half-life, resets", "arbitrary"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_in_float32(make_inputs, random_padding, variant, mask, num_frames):
    assert_fused_equals_reference(
        make_inputs(num_frames, variant),
        1e-5,
        attn_mask=MASKS[mask](num_frames),
        key_padding_mask=random_padding(3, num_frames),
    )


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_degrees(make_inputs, degree):
    assert_fused_equals_reference(make_inputs(63, degree=degree, dtype=torch.float64), 1e-11)


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
@pytest.mark.parametrize("mask", ["none", "chunks of 5, 2 left", "arbitrary"])
def test_half_precision_without_autocast(make_inputs, random_padding, mask, dtype, rtol):
    # The reference computes in fp32 from the same weights: the fused path rounds a few times (8
    # or 11 bits each), the gradients once more.
    assert_fused_equals_reference(
        make_inputs(500, "base", degree=2, dtype=dtype),
        rtol,
        attn_mask=MASKS[mask](500),
        key_padding_mask=random_padding(3, 500),
    )


@pytest.mark.parametrize("mask", [None, "arbitrary"])
def test_key_of_another_length(make_inputs, random_padding, mask):
    inputs = make_inputs(20, num_keys=33, dtype=torch.float64)
    assert_fused_equals_reference(
        inputs,
        1e-11,
        attn_mask=arbitrary_mask(20, 33) if mask else None,
        key_padding_mask=random_padding(3, 33),
    )


def test_inputs_that_are_not_contiguous(make_inputs):
    inputs = make_inputs(63, "frequency3", dtype=torch.float64)
    query, poly, gate, out_weight, out_bias = inputs.arguments
    expected = polynomial_mix(*inputs.arguments, **inputs.options)
    strided = query.detach().transpose(1, 2).contiguous().transpose(1, 2)
    wide = [(torch.stack([w, w], -1)[..., 0], torch.stack([b, b], -1)[..., 0]) for w, b in poly]
    padding = torch.zeros(63, 3, dtype=torch.bool).T
    mask = torch.zeros(63, 126, dtype=torch.bool)[:, ::2]
    assert not any(t.is_contiguous() for t in (strided, wide[0][0], padding, mask))
    found = polynomial_mix(
        strided,
        wide,
        gate,
        out_weight,
        out_bias,
        **inputs.options,
        key_padding_mask=padding,
        attn_mask=mask,
    )
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize(
    ("num_frames", "chunk_size"),
    [
        *((CPU_TILE_FRAMES - 1, size) for size in (3, 256, 1000)),
        *((CPU_TILE_FRAMES, size) for size in (100, 256, 300)),
        *((3 * CPU_TILE_FRAMES + 5, size) for size in (3, 300, 1000)),
    ],
)
def test_tiles_equal_the_whole(make_inputs, random_padding, num_frames, chunk_size):
    inputs = make_inputs(num_frames, degree=2, dtype=torch.float64)
    for mask in (None, ChunkMask(chunk_size), ChunkMask(chunk_size, 1)):
        masks = {"attn_mask": mask, "key_padding_mask": random_padding(3, num_frames)}
        whole = polynomial_mix(*inputs.arguments, **inputs.options, **masks, backend="reference")
        recorded = polynomial_mix(*inputs.arguments, **inputs.options, **masks)
        with torch.no_grad():
            tiled = polynomial_mix(*inputs.arguments, **inputs.options, **masks)
        assert_close(tiled, whole, 1e-12)
        assert torch.equal(tiled, recorded)


@pytest.mark.parametrize("mask", [None, ChunkMask(40, 1), "tensor"])
def test_recomputation_gives_the_same_gradients(make_inputs, random_padding, mask):
    num_frames = 2 * CPU_TILE_FRAMES + 9
    inputs = make_inputs(num_frames, degree=3, dtype=torch.float64)
    mask = torch.rand(num_frames, num_frames) < 0.5 if mask == "tensor" else mask
    masks = {"attn_mask": mask, "key_padding_mask": random_padding(3, num_frames)}
    gradients = [
        torch.autograd.grad(
            polynomial_mix(*inputs.arguments, **inputs.options, **masks, recompute=recompute)
            .square()
            .sum(),
            inputs.leaves,
        )
        for recompute in (False, True)
    ]
    for kept, recomputed in zip(*gradients, strict=True):
        assert torch.equal(kept, recomputed)


@pytest.mark.parametrize(("recompute", "num_expanded"), [(False, 2), (True, 0)])
def test_training_keeps_two_expanded_tensors_or_none(make_inputs, recompute, num_expanded):
    inputs = make_inputs(300, degree=2)
    expanded = inputs.weights[4].shape[1]  # W_o (d, E)
    kept = []

    def note(tensor):
        if tensor.dim() == 3 and tensor.shape[1:] == (300, expanded):
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        polynomial_mix(*inputs.arguments, **inputs.options, recompute=recompute)
    assert len(kept) == num_expanded


def test_a_second_derivative_is_refused(make_inputs):
    inputs = make_inputs(5, dtype=torch.float64)
    output = polynomial_mix(*inputs.arguments, **inputs.options)
    (gradient,) = torch.autograd.grad(output.square().sum(), inputs.leaves[:1], create_graph=True)
    text = r"cannot be differentiated again: .* with backend='reference'"
    with pytest.raises(RuntimeError, match=text):
        gradient.sum().backward()


@pytest.mark.parametrize("trainable", ["poly", "gate", "out", "biases"])
def test_gradients_where_the_rest_is_frozen(make_inputs, trainable):
    inputs = make_inputs(2 * CPU_TILE_FRAMES + 3, dtype=torch.float64)
    parts = {
        "poly": inputs.weights[:2],
        "gate": inputs.weights[2:4],
        "out": inputs.weights[4:],
        "biases": inputs.weights[1::2],
    }
    full = polynomial_mix(*inputs.arguments, **inputs.options, attn_mask=ChunkMask(7, 2))
    expected = torch.autograd.grad(full.square().sum(), parts[trainable])
    for leaf in inputs.leaves:
        leaf.requires_grad_(any(leaf is tensor for tensor in parts[trainable]))
    output = polynomial_mix(*inputs.arguments, **inputs.options, attn_mask=ChunkMask(7, 2))
    found = torch.autograd.grad(output.square().sum(), parts[trainable])
    for gradient, reference in zip(found, expected, strict=True):
        assert_close(gradient, reference, 1e-11)


@pytest.mark.parametrize("mask", [None, ChunkMask(4, 1), "arbitrary"])
def test_a_query_that_sees_nothing_gets_the_bias(make_inputs, mask):
    inputs = make_inputs(30)
    padding = torch.zeros(3, 30, dtype=torch.bool)
    padding[1] = True  # nothing but padding
    mask = arbitrary_mask(30, 30) if mask == "arbitrary" else mask
    output = polynomial_mix(
        *inputs.arguments, **inputs.options, key_padding_mask=padding, attn_mask=mask
    )
    bias = inputs.weights[-1]
    torch.testing.assert_close(output[1], bias.expand(30, 7))
    gradients = torch.autograd.grad(output.sum(), inputs.leaves)
    assert all(torch.isfinite(tensor).all() for tensor in (output, *gradients))


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("gradients", [False, True], ids=["tiles", "whole"])
@pytest.mark.parametrize("mask", [None, ChunkMask(1), ChunkMask(16, 2), "arbitrary"])
def test_what_stands_in_padding_changes_no_bit(make_inputs, mask, gradients, poison):
    inputs = make_inputs(300)
    padding = torch.arange(300) >= torch.tensor([[300], [120], [1]])
    mask = arbitrary_mask(300, 300) if mask == "arbitrary" else mask
    query, *weights = inputs.arguments
    poisoned = query.detach().masked_fill(padding.unsqueeze(-1), poison)
    with torch.set_grad_enabled(gradients):
        clean, dirty = (
            polynomial_mix(
                frames, *weights, **inputs.options, key_padding_mask=padding, attn_mask=mask
            )[~padding]
            for frames in (query, poisoned)
        )
    assert torch.equal(clean, dirty)


def test_what_stands_in_padding_changes_no_gradient_of_valid_frames(make_inputs):
    inputs = make_inputs(40, dtype=torch.float64)
    padding = torch.arange(40) >= torch.tensor([[40], [25], [3]])
    query, *weights = inputs.arguments
    gradients = []
    for fill in (0.0, 1e4, torch.nan):
        frames = query.detach().masked_fill(padding.unsqueeze(-1), fill).requires_grad_()
        output = polynomial_mix(frames, *weights, **inputs.options, key_padding_mask=padding)
        valid = output.masked_fill(padding.unsqueeze(-1), 0.0)
        gradients.append(torch.autograd.grad(valid.square().sum(), frames)[0][~padding])
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "fast"},
            "backend is 'fast': choose one of auto, reference, tiled, triton, fused",
        ),
        (
            {"activation": "relu"},
            "activation is 'relu': choose one of gelu_product, relu_power",
        ),
        (
            {"key_padding_mask": torch.zeros(3, 9, dtype=torch.bool)},
            "key_padding_mask is torch.bool of shape (3, 9): give a boolean mask of shape "
            "(3, 8), True = padding",
        ),
        (
            {"key_padding_mask": torch.zeros(3, 8)},
            "key_padding_mask is torch.float32 of shape (3, 8): give a boolean mask of shape "
            "(3, 8), True = padding",
        ),
    ],
)
def test_bad_calls_are_quoted(make_inputs, options, message):
    inputs = make_inputs(8)
    with pytest.raises(ValueError, match=r": (choose|give)") as error:
        polynomial_mix(*inputs.arguments, **{**inputs.options, **options})
    assert str(error.value) == message


def test_memory_of_tiles_serves_all_modes_and_threads(make_inputs):
    """It is kept from call to call: neither inference mode nor another thread may spoil it."""
    inputs = make_inputs(40)
    expected = polynomial_mix(*inputs.arguments, **inputs.options)
    with torch.inference_mode():
        assert torch.equal(polynomial_mix(*inputs.arguments, **inputs.options), expected)
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(polynomial_mix, *inputs.arguments, **inputs.options) for _ in range(40)
        ]
        for call in calls:
            assert torch.equal(call.result(), expected)
    output = polynomial_mix(*inputs.arguments, **inputs.options)
    assert torch.equal(output, expected)
    output.sum().backward()
