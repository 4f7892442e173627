"""Attention types through SpeechBrain's own classes, from one string."""

import copy

import pytest
import speechbrain
import torch
from speechbrain.lobes.models.transformer.Branchformer import (
    BranchformerEncoder,
    BranchformerEncoderLayer,
)
from speechbrain.lobes.models.transformer.Conformer import (
    ConformerDecoderLayer,
    ConformerEncoder,
    ConformerEncoderLayer,
)
from speechbrain.lobes.models.transformer.Transformer import (
    TransformerDecoder,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from speechbrain.lobes.models.transformer.TransformerST import TransformerST
from speechbrain.nnet.attention import MultiheadAttention, RelPosMHAXL, RoPEMHA
from speechbrain.nnet.hypermixing import HyperMixing
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.attention import mixer_of

# SpeechBrain's decoder mixes boolean and additive masks
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

ENCODER_MODULES = ("conformer", "transformer", "branchformer")
CLASSES = {
    "PoM": PolynomialMixer,
    "regularMHA": MultiheadAttention,
    "RelPosMHAXL": RelPosMHAXL,
    "RoPEMHA": RoPEMHA,
    "hypermixing": HyperMixing,
}


def mixers(encoder):
    return [mixer_of(layer) for layer in encoder.layers]


def trains(model, output):
    """Every parameter gets a finite gradient, and not only zeros."""
    output.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
def test_names_and_options(build_asr, encoder_module):
    encoder = build_asr("PoM(3, 1, variant=frequency2)", encoder_module).encoder
    for mixer in mixers(encoder):
        assert type(mixer) is PolynomialMixer
        assert (mixer.d_model, mixer.degree, mixer.expand) == (16, 3, 1)
        assert mixer.variant == "frequency2"
    assert mixers(encoder)[0] is not mixers(encoder)[1]


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
def test_sums_give_each_layer_its_mixer(build_asr, encoder_module):
    spec = "RelPosMHAXL*2 + PoM(degree=3) + regularMHA + PoM*2"
    encoder = build_asr(spec, encoder_module, num_layers=6).encoder
    expected = ["RelPosMHAXL"] * 2 + ["PoM", "regularMHA", "PoM", "PoM"]
    assert [type(mixer) for mixer in mixers(encoder)] == [CLASSES[name] for name in expected]
    assert [mixers(encoder)[i].degree for i in (2, 4, 5)] == [3, 2, 2]


@pytest.mark.parametrize("positional_encoding", ["fixed_abs_sine", None])
@pytest.mark.parametrize("num_decoder_layers", [0, 1])
@pytest.mark.parametrize(
    "spec",
    [
        "PoM",
        "PoM + RelPosMHAXL",
        "RelPosMHAXL*1 + PoM(3)*1",
        "regularMHA + PoM",
        "RoPEMHA + PoM",
        "hypermixing + PoM",
        "RelPosMHAXL*1 + regularMHA*1",
        "RelPosMHAXL*1 + RoPEMHA*1",
        "hypermixing + RoPEMHA",
    ],
)
def test_every_mix_runs_and_trains(build_asr, spec, num_decoder_layers, positional_encoding):
    model = build_asr(
        spec, num_decoder_layers=num_decoder_layers, positional_encoding=positional_encoding
    ).train()
    names = [part.split("*")[0].split("(")[0].strip() for part in spec.split("+")]
    names = names * 2 if len(names) == 1 else names
    assert [type(mixer) for mixer in mixers(model.encoder)] == [CLASSES[name] for name in names]
    frames, lengths = torch.randn(2, 30, 20), torch.tensor([1.0, 0.6])
    tokens = torch.randint(1, 10, (2, 5))
    if num_decoder_layers:
        encoded, decoded = model(frames, tokens, lengths)
        assert decoded.shape == (2, 5, 16)
        trains(model, torch.cat([encoded, decoded], dim=1) * torch.randn(16))
        prediction, _ = model.eval().decode(tokens, encoded, torch.tensor([30, 18]))
        assert torch.isfinite(prediction).all()
    else:
        output = model.encode(frames, lengths)
        assert output.shape == (2, 30, 16)
        trains(model, output * torch.randn(16))


@pytest.mark.parametrize("spec", ["RelPosMHAXL + PoM", "RoPEMHA + PoM", "RelPosMHAXL + RoPEMHA"])
def test_mixes_with_chunks_and_padding(build_asr, spec):
    model = build_asr(spec)
    config = DynChunkTrainConfig(4, 1)
    frames = torch.randn(2, 30, 20)
    with torch.no_grad():
        output = model.encode(frames, torch.tensor([1.0, 0.6]), dynchunktrain_config=config)
        alone = model.encode(frames[1:, :18], dynchunktrain_config=config)
    torch.testing.assert_close(output[1:, :18], alone, rtol=1e-4, atol=1e-5)


def test_siblings_language_model():
    model = TransformerLM(
        30,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        d_ffn=32,
        attention_type="PoM(3)",
        normalize_before=True,
        causal=True,
    ).eval()
    assert [type(mixer) for mixer in mixers(model.encoder)] == [PolynomialMixer] * 2
    tokens = torch.randint(1, 30, (2, 12))
    changed = tokens.clone()
    changed[:, 7:] = 1
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])
    trains(model, before)


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer"])
def test_siblings_speech_translation(encoder_module):
    model = TransformerST(
        10,
        20,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        num_decoder_layers=1,
        d_ffn=32,
        encoder_module=encoder_module,
        normalize_before=True,
        attention_type="PoM + regularMHA",
        causal=False,
        mt_weight=0.5,
        mt_src_vocab=10,
        asr_weight=0.3,
        asr_tgt_vocab=10,
    )
    for encoder in (model.encoder, model.mt_encoder):
        assert [type(m) for m in mixers(encoder)] == [PolynomialMixer, MultiheadAttention]
    tokens = torch.randint(1, 10, (2, 5))
    encoded, decoded = model(torch.randn(2, 12, 20), tokens, torch.tensor([1.0, 0.5]))
    assert encoded.shape == (2, 12, 16)
    assert decoded.shape == (2, 5, 16)
    assert model.forward_mt(tokens, tokens)[1].shape == (2, 5, 16)


