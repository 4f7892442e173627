"""Fastformer: the publication's numbers, the reference, stability, refusals."""

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask

from speechbrain_pom import Fastformer
from speechbrain_pom.ops import ChunkMask, fastformer
from speechbrain_pom.ops.fastformer import reference
from speechbrain_pom.utils.errors import UserError
from tests.unit.nnet.test_golden import GOLDEN, TOLERANCE, assert_same, load, published_state

LAYERS = ("query_proj", "query_attn", "key_proj", "key_attn", "out_proj")


def weights_of(mixer):
    layers = (getattr(mixer, name) for name in LAYERS)
    return [(layer.weight, layer.bias) for layer in layers]


def test_output_and_all_gradients_equal_the_published_code():
    golden = load(GOLDEN / "fastformer_h4.npz")
    mixer = Fastformer(int(golden["d_model"]), int(golden["nhead"])).double()
    mixer.load_state_dict(published_state(golden), strict=True)
    x = golden["x"].clone().requires_grad_()

    output, weights = mixer(x, x, x, key_padding_mask=golden["key_padding_mask"])
    (output * golden["loss_weight"]).sum().backward()

    assert weights is None
    assert_same(output, golden["y"])
    assert_same(x.grad, golden["grad_x"])
    for name, parameter in mixer.named_parameters():
        expected = golden[f"grad/{name}"]
        if name.endswith("attn.bias"):  # a softmax does not see it: rounding errors on both sides
            assert parameter.grad.abs().max() <= TOLERANCE
            assert expected.abs().max() <= TOLERANCE
        else:
            assert_same(parameter.grad, expected)


@pytest.mark.parametrize("padded", [False, True], ids=["full", "padded"])
@pytest.mark.parametrize("num_frames", [1, 63, 500])
@pytest.mark.parametrize("nhead", [1, 2, 6])
def test_equals_the_reference_with_all_gradients(nhead, num_frames, padded):
    mixer = Fastformer(6, nhead).double()
    x = torch.randn(3, num_frames, 6, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([[num_frames], [1 + num_frames // 3], [1]])
    padding = torch.arange(num_frames) >= lengths if padded else torch.zeros(3, num_frames) > 0
    results = []
    for function in (fastformer, reference.fastformer):
        output = function(x, *weights_of(mixer), key_padding_mask=padding)[~padding]
        direction = torch.linspace(-1, 2, output.numel(), dtype=torch.float64).view_as(output)
        gradients = torch.autograd.grad((output * direction).sum(), [x, *mixer.parameters()])
        results.append([output.detach(), *gradients])
    scale = max(tensor.abs().max() for tensor in results[1])
    for found, expected in zip(*results, strict=True):
        assert (found - expected).abs().max() <= TOLERANCE * scale


@pytest.mark.parametrize("loudness", [1e3, 1e5])
def test_scores_of_any_size_are_stable(loudness):
    mixer, x = Fastformer(8, 2), torch.randn(2, 30, 8)
    with torch.no_grad():
        mixer.query_attn.weight.mul_(loudness)
        mixer.key_attn.weight.mul_(loudness)
    x.requires_grad_()
    output, _ = mixer(x)
    assert torch.isinf(mixer.query_attn(mixer.query_proj(x)).exp()).any()  # the naive softmax
    gradients = torch.autograd.grad(output.sum(), [x, *mixer.parameters()])
    assert all(torch.isfinite(tensor).all() for tensor in (output, *gradients))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_over_time_are_in_fp32(dtype):
    # Equal scores: the mean of as many frames as halves a weight in fp16 and drops bits in bf16.
    num_frames = 60_000
    mixer, x = Fastformer(8, 2).to(dtype), 1 + torch.randn(1, num_frames, 8).to(dtype)
    with torch.no_grad():
        for layer in (mixer.query_attn, mixer.key_attn):
            layer.weight.zero_()
        found, _ = mixer(x)
        expected = reference.fastformer(x, *weights_of(mixer))
    error = (found - expected).abs().max() / expected.abs().max()
    assert error < (1e-3 if dtype == torch.float16 else 1e-2)


def test_an_utterance_that_is_all_padding_gives_zeros():
    mixer, x = Fastformer(8, 2), torch.randn(2, 5, 8)
    padding = torch.tensor([[False] * 5, [True] * 5])
    output, _ = mixer(x, key_padding_mask=padding)
    assert not output[1].any()
    torch.testing.assert_close(output[:1], mixer(x[:1])[0])
    gradients = torch.autograd.grad(output.sum(), list(mixer.parameters()))
    assert all(torch.isfinite(tensor).all() for tensor in gradients)


@pytest.mark.parametrize("mask", [ChunkMask(4), ChunkMask(1), get_lookahead_mask(torch.ones(1, 9))])
def test_masks_that_hide_something_are_refused(mask):
    with pytest.raises(ValueError, match="Fastformer") as error:
        Fastformer(8, 2)(torch.randn(1, 9, 8), attn_mask=mask)
    assert str(error.value) == (
        "Fastformer cannot honour a causal or chunk mask: its second softmax would need the scores "
        "of all pairs of frames; set causal: False and no dynamic chunks, or choose another type"
    )


@pytest.mark.parametrize("mask", [ChunkMask(9), torch.zeros(9, 9, dtype=torch.bool)])
def test_masks_that_hide_nothing_are_no_masks(mask):
    mixer, x = Fastformer(8, 2), torch.randn(1, 9, 8)
    assert torch.equal(mixer(x, attn_mask=mask)[0], mixer(x)[0])


def test_other_keys_and_values_are_refused():
    x, y = torch.randn(2, 1, 5, 8)
    for name in ("key", "value"):
        with pytest.raises(UserError, match=f"Fastformer: {name} is another tensor than"):
            Fastformer(8, 2)(x, **{name: y})


@pytest.mark.parametrize(
    ("d_model", "nhead", "message"),
    [
        (8, 3, "d_model is 8: give a multiple of nhead, which is 3"),
        (8, True, "nhead is True: give a whole number of at least 1"),
        ("8", 2, "d_model is '8': give a whole number of at least 1"),
    ],
)
def test_bad_sizes_are_quoted(d_model, nhead, message):
    with pytest.raises(ValueError, match="Fastformer: ") as error:
        Fastformer(d_model, nhead)
    assert str(error.value) == f"Fastformer: {message}"


def test_options_are_printed():
    assert "d_model=8, nhead=2" in repr(Fastformer(8, 2))
