"""A converted model is the one that its constructor would have built with the new spec."""

import copy
import itertools

import pytest
import torch
from speechbrain.lobes.models.transformer.Branchformer import BranchformerEncoder
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
from speechbrain.lobes.models.transformer.TransformerASR import EncoderWrapper
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM
from speechbrain.lobes.models.transformer.TransformerST import TransformerST
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

import speechbrain_pom
from speechbrain_pom.attention import mixer_of
from speechbrain_pom.attention.convert import convert_attention
from speechbrain_pom.attention.padding import isolate_padding
from speechbrain_pom.utils.errors import UserError

# SpeechBrain's decoder mixes boolean and additive masks
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

ENCODER_MODULES = ("conformer", "transformer", "branchformer")
SPECS = (
    "regularMHA",
    "RelPosMHAXL",
    "hypermixing",
    "RoPEMHA",
    "PoM(degree=3)",
    "SummaryMixing + Fastformer",
    "RelPosMHAXL + PoM",
    "regularMHA + Mamba",
    "hypermixing + PoM",
    "RoPEMHA + RelPosMHAXL",
)
CHUNKS = DynChunkTrainConfig(4, 1)
LENGTHS = torch.tensor([1.0, 0.6])


def possible(spec, encoder_module):
    return encoder_module != "branchformer" or "RoPEMHA" not in spec


PAIRS = [
    (encoder_module, before, after)
    for encoder_module in ENCODER_MODULES
    for before, after in itertools.permutations(SPECS, 2)
    if possible(before, encoder_module) and possible(after, encoder_module)
]


def hooks(model):
    return {
        name: (len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in model.named_modules()
    }


def mixers_of(model):
    return torch.nn.ModuleList(mixer_of(layer) for layer in model.encoder.layers)


def result(call):
    """What a call gives: a tensor, or the text of the error."""
    try:
        with torch.no_grad():
            return call()
    except (ValueError, RuntimeError, AssertionError, UnboundLocalError) as error:
        return repr(error)


def stream(model, frames):
    context = model.make_streaming_context(CHUNKS)
    return torch.cat([model.encode_streaming(c, context) for c in frames.split(4, dim=1)], dim=1)


def assert_same(first, second):
    if isinstance(first, str) or isinstance(second, str):
        assert first == second
    else:  # SpeechBrain's attention gives NaN for frames that see nothing
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)


def assert_is_like_built(model, built):
    """`model` behaves as `built` does with the same weights."""
    assert sorted(model.state_dict()) == sorted(built.state_dict())
    names = [[name for name, _ in each.named_parameters()] for each in (model, built)]
    assert names[0] == names[1]  # optimizers count parameters
    built.load_state_dict(model.state_dict(), strict=True)
    assert hooks(model) == hooks(built)
    for name in ("attention_type", "positional_encoding_type"):
        assert getattr(model, name) == getattr(built, name)
    attribute = [getattr(each.encoder, "attention_type", None) for each in (model, built)]
    assert attribute[0] == attribute[1]
    frames = torch.randn(2, 23, 20)
    assert_same(
        result(lambda: model.encode(frames, LENGTHS)), result(lambda: built.encode(frames, LENGTHS))
    )
    if not isinstance(model.encoder, ConformerEncoder):
        return
    for call in (
        lambda each: each.encode(frames, LENGTHS, dynchunktrain_config=CHUNKS),
        lambda each: stream(each, frames),
    ):
        assert_same(*(result(lambda call=call, each=each: call(each)) for each in (model, built)))


@pytest.mark.parametrize(("encoder_module", "before", "after"), PAIRS)
def test_a_converted_model_is_the_one_that_would_be_built(build_asr, encoder_module, before, after):
    model = build_asr(before, encoder_module)
    convert_attention(model, after)
    assert_is_like_built(model, build_asr(after, encoder_module))


@pytest.mark.parametrize("settings", [{"positional_encoding": None}, {"causal": True}])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("regularMHA", "PoM"),
        ("RelPosMHAXL", "RelPosMHAXL + PoM"),
        ("PoM", "RelPosMHAXL"),
        ("PoM", "hypermixing + PoM"),
        ("RoPEMHA + PoM", "RoPEMHA + RelPosMHAXL"),
    ],
)
def test_settings_of_the_model_are_kept(build_asr, before, after, settings):
    model = build_asr(before, **settings)
    convert_attention(model, after)
    assert_is_like_built(model, build_asr(after, **settings))


@pytest.mark.parametrize(
    ("before", "after"),
    [("RelPosMHAXL", "PoM"), ("PoM", "RoPEMHA"), ("regularMHA", "RelPosMHAXL + RoPEMHA")],
)
def test_models_with_a_decoder(build_asr, before, after):
    model = build_asr(before, num_decoder_layers=1)
    convert_attention(model, after)
    built = build_asr(after, num_decoder_layers=1)
    assert_is_like_built(model, built)
    frames, tokens = torch.randn(2, 23, 20), torch.randint(1, 10, (2, 5))
    results = []
    with torch.no_grad():
        for each in (model, built):
            encoded, decoded = each(frames, tokens, LENGTHS)
            results.append((encoded, decoded, each.decode(tokens, encoded)[0]))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
