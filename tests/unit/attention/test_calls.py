"""A call's padding belongs to the call: threads, checkpointed parts, copies."""

import copy
import pickle
from functools import partial

import pytest
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer import Branchformer, Conformer
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)
from torch.utils.checkpoint import checkpoint

from speechbrain_pom.attention.padding import isolate_padding, restore_padding, set_padding

LENGTHS = torch.tensor([1.0, 0.4, 0.6])
FEED_FORWARD = {"ffn_type": "1dcnn", "ffn_cnn_kernel_size_list": [5, 3]}


def loud(model):
    """Weights that do not hide what the convolutions read."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=generator))
    return model


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
@pytest.mark.parametrize("spec", ["PoM", "SummaryMixing", "RelPosMHAXL + PoM"])
def test_threads_share_a_model(build_asr, wrong_in_threads, spec, encoder_module):
    model = loud(build_asr(spec, encoder_module))
    jobs = [(torch.randn(3, frames, 20), LENGTHS) for frames in (30, 30, 44, 63)]
    assert wrong_in_threads(model.encode, jobs) == []


def wrap(model, names, how):
    """Checkpoint all parts of these classes, and count what is computed."""
    count = []
    for part in model.modules():
        if type(part).__name__ in names:
            part.register_forward_pre_hook(lambda *_: count.append(1))
    apply_activation_checkpointing(
        model,
        checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=how),
        check_fn=lambda part: type(part).__name__ in names,
    )
    return count


def gradients_of(model, encode):
    model.zero_grad()
    output = encode(model)
    output.square().mean().backward()
    weights = [weight.grad for weight in model.parameters() if weight.grad is not None]
    return [output.detach(), *weights]


def assert_checkpointing_changes_nothing(model, encode, names, how):
    expected = gradients_of(model, encode)
    count = wrap(model, names, how)
    encode(model)
    once = len(count)
    count.clear()
    found = gradients_of(model, encode)
    assert len(count) > once > 0  # something was computed again
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


PARTS = [
    ("conformer", ["ConvolutionModule"]),
    ("conformer", ["ConformerEncoderLayer"]),
    ("branchformer", ["ConvolutionBranch"]),
    ("branchformer", ["ConvolutionalSpatialGatingUnit"]),
    ("branchformer", ["Conv1d"]),
    ("branchformer", ["BranchformerEncoderLayer"]),
    ("transformer", ["PositionalwiseFeedForward"]),
]
# SpeechBrain's Conformer writes into what these return, which reentrant checkpoints refuse.
WRITTEN_TO = [("conformer", ["Sequential"]), ("conformer", ["Conv1d", "Linear"])]
CASES = [(*part, how) for part in PARTS for how in CheckpointImpl]
CASES += [(*part, CheckpointImpl.NO_REENTRANT) for part in WRITTEN_TO]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(("encoder_module", "names", "how"), CASES)
def test_parts_that_are_computed_again(build_asr, encoder_module, names, how):
    model = loud(build_asr("PoM + RelPosMHAXL", encoder_module))
    frames = torch.randn(3, 40, 20, requires_grad=True)
    assert_checkpointing_changes_nothing(
        model, lambda model: model.encode(frames, LENGTHS), names, how
    )


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", CheckpointImpl)
@pytest.mark.parametrize("name", ["Conv1d", "Sequential", "TransformerEncoderLayer"])
def test_convolutions_of_a_transformer_that_are_computed_again(name, how):
    torch.manual_seed(0)
    encoder = loud(TransformerEncoder(2, 2, 32, d_model=16, attention_type="PoM", **FEED_FORWARD))
    frames, padding = (
        torch.randn(2, 19, 16, requires_grad=True),
        torch.arange(19) >= torch.tensor([[19], [8]]),
    )
    assert_checkpointing_changes_nothing(
        encoder.eval(), lambda e: e(frames, src_key_padding_mask=padding)[0], [name], how
    )


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
def test_forward_methods_that_are_computed_again(build_asr, encoder_module, reentrant):
    model = loud(build_asr("PoM", encoder_module))
    frames = torch.randn(3, 40, 20)
    expected = gradients_of(model, lambda model: model.encode(frames, LENGTHS))
    for layer in model.encoder.layers:

        def forward(x, *, forward=layer.forward, **options):
            return checkpoint(partial(forward, **options), x, use_reentrant=reentrant)

        layer.forward = forward
    for one, other in zip(
        gradients_of(model, lambda model: model.encode(frames, LENGTHS)), expected, strict=True
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("how", CheckpointImpl)
@pytest.mark.parametrize(("encoder_module", "names"), PARTS[:-1])
def test_padding_that_is_made_exact_after_parts_are_wrapped(build_asr, encoder_module, names, how):
    front_end = ConvolutionFrontEnd((8, 10, 12), 1, 1, [4], [5], [2], residuals=[False]).eval()
    model, feats = loud(build_asr("regularMHA", encoder_module)), torch.randn(3, 40, 12)
    lengths = torch.tensor([40, 16, 24])
    results = []
    for wrapped in (False, True):
        one, other = copy.deepcopy(model), copy.deepcopy(front_end)
        if wrapped:
            wrap(one, names, how)
            wrap(other, ["ConvBlock", "Conv2d"], how)
        set_padding("exact", other, one)
        frames = torch.randn(3, 40, 20, generator=torch.Generator().manual_seed(0))
        results.append([other(feats, lengths), one.encode(frames, LENGTHS)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)
    leaking = front_end(feats)  # the classes of a copy are its own
    assert (leaking - results[0][0]).abs().max() > 1e-3


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer", "transformer"])
@pytest.mark.parametrize("make", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(build_asr, make, encoder_module):
    model = loud(build_asr("RelPosMHAXL + PoM", encoder_module))
    frames = torch.randn(3, 40, 20)
    expected = model.encode(frames, LENGTHS)
    copied = make(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(copied.encode(frames, LENGTHS), expected)


class OwnLayer(Branchformer.BranchformerEncoderLayer):
    """As somebody else derives a layer from SpeechBrain's."""

    def forward(self, *args, **kwargs):
        """Twice SpeechBrain's."""
        output, weights = super().forward(*args, **kwargs)
        return 2 * output, weights


