"""What every registered mixer promises; a new one is tested as soon as it is registered."""

import copy

import pytest
import torch
from speechbrain.lobes.models.transformer.Transformer import get_lookahead_mask

import speechbrain_pom
from speechbrain_pom.attention import parse_spec
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.nnet.mamba import MambaBlock
from speechbrain_pom.ops import ChunkMask
from tests.unit.attention.test_memory import NUM_FRAMES as MANY_FRAMES
from tests.unit.attention.test_memory import recorded
from tests.unit.attention.test_padding import (
    encoder_of,
    pad,
    relative_errors,
    with_random_biases,
)

REGISTERED = [name for name in speechbrain_pom.attention_types() if name not in BUILTIN_TYPES]
SPECS = [*REGISTERED, "SummaryMixing(lite)", "Mamba(bidirectional=False)"]
TAKE_EVERY_MASK = ("PoM", "SummaryMixing", "SummaryMixing(lite)")
ENCODERS = ("conformer", "transformer", "branchformer")
D_MODEL = 16
TOLERANCE = 1e-5  # relative, fp32

every_mixer = pytest.mark.parametrize("spec", SPECS)


def build(spec, dropout=0.0):
    """The mixer as an encoder layer builds it, with biases that are not zero."""
    (layer,) = parse_spec(spec, 1)
    known = {"nhead": 2, "dropout": dropout, "causal": False, "d_ffn": 32}
    return with_random_biases(get_type(layer.name).build(D_MODEL, dict(layer.options), known))


def call(mixer, x, **masks):
    """As SpeechBrain's encoder layers call it."""
    output, weights = mixer(x, x, x, **masks)
    assert weights is None
    return output


def gradients_of(mixer, x, padding):
    """Of a loss over the valid frames: for the input and each parameter."""
    x = x.clone().requires_grad_()
    output = call(mixer, x, key_padding_mask=padding)[~padding]
    loss = (output * torch.linspace(-1, 2, output.numel()).view_as(output)).sum()
    parameters = dict(mixer.named_parameters())
    return dict(
        zip(["x", *parameters], torch.autograd.grad(loss, [x, *parameters.values()]), strict=True)
    )


def test_the_registered_types_are_those_of_the_package():
    assert {"Fastformer", "Mamba", "PoM", "SummaryMixing"} <= set(REGISTERED)


@pytest.mark.parametrize("num_frames", [1, 63, 500])
@every_mixer
def test_shapes(spec, num_frames):
    mixer, x = build(spec), torch.randn(3, num_frames, D_MODEL)
    before = x.clone()
    output = call(mixer, x)
    assert output.shape == x.shape
    assert torch.isfinite(output).all()
    assert torch.equal(x, before)
    torch.testing.assert_close(mixer(x)[0], output)  # key and value may be left out


@pytest.mark.parametrize("extra", [0, 20])
@every_mixer
def test_a_padded_batch_equals_each_utterance_alone(spec, extra):
    mixer = build(spec).eval()
    utterances = [torch.randn(length, D_MODEL) for length in (1, 2, 70, 31, 17)]
    error = relative_errors(
        lambda x, padding: call(mixer, x, key_padding_mask=padding), utterances, extra
    )
    assert error < TOLERANCE


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@every_mixer
def test_what_padding_holds_changes_no_bit(spec, value):
    mixer = build(spec).eval()
    batch, padding = pad([torch.randn(length, D_MODEL) for length in (30, 12, 1)])
    clean = call(mixer, batch, key_padding_mask=padding)[~padding]
    dirty = batch.masked_fill(padding.unsqueeze(-1), value)
    assert torch.equal(call(mixer, dirty, key_padding_mask=padding)[~padding], clean)


@every_mixer
def test_a_padding_mask_of_another_kind_is_refused(spec):
    mixer, x = build(spec), torch.randn(2, 5, D_MODEL)
    for mask in (torch.zeros(2, 5), torch.zeros(5, 2, dtype=torch.bool)):
        with pytest.raises(ValueError, match="give a boolean mask of shape"):
            call(mixer, x, key_padding_mask=mask)


def some_mask(num_frames):
    hidden = torch.rand(num_frames, num_frames) < 0.5
    return hidden.fill_diagonal_(False)