def test_there_and_back(build_asr, encoder_module):
    model = build_asr("regularMHA", encoder_module)
    for spec in ("PoM", "RelPosMHAXL + PoM", "PoM + hypermixing", "RelPosMHAXL*2", "regularMHA"):
        convert_attention(model, spec)
        assert_is_like_built(model, build_asr(spec, encoder_module))


def test_layers_that_stay_keep_their_objects_and_their_numbers(build_asr):
    model = build_asr("regularMHA", num_layers=3, output_hidden_states=True)
    before = dict(model.named_parameters())
    frames = torch.randn(2, 23, 20)
    with torch.no_grad():
        _, states = model.encode(frames)
        assert convert_attention(model, "regularMHA*2 + PoM") == [2]
        _, converted = model.encode(frames)
    assert all(map(torch.equal, states[:3], converted[:3]))
    assert not torch.equal(states[3], converted[3])
    after = dict(model.named_parameters())
    kept = {name for name in before if not name.startswith("encoder.layers.2.mha_layer")}
    assert kept == {name for name, parameter in before.items() if after.get(name) is parameter}


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("PoM", "PoM(degree=2)", []),
        ("PoM(3, 2)", "PoM(expand=2, degree=3)", []),
        ("PoM", "PoM(2)*1 + PoM(3)*1", [1]),
        ("PoM + regularMHA", "regularMHA + PoM", [0, 1]),
        ("regularMHA", "regularMHA*2", []),
    ],
)
def test_what_counts_as_the_same_mixer(build_asr, before, after, changed):
    model = build_asr(before)
    mixers = [mixer_of(layer) for layer in model.encoder.layers]
    assert convert_attention(model, after) == changed
    kept = [mixer_of(model.encoder.layers[index]) is mixers[index] for index in range(2)]
    assert kept == [index not in changed for index in range(2)]


@pytest.mark.parametrize("encoder_module", ENCODER_MODULES)
def test_training_goes_on(build_asr, encoder_module):
    model = build_asr("regularMHA", encoder_module).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    old = set(model.parameters())
    frames = torch.randn(2, 23, 20)
    model.encode(frames, LENGTHS).square().mean().backward()
    optimizer.step()
    convert_attention(model, "regularMHA + PoM")
    new = [parameter for parameter in model.parameters() if parameter not in old]
    optimizer.add_param_group({"params": new})
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.zero_grad()
    model.encode(frames, LENGTHS).sum(-1).square().mean().backward()
    optimizer.step()
    for (name, parameter), value in zip(model.named_parameters(), before, strict=True):
        assert parameter.grad is not None, name
        assert not torch.equal(parameter, value), name


def test_new_mixers_are_as_their_layer(build_asr):
    model = build_asr("regularMHA").double().train()
    model.encoder.layers[1].eval()
    model.requires_grad_(False)
    convert_attention(model, "PoM + SummaryMixing")
    mixers = [mixer_of(layer) for layer in model.encoder.layers]
    assert [mixer.training for mixer in mixers] == [True, False]
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float64}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if "mha_layer" in name}
    assert model.encode(torch.randn(2, 23, 20).double()).dtype == torch.float64


def test_new_mixers_are_initialised_as_the_constructor_does(build_asr):
    built = mixers_of(build_asr("PoM + Mamba", d_model=64))
    weights = []
    for _ in range(2):
        model = build_asr("regularMHA", d_model=64)
        torch.manual_seed(3)
        convert_attention(model, "PoM + Mamba")
        weights.append(mixers_of(model).state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name, weight in built.state_dict().items():
        if name.endswith("A_log"):  # of a mixer that keeps its own initialisation
            assert torch.equal(weights[0][name], weight)
        elif weight.dim() > 1 and weight.numel() > 1000:
            # Xavier's deviation, not that of PyTorch's layers.
            ratio = float(weights[0][name].std() / weight.std())
            assert ratio == pytest.approx(1, abs=0.1), name


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("PoMM", "attention_type 'PoMM': unknown type 'PoMM' at column 1"),
        ("PoM*3", "its counts add up to 3 = 3 layers, the encoder has 2"),
        ("PoM + PoM(degree=0)", "PoM: degree is 0: give a whole number of at least 1"),
        ("PoM + RoPEMHA", "is not available in SpeechBrain's BranchformerEncoderLayer"),
        (None, "attention_type None: not a spec"),
    ],
)
def test_a_refused_spec_changes_nothing(build_asr, spec, message):
    model = build_asr("RelPosMHAXL + regularMHA", "branchformer")
    parameters, before = list(model.parameters()), hooks(model)
    with pytest.raises(ValueError, match=r"attention_type|degree") as error:
        convert_attention(model, spec)
    assert message in str(error.value)
    assert all(old is new for old, new in zip(parameters, model.parameters(), strict=True))
    assert hooks(model) == before
    assert_is_like_built(model, build_asr("RelPosMHAXL + regularMHA", "branchformer"))