class OwnConvolution(Conformer.ConvolutionModule):
    """As somebody else derives a part of a layer."""


@pytest.mark.parametrize("make", [lambda layer: layer, lambda x: pickle.loads(pickle.dumps(x))])
def test_classes_that_are_derived_from_speechbrains(make):
    torch.manual_seed(0)
    layer = loud(OwnLayer(16, 2, kernel_size=7, csgu_linear_units=32, attention_type="PoM"))
    frames, padding = torch.randn(2, 19, 16), torch.arange(19) >= torch.tensor([[19], [8]])
    made = make(layer.eval())
    assert isinstance(made, OwnLayer)
    alone, batched = made(frames[1:, :8])[0], made(frames, None, padding)[0][1:, :8]
    assert (batched - alone).abs().max() < 1e-5 * alone.abs().max()
    restore_padding(layer)
    assert type(layer) is OwnLayer
    batched = layer(frames, None, padding)[0][1:, :8]
    assert (batched - alone).abs().max() > 1e-3 * alone.abs().max()


def test_parts_that_are_derived_from_speechbrains():
    torch.manual_seed(0)
    layer = Conformer.ConformerEncoderLayer(16, 32, 2, kernel_size=7, attention_type="regularMHA")
    layer.convolution_module = OwnConvolution(16, 7)
    loud(layer).eval()
    frames, padding = torch.randn(2, 19, 16), torch.arange(19) >= torch.tensor([[19], [8]])
    isolate_padding(layer)
    assert type(layer.convolution_module).__name__ == "OwnConvolution"
    alone, batched = layer(frames[1:, :8])[0], layer(frames, None, padding)[0][1:, :8]
    assert (batched - alone).abs().max() < 1e-5 * alone.abs().max()
