"""The changes of PoM in the study: each is what it says, and without them it is PoM."""

import pytest
import torch
from torch.nn.functional import layer_norm

import speechbrain_pom
from experiments.replica.variants import StudyPoM, register
from speechbrain_pom.nnet import PolynomialMixer
from speechbrain_pom.ops.polynomial.reference import polynomial_mix
from tests.helpers.encoders import build_transformer

FRAMES = torch.randn(2, 63, 8, generator=torch.Generator().manual_seed(0))
PADDING = torch.arange(63) >= torch.tensor([[63], [40]])


@pytest.fixture
def pom():
    torch.manual_seed(1)
    return PolynomialMixer(8, init_gain=0.1)


def study_pom(pom, **options):
    mixer = StudyPoM(8, **options)
    weights = {k: v for k, v in pom.state_dict().items() if not k.startswith("norm")}
    mixer.load_state_dict(weights, strict=False)
    return mixer


def mix(mixer):
    output, _ = mixer(FRAMES, key_padding_mask=PADDING)
    return output.masked_fill(PADDING.unsqueeze(-1), 0)


def features_of(pom, scale):
    """The gated features, by the slow reference."""
    poly = [(scale * layer.weight, layer.bias) for layer in pom.poly_proj]
    gate = [(layer.weight, layer.bias) for layer in pom.gate_proj]
    size = pom.summary_size
    return polynomial_mix(
        FRAMES, poly, gate, torch.eye(size), torch.zeros(size), degree=2, key_padding_mask=PADDING
    )


def test_without_changes_it_is_pom(pom):
    mixer = study_pom(pom)
    assert torch.equal(mix(mixer), mix(pom))
    mix(mixer).square().sum().backward()
    mix(pom).square().sum().backward()
    gradients = [weight.grad for weight in mixer.parameters()]
    expected = [weight.grad for weight in pom.parameters()]
    torch.testing.assert_close(gradients, expected)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("norm", ["output", "features", "none"])
def test_scale_and_place_of_the_norm(pom, scale, norm):
    found = mix(study_pom(pom, product_scale=scale, norm=norm))
    features = features_of(pom, scale)
    if norm == "features":
        expected = pom.out_proj(0.1 * layer_norm(features, features.shape[-1:]))
    else:
        expected = pom.out_proj(features)
    if norm == "output":
        expected = 0.1 * layer_norm(expected, expected.shape[-1:])
    torch.testing.assert_close(found, expected.masked_fill(PADDING.unsqueeze(-1), 0))


def test_a_place_that_does_not_exist():
    with pytest.raises(ValueError, match="norm is 'input': choose one of output, features, none"):
        StudyPoM(8, norm="input")


@pytest.mark.parametrize("own_start", [False, True])
def test_initialisation_in_an_encoder(own_start):
    register()
    try:
        encoder = build_transformer(f"StudyPoM(own_start={own_start})", 8, 32, num_layers=1)
    finally:
        speechbrain_pom.unregister_attention("StudyPoM")
    weight = encoder.encoder.layers[0].mha_layer.poly_proj[0].weight
    # nn.Linear draws from a uniform distribution that ends at 1 / sqrt(inputs), Xavier's normal
    # one does not end.
    assert bool(weight.abs().max() <= 32**-0.5) == own_start