MASKS = {
    "causal": lambda t: ChunkMask(1),
    "causal, SpeechBrain's": lambda t: get_lookahead_mask(torch.zeros(1, t)),
    "chunks of 8": lambda t: ChunkMask(8),
    "chunks of 8, none left": lambda t: ChunkMask(8, 0),
    "chunks of 5, 2 left": lambda t: ChunkMask(5, 2),
    "chunks of 5, 2 left, tensor": lambda t: ChunkMask(5, 2).to_bool(t),
    "arbitrary": some_mask,
}


def refuses(mixer, mask, num_frames):
    try:
        call(mixer, torch.randn(1, num_frames, D_MODEL), attn_mask=mask)
    except ValueError:
        return True
    return False


def assert_hidden_frames_change_no_bit(mixer, x, mask, hidden):
    before = call(mixer, x, attn_mask=mask)
    for frame in range(0, x.shape[1], 3):
        changed = x.clone()
        changed[:, frame] = 100 * torch.randn(x.shape[0], x.shape[2])
        different = (call(mixer, changed, attn_mask=mask) != before).any(-1).any(0)
        assert not (different & hidden[:, frame]).any()
        assert different[frame]  # and what is seen counts


@pytest.mark.parametrize("mask", MASKS)
@every_mixer
@torch.no_grad()
def test_masks_are_honoured_exactly_or_refused(spec, mask):
    mixer, x = build(spec).eval(), torch.randn(2, 41, D_MODEL)
    mask = MASKS[mask](41)
    if isinstance(mask, ChunkMask):
        hidden = mask.to_bool(41)
    else:
        hidden = mask if mask.dtype == torch.bool else mask == -torch.inf
    if refuses(mixer, mask, 41):
        assert spec not in TAKE_EVERY_MASK
        for same in (mask, hidden):
            with pytest.raises(ValueError, match="mask"):
                call(mixer, x, attn_mask=same)
        return
    assert_hidden_frames_change_no_bit(mixer, x, mask, hidden)
    torch.testing.assert_close(
        call(mixer, x, attn_mask=mask), call(mixer, x, attn_mask=hidden), rtol=0, atol=TOLERANCE
    )


@every_mixer
@torch.no_grad()
def test_a_mixer_that_ignored_masks_would_be_found(spec):
    mixer, x = build(spec).eval(), torch.randn(2, 41, D_MODEL)
    if spec == "Mamba(bidirectional=False)":  # without a mask, it sees the past only
        return
    with pytest.raises(AssertionError):
        assert_hidden_frames_change_no_bit(mixer, x, None, ChunkMask(1).to_bool(41))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@every_mixer