@pytest.mark.parametrize(
    "make",
    [
        lambda spec: ConformerEncoder(2, 16, 32, 2, kernel_size=5, attention_type=spec),
        lambda spec: TransformerEncoder(2, 2, 32, d_model=16, attention_type=spec),
        lambda spec: BranchformerEncoder(2, 16, 2, 5, csgu_linear_units=32, attention_type=spec),
    ],
    ids=ENCODER_MODULES,
)
@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL + PoM", "regularMHA"])
def test_encoders_by_themselves(make, spec):
    encoder, built = make("RelPosMHAXL").eval(), make(spec).eval()
    convert_attention(encoder, spec)
    built.load_state_dict(encoder.state_dict(), strict=True)
    assert hooks(encoder) == hooks(built)
    frames, padding = torch.randn(2, 20, 16), torch.arange(20) >= torch.tensor([[20], [9]])
    with torch.no_grad():
        outputs = [each(frames, src_key_padding_mask=padding)[0] for each in (encoder, built)]
    assert torch.equal(*outputs)


def test_models_inside_of_others(build_asr):
    parts = {"encoder": EncoderWrapper(build_asr()), "head": torch.nn.Linear(2, 2)}
    model = torch.nn.ModuleDict(parts)
    assert convert_attention(model, "PoM + RelPosMHAXL") == [1]
    assert_is_like_built(model["encoder"].transformer, build_asr("PoM + RelPosMHAXL"))


def test_siblings_language_model():
    settings = {"d_model": 16, "nhead": 2, "num_encoder_layers": 2, "d_ffn": 32, "causal": True}
    model = TransformerLM(30, **settings).eval()
    assert convert_attention(model, "regularMHA + PoM(3)") == [1]
    built = TransformerLM(30, attention_type="regularMHA + PoM(3)", **settings).eval()
    built.load_state_dict(model.state_dict(), strict=True)
    tokens = torch.randint(1, 30, (2, 12))
    assert torch.equal(model(tokens), built(tokens))


def test_modules_that_cannot_be_converted(build_asr):
    two = torch.nn.ModuleDict({"one": build_asr(), "two": build_asr()})
    advice = (
        "pass a module that holds exactly one Conformer, Transformer or Branchformer encoder of "
        "SpeechBrain"
    )
    for model, text in (
        (torch.nn.Linear(2, 2), f"the Linear holds no encoder: {advice}"),
        (two, f"the ModuleDict holds 2 encoders (one.encoder, two.encoder): {advice}"),
        (
            two["one"].encoder,
            "the ConformerEncoder is a part of a model whose positions depend on the spec: pass "
            "the TransformerASR that holds it, or what holds that",
        ),
    ):
        with pytest.raises(UserError) as error:
            convert_attention(model, "PoM")
        assert str(error.value) == text


def test_two_encoders_with_the_same_positions_are_refused():
    model = TransformerST(
        10, 20, 16, 2, 1, 1, 32, causal=False, mt_weight=0.5, mt_src_vocab=10, asr_weight=0.0
    )
    with pytest.raises(UserError, match=r"holds 2 encoders \(encoder, mt_encoder\)"):
        convert_attention(model, "PoM")


def test_models_older_than_the_plugin(build_asr, without_plugin):
    model = build_asr("regularMHA")
    with pytest.raises(UserError, match="built before speechbrain_pom was imported") as error:
        convert_attention(model, "PoM")
    assert str(error.value).endswith("import speechbrain_pom first, and build it again")


def test_a_conversion_registers_the_types(build_asr, without_plugin):
    speechbrain_pom.register()
    model = build_asr("regularMHA")
    speechbrain_pom.unregister()
    assert convert_attention(model, "PoM") == [0, 1]
    assert_is_like_built(model, build_asr("PoM"))


def test_padding_stays_exact_where_a_caller_asked_for_it(build_asr):
    asked, not_asked = build_asr("PoM"), build_asr("PoM")
    for layer in asked.encoder.layers:
        isolate_padding(layer)
    frames = 30 * torch.randn(2, 23, 20)
    errors = []
    for model in (asked, not_asked):
        convert_attention(model, "regularMHA")
        with torch.no_grad():
            alone = model.encode(frames[1:, :14])
            batched = model.encode(frames, torch.tensor([1.0, 14 / 23]))[1:, :14]
        errors.append(float((batched - alone).abs().max() / alone.abs().max()))
    assert errors[0] < 1e-5
    assert errors[1] > 1e-3  # SpeechBrain's own


def test_a_table_of_positions_that_was_extended_stays_so(build_asr):
    model = build_asr("PoM", max_length=10)
    convert_attention(model, "regularMHA")
    assert model.encode(torch.randn(1, 25, 20)).shape == (1, 25, 16)
    built = build_asr("regularMHA", max_length=10)
    with pytest.raises(RuntimeError, match="must match the size"):
        built.encode(torch.randn(1, 25, 20))


def test_copies_are_converted_by_themselves(build_asr):
    model = build_asr("RelPosMHAXL + hypermixing")
    twin = copy.deepcopy(model)
    convert_attention(twin, "regularMHA")
    assert_is_like_built(twin, build_asr("regularMHA"))
    assert_is_like_built(model, build_asr("RelPosMHAXL + hypermixing"))