def test_encoder_wrapper(build_asr):
    wrapper = EncoderWrapper(build_asr())
    frames, lengths = torch.randn(2, 12, 20), torch.tensor([1.0, 0.5])
    assert torch.equal(wrapper(frames, lengths), wrapper.transformer.encode(frames, lengths))


@pytest.mark.parametrize(
    "encoder",
    [
        lambda spec: ConformerEncoder(3, 16, 32, 2, kernel_size=5, attention_type=spec),
        lambda spec: TransformerEncoder(3, 2, 32, d_model=16, attention_type=spec),
        lambda spec: BranchformerEncoder(
            3, 16, 2, kernel_size=5, csgu_linear_units=32, attention_type=spec
        ),
    ],
    ids=ENCODER_MODULES,
)
def test_encoders_used_directly(encoder):
    for spec, expected in {
        "PoM": ["PoM"] * 3,
        "RelPosMHAXL + PoM(1)*2": ["RelPosMHAXL", "PoM", "PoM"],
        "regularMHA*3": ["regularMHA"] * 3,
    }.items():
        model = encoder(spec)
        assert [type(mixer) for mixer in mixers(model)] == [CLASSES[name] for name in expected]
        padding = torch.arange(20) >= torch.tensor([[20], [9]])
        output, weights = model(torch.randn(2, 20, 16), src_key_padding_mask=padding)[:2]
        assert torch.isfinite(output).all()
        assert len(weights) == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda spec: ConformerEncoderLayer(16, 32, 2, attention_type=spec),
        lambda spec: TransformerEncoderLayer(32, 2, 16, attention_type=spec),
        lambda spec: BranchformerEncoderLayer(16, 2, csgu_linear_units=32, attention_type=spec),
    ],
    ids=ENCODER_MODULES,
)
def test_layers_used_directly(make):
    layer = make("PoM(degree=4)")
    assert mixer_of(layer).degree == 4
    output, weights = layer(torch.randn(2, 20, 16))
    assert output.shape == (2, 20, 16)
    assert weights is None
    assert type(mixer_of(make("regularMHA"))) is MultiheadAttention
    with pytest.raises(ValueError, match="counts add up to 1 \\+ 1 = 2 layers"):
        make("PoM + PoM")
    with pytest.raises(ValueError, match="unknown type 'Pom' at column 1 \\(closest: PoM\\)"):
        make("Pom")


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
@pytest.mark.parametrize("spec", ["nope", "PoM + nope", "PoM*3", "PoM(4, 2, 1, 0, 0, 0, 0)", None])
def test_bad_specs_raise_through_the_interface(build_asr, encoder_module, spec):
    with pytest.raises(ValueError, match="attention_type"):
        build_asr(spec, encoder_module)
    build_asr("regularMHA + PoM", encoder_module)  # a refused one leaves nothing behind


