"""Padding is exact: an utterance encodes the same alone and in any padded batch."""

import copy

import pytest
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.attention import convert_attention
from speechbrain_pom.attention.padding import restore_padding, set_padding
from speechbrain_pom.attention.parts import reflected_indices
from speechbrain_pom.utils.errors import UserError

TOLERANCE = 1e-5  # relative, fp32
LEAK = 1e-3
VARIANTS = ("base", "selective", "frequency2", "frequency3")
SPECS = [f"PoM(variant={variant})" for variant in VARIANTS]


class NaivePoM(PolynomialMixer):
    """PoM as published: the mean runs over the padded length, biased projections included."""

    def forward(self, query, key=None, value=None, key_padding_mask=None, **_):
        return super().forward(query)


def build_front_end():
    return ConvolutionFrontEnd((8, 10, 12), 1, 1, [4], [5], [2], residuals=[False])


def random_lengths(seed, shortest=5, longest=70):
    generator = torch.Generator().manual_seed(seed)
    size = int(torch.randint(2, 6, (1,), generator=generator))
    return torch.randint(shortest, longest, (size,), generator=generator).tolist()


def pad(utterances, extra=0):
    """Padded batch (what pads is random, and loud) and mask, True = padding."""
    num_frames = max(len(utterance) for utterance in utterances) + extra
    batch = 30 * torch.randn(len(utterances), num_frames, utterances[0].shape[1])
    padding = torch.ones(batch.shape[:2], dtype=torch.bool)
    for row, utterance in enumerate(utterances):
        batch[row, : len(utterance)] = utterance
        padding[row, : len(utterance)] = False
    return batch, padding


def relative_errors(encode, utterances, extra=0):
    """Largest relative difference between each utterance in the batch and alone."""
    batch, padding = pad(utterances, extra)
    with torch.no_grad():
        batched = encode(batch, padding)
        errors = []
        for row, utterance in enumerate(utterances):
            alone = encode(utterance.unsqueeze(0), None)[0]
            difference = batched[row, : len(utterance)] - alone
            errors.append(float(difference.abs().max() / alone.abs().max()))
    return max(errors)