def test_dtypes_without_autocast(spec, dtype):
    mixer, x = build(spec).eval(), torch.randn(2, 63, D_MODEL)
    padding = torch.arange(63) >= torch.tensor([[63], [20]])
    expected = call(mixer, x, key_padding_mask=padding)[~padding]
    output = call(mixer.to(dtype), x.to(dtype), key_padding_mask=padding)[~padding]
    assert output.dtype == dtype
    tolerance = 0.05 if dtype == torch.bfloat16 else TOLERANCE
    assert (output - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@every_mixer
def test_autocast_on_long_audio(spec, dtype):
    mixer, x = build(spec), 3 * torch.randn(1, 15_000, D_MODEL)  # ten minutes
    expected = call(mixer, x)
    with torch.autocast("cpu", dtype):
        output = call(mixer, x)
        gradients = torch.autograd.grad(output.float().square().mean(), list(mixer.parameters()))
    assert output.dtype in (dtype, torch.float32)
    assert (output - expected).abs().mean() < 0.02 * expected.abs().mean().clamp(min=0.1)
    assert all(torch.isfinite(tensor).all() for tensor in gradients)


@every_mixer
def test_gradients_are_finite_reach_everything_and_equal_those_in_float64(spec):
    mixer = build(spec)
    x, padding = pad([torch.randn(length, D_MODEL) for length in (63, 20, 1)])
    found = gradients_of(mixer, x, padding)
    exact = gradients_of(copy.deepcopy(mixer).double(), x.double(), padding)
    scale = max(tensor.abs().max() for tensor in exact.values())
    for name, gradient in found.items():
        assert torch.isfinite(gradient).all(), name
        assert (gradient - exact[name]).abs().max() < TOLERANCE * scale, name
    assert not found["x"][padding].any()
    assert found["x"][~padding].any(-1).all()


@every_mixer
def test_gradients_do_not_depend_on_what_padding_holds(spec):
    mixer = build(spec)
    x, padding = pad([torch.randn(length, D_MODEL) for length in (63, 20, 1)])
    clean = gradients_of(mixer, x, padding)
    dirty = gradients_of(mixer, x.masked_fill(padding.unsqueeze(-1), torch.nan), padding)
    for name, gradient in dirty.items():
        assert torch.equal(gradient, clean[name]), name


@pytest.mark.parametrize("mask", [None, ChunkMask(1), ChunkMask(64, 2)])
@pytest.mark.parametrize("backward", [False, True])
@every_mixer
def test_nothing_grows_with_the_square_of_the_time(spec, backward, mask):
    mixer = build(spec)
    if refuses(mixer, mask, 200):
        return
    padding = torch.arange(MANY_FRAMES) >= torch.tensor([[MANY_FRAMES], [900]])

    def run():
        with torch.set_grad_enabled(backward):
            x = torch.randn(2, MANY_FRAMES, D_MODEL)
            output = call(mixer, x, attn_mask=mask, key_padding_mask=padding)
            if backward:
                output.sum().backward()

    assert not recorded(run)


@every_mixer
def test_state_dict_round_trip(spec, tmp_path):
    mixer, other = build(spec).eval(), build(spec).eval()
    x = torch.randn(2, 6, D_MODEL)
    assert not torch.equal(call(mixer, x), call(other, x))
    torch.save(mixer.state_dict(), tmp_path / "mixer.pt")
    state = torch.load(tmp_path / "mixer.pt", weights_only=True)
    assert str(other.load_state_dict(state)) == "<All keys matched successfully>"
    assert list(state) == list(mixer.state_dict())  # loading did not rename the caller's copy
    assert torch.equal(call(mixer, x), call(other, x))
    assert torch.equal(call(mixer, x), call(copy.deepcopy(mixer), x))
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict(dict(list(state.items())[1:]))


def assert_trains_and_encodes_alone_as_in_a_batch(model):
    model = with_random_biases(model)
    # Alone, the Branchformer's reflection needs more frames than half of the kernel (7).
    utterances = [torch.randn(length, 20) for length in (40, 4, 17)]
    assert relative_errors(encoder_of(model), utterances, extra=5) < TOLERANCE
    output = model.train().encode(torch.randn(2, 30, 20), torch.tensor([1.0, 0.5]))
    output.square().sum().backward()
    for name, parameter in model.encoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("encoder_module", ENCODERS)
@every_mixer
def test_encoders(build_asr, spec, encoder_module):
    assert_trains_and_encodes_alone_as_in_a_batch(build_asr(spec, encoder_module))


@pytest.mark.parametrize(
    ("builtin", "encoder_module"),
    [
        ("RelPosMHAXL", "conformer"),
        ("RelPosMHAXL", "branchformer"),
        ("RelPosMHAXL", "transformer"),
        ("RoPEMHA", "conformer"),
        ("RoPEMHA", "transformer"),
    ],
)
@every_mixer
def test_encoders_with_layers_of_speechbrains_own(build_asr, spec, builtin, encoder_module):
    model = build_asr(f"{builtin} + {spec} + {builtin}", encoder_module, num_layers=3)
    assert_trains_and_encodes_alone_as_in_a_batch(model)


def test_all_mixers_in_one_encoder(build_asr):
    model = build_asr(" + ".join(REGISTERED), num_layers=len(REGISTERED))
    assert_trains_and_encodes_alone_as_in_a_batch(model)


def test_the_initialisation_outlives_that_of_the_encoder(build_asr):
    """SpeechBrain draws all matrices of a TransformerASR anew."""
    blocks = [m for m in build_asr("Mamba + PoM").modules() if isinstance(m, MambaBlock)]
    assert len(blocks) == 2
    for block in blocks:
        rows = torch.arange(1.0, 17.0).expand_as(block.A_log)
        torch.testing.assert_close(block.A_log.exp(), rows)