def test_options_are_checked_by_the_mixer(build_asr):
    with pytest.raises(ValueError, match="PoM: degree is 0: give a whole number of at least 1"):
        build_asr("PoM(degree=0)")
    assert type(mixer_of(ConformerEncoder(1, 16, 32, 2).layers[0])) is RelPosMHAXL


@pytest.mark.parametrize("spec", ["RoPEMHA", "RoPEMHA + PoM", "PoM + RoPEMHA"])
def test_the_branchformer_has_no_rotary_positions(build_asr, spec):
    with pytest.raises(ValueError, match="attention_type") as error:
        build_asr(spec, "branchformer")
    assert str(error.value) == (
        "attention_type 'RoPEMHA' is not available in SpeechBrain's BranchformerEncoderLayer: it "
        "would be built without a mixer; choose another type"
    )


@pytest.mark.parametrize("spec", ["PoM", "RoPEMHA", "nope", "regularMHA*2"])
@pytest.mark.parametrize(
    "make",
    [
        lambda spec: TransformerDecoder(1, 2, 32, 16, attention_type=spec),
        lambda spec: ConformerDecoderLayer(16, 32, 2, 3, attention_type=spec),
    ],
    ids=["transformer", "conformer"],
)
def test_decoders_take_no_specs(make, spec):
    with pytest.raises(ValueError, match="attention_type") as error:
        make(spec)
    assert str(error.value) == (
        f"attention_type {spec!r} in a decoder: SpeechBrain's decoders have regularMHA or "
        "RelPosMHAXL; the attention spec is for encoders"
    )


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
def test_copies_state_dicts_and_double(build_asr, encoder_module):
    model = build_asr("PoM", encoder_module)
    twin = copy.deepcopy(model)
    other = build_asr("PoM", encoder_module)
    for parameter in other.parameters():
        parameter.data.zero_()
    other.load_state_dict(model.state_dict(), strict=True)
    frames, lengths = torch.randn(2, 30, 20), torch.tensor([1.0, 0.5])
    with torch.no_grad():
        expected = model.encode(frames, lengths)
        assert torch.equal(twin.encode(frames, lengths), expected)
        assert torch.equal(other.encode(frames, lengths), expected)
        doubled = twin.double().encode(frames.double(), lengths)
    torch.testing.assert_close(doubled.float(), expected, rtol=1e-4, atol=1e-5)


def test_models_nest_and_state_dicts_keep_the_names_of_speechbrain(build_asr):
    model = torch.nn.ModuleDict({"Transformer": build_asr("PoM")})
    ours = {name.removeprefix("Transformer.") for name in model.state_dict()}
    theirs = set(build_asr("regularMHA").state_dict())
    assert {name for name in ours if "mha_layer" not in name} == {
        name for name in theirs if "mha_layer" not in name
    }
    assert "encoder.layers.1.mha_layer.poly_proj.0.weight" in ours


def test_layers_can_be_dropped_and_hidden_states_returned(build_asr):
    model = build_asr("RelPosMHAXL + PoM", layerdrop_prob=0.5, output_hidden_states=True).train()
    for _ in range(5):
        output, hidden = model.encode(torch.randn(2, 9, 20), torch.tensor([1.0, 0.5]))
        assert output.shape == (2, 9, 16)
    assert len(model.eval().encode(torch.randn(1, 9, 20))[1]) == 3
    assert hidden[0].shape == (2, 9, 16)


@pytest.mark.parametrize(
    ("asked", "built", "refused"),
    [
        ("PoM(degree=3)", "RelPosMHAXL", True),
        ("RelPosMHAXL*4 + PoM*8", "regularMHA", True),
        ("PoM(degree=3)", "PoM", False),  # from a key of its own
        ("PoM", "regularMHA + PoM", False),
        ("RoPEMHA", "RelPosMHAXL", False),
        (None, "RelPosMHAXL", False),
        (3, "RelPosMHAXL", False),
    ],
)
def test_brains_refuse_a_type_that_was_asked_for_and_never_built(asked, built, refused, build_asr):
    arguments = {"modules": {"model": build_asr(built)}, "hparams": {"attention_type": asked}}
    if not refused:
        assert speechbrain.Brain(**arguments).modules.model is arguments["modules"]["model"]
        return
    message = r"is in the hparams file, but none of its encoders \(model\.encoder\) was built"
    with pytest.raises(ValueError, match=message):
        speechbrain.Brain(**arguments)


def test_brains_without_modules_or_hparams(build_asr):
    speechbrain.Brain()
    speechbrain.Brain({"model": build_asr("regularMHA")})
    speechbrain.Brain({"head": torch.nn.Linear(1, 1)}, hparams={"attention_type": "PoM"})