def with_random_biases(model):
    """Fresh models have zero or small biases, which would hide leaks."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def encoder_of(model, **options):
    """Call TransformerASR.encode with relative lengths, as recipes do."""

    def encode(batch, padding):
        lengths = None if padding is None else (~padding).sum(1) / batch.shape[1]
        return model.encode(batch, lengths, **options)

    return encode


def leak_of(model, seed, width=20, shortest=5, **options):
    utterances = [torch.randn(n, width) for n in random_lengths(seed, shortest)]
    return relative_errors(encoder_of(model, **options), utterances, extra=seed % 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("variant", VARIANTS)
def test_mixer(variant, seed):
    utterances = [torch.randn(n, 12) for n in random_lengths(seed, shortest=1)]
    mixer, naive = PolynomialMixer(12, 3, 2, variant), NaivePoM(12, 3, 2, variant)
    error, naive_error = (
        relative_errors(lambda x, padding, m=m: m(x, key_padding_mask=padding)[0], utterances, 20)
        for m in (mixer, naive)
    )
    assert error < TOLERANCE
    assert naive_error > LEAK  # the same property fails on the published formulation


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spec", SPECS)
def test_conformer(build_asr, spec, seed):
    assert leak_of(with_random_biases(build_asr(spec)), seed, shortest=1) < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spec", SPECS)
def test_transformer(build_asr, spec, seed):
    model = with_random_biases(build_asr(spec, "transformer"))
    assert leak_of(model, seed, shortest=1) < TOLERANCE


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spec", SPECS)
def test_branchformer(build_asr, spec, seed, linear):
    model = with_random_biases(build_asr(spec, "branchformer", use_linear_after_conv=linear))
    # Alone, SpeechBrain's reflection needs more frames than half of the kernel (7).
    assert leak_of(model, seed, shortest=4) < TOLERANCE


@pytest.mark.parametrize("kernels", [[3, 3], [7, 1], [5, 9]])
def test_transformer_with_convolutions_between(kernels):
    torch.manual_seed(0)
    encoder = TransformerEncoder(
        2,
        2,
        32,
        d_model=16,
        attention_type="PoM",
        ffn_type="1dcnn",
        ffn_cnn_kernel_size_list=kernels,
    )
    with_random_biases(encoder).eval()
    for seed in range(3):
        utterances = [torch.randn(n, 16) for n in random_lengths(seed)]
        error = relative_errors(
            lambda x, padding: encoder(x, src_key_padding_mask=padding)[0], utterances
        )
        assert error < TOLERANCE


@pytest.mark.parametrize(("chunk_size", "left"), [(1, None), (4, 0), (8, 2), (100, None)])
def test_conformer_with_chunks(build_asr, chunk_size, left):
    model = with_random_biases(build_asr())
    config = DynChunkTrainConfig(chunk_size, left)
    for seed in range(3):
        assert leak_of(model, seed, shortest=1, dynchunktrain_config=config) < TOLERANCE


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer"])
def test_causal_encoders(build_asr, encoder_module):
    model = with_random_biases(build_asr("PoM", encoder_module, causal=True))
    for seed in range(3):
        assert leak_of(model, seed, shortest=1) < TOLERANCE


@pytest.mark.parametrize(
    ("builtin", "encoder_module"),
    [
        *((name, "conformer") for name in ("regularMHA", "RelPosMHAXL", "RoPEMHA")),
        *((name, "branchformer") for name in ("regularMHA", "RelPosMHAXL")),
    ],
)
def test_mixed_encoders_leak_in_no_layer(build_asr, builtin, encoder_module):
    model = with_random_biases(build_asr(f"{builtin} + PoM", encoder_module))
    for seed in range(3):
        assert leak_of(model, seed, shortest=4) < TOLERANCE


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
def test_the_property_fails_for_speechbrain_alone(build_asr, encoder_module):
    model = with_random_biases(build_asr("regularMHA", encoder_module))
    assert leak_of(model, seed=0) > LEAK


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer", "branchformer"])
def test_the_property_fails_for_the_published_formulation(build_asr, registered, encoder_module):
    registered("NaivePoM", NaivePoM)
    model = with_random_biases(build_asr("NaivePoM", encoder_module))
    assert leak_of(model, seed=0) > LEAK


@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
def test_the_property_fails_when_leaks_are_allowed(build_asr, encoder_module):
    model = with_random_biases(build_asr("PoM", encoder_module))
    for layer in model.encoder.layers:
        restore_padding(layer)
    assert leak_of(model, seed=0) > LEAK


BUILTIN = [
    *((name, "conformer") for name in ("regularMHA", "RelPosMHAXL", "RoPEMHA", "hypermixing")),
    *((name, "branchformer") for name in ("regularMHA", "RelPosMHAXL", "hypermixing")),
    ("RoPEMHA", "transformer"),
]


@pytest.mark.parametrize(("spec", "encoder_module"), [*BUILTIN, ("PoM", "conformer")])
def test_padding_of_any_type_is_exact_on_request(build_asr, spec, encoder_module):
    model, front_end = with_random_biases(build_asr(spec, encoder_module)), build_front_end()
    frames, lengths = torch.randn(2, 41, 20), torch.tensor([1.0, 0.3])
    set_padding("exact", front_end, model)
    for seed in range(2):
        assert leak_of(model, seed, shortest=4) < TOLERANCE
    convert_attention(model, f"{spec} + SummaryMixing")  # it stays so, whatever the spec becomes
    convert_attention(model, "regularMHA")
    assert leak_of(model, seed=0) < TOLERANCE
    model = with_random_biases(build_asr(spec, encoder_module))
    speechbrains = model.encode(frames, lengths)
    set_padding("speechbrain", front_end, model)
    if spec != "PoM":
        assert torch.equal(model.encode(frames, lengths), speechbrains)
    if encoder_module != "transformer":  # which has no convolutions
        assert leak_of(model, seed=0) > LEAK
        convert_attention(model, "SummaryMixing")
        assert leak_of(model, seed=0) > LEAK


def test_other_words_for_padding_are_refused(build_asr):
    for word in ("Exact", None):
        with pytest.raises(UserError, match=f"padding is {word!r}: choose exact, or speechbrain"):
            set_padding(word, build_front_end(), build_asr())


def test_nan_in_padding_reaches_no_valid_frame(build_asr):
    for encoder_module in ("conformer", "transformer", "branchformer"):
        model = build_asr("PoM", encoder_module)
        batch, padding = pad([torch.randn(n, 20) for n in (30, 12)])
        encode = encoder_of(model)
        with torch.no_grad():
            clean = encode(batch, padding)[~padding]
            dirty = encode(batch.masked_fill(padding.unsqueeze(-1), torch.nan), padding)[~padding]
        assert torch.equal(clean, dirty)


def test_copies_are_exact_too(build_asr):
    model = with_random_biases(build_asr())
    twin = copy.deepcopy(model)
    del model
    assert leak_of(twin, seed=1) < TOLERANCE


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("encoder_module", ["conformer", "branchformer"])
def test_no_call_leaves_its_mask_behind(build_asr, encoder_module, fails):
    # Streaming calls the convolution outside of the layer's forward.
    layer = build_asr("PoM", encoder_module).encoder.layers[0]
    branch = "convolution_module" if encoder_module == "conformer" else "convolution_branch"
    convolution = layer.get_submodule(branch)
    frames, padding = torch.randn(2, 9, 16), torch.arange(9) >= torch.tensor([[9], [4]])
    expected = convolution(frames)
    if fails:
        with pytest.raises(ValueError, match="attn_mask"):
            layer(frames, torch.zeros(2, 2), padding)
    else:
        layer(frames, None, padding)
    assert torch.equal(convolution(frames), expected)


@pytest.mark.parametrize("length", [1, 2, 3, 6, 9])
def test_reflected_indices_continue_as_torch_reflects(length):
    reach = length - 1
    found = reflected_indices(torch.tensor([length, 9]), 9 + reach)
    frames = torch.arange(length, dtype=torch.float64).view(1, 1, -1)
    expected = nn.functional.pad(frames, (0, reach), mode="reflect").flatten().long()
    assert torch.equal(found[0, : length + reach], expected)
    assert torch.equal(found[1, :9], torch.arange(9))
    assert found.shape == (2, 9 + reach)


def test_gradients_do_not_reach_padding(build_asr):
    for encoder_module in ("conformer", "transformer", "branchformer"):
        model = with_random_biases(build_asr("PoM", encoder_module))
        batch, padding = pad([torch.randn(n, 20) for n in (30, 12)])
        batch.requires_grad_()
        encoder_of(model)(batch, padding)[~padding].square().sum().backward()
        assert not batch.grad[padding].any()
        assert batch.grad[~padding].any(dim=1).all()
