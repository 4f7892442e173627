"""The mixer as a module: the equations, its checks, state dicts, copies."""

import copy

import pytest
import torch
import torch.nn.functional as F
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

from speechbrain_pom import PolynomialMixer
from speechbrain_pom.nnet import polynomial

VARIANTS = ("base", "selective", "frequency2", "frequency3")


def by_the_equations(mixer, x, lengths):
    """PoM as in paper section 1, utterance by utterance, with nothing shared with the package."""
    d, num_groups = mixer.d_model, {"frequency2": 2, "frequency3": 3}.get(mixer.variant, 1)
    edges = [0, *(i * d // num_groups for i in range(1, num_groups)), d]
    state = mixer.state_dict()
    outputs = []
    for utterance, length in zip(x, lengths, strict=True):
        gated = []
        for g in range(num_groups):
            frames = utterance[:length, edges[g] : edges[g + 1]]
            projected = frames @ state[f"poly_proj.{g}.weight"].T + state[f"poly_proj.{g}.bias"]
            if mixer.variant == "selective":
                features = projected.clamp(min=0) ** mixer.degree
            else:
                n = mixer.expand * frames.shape[1]
                product, orders = 1.0, []
                for i in range(mixer.degree):
                    branch = projected[:, i * n : (i + 1) * n]
                    product = product * (branch * 0.5 * (1 + torch.erf(branch / 2**0.5)))
                    orders.append(product)
                features = torch.cat(orders, dim=1)
            gate = 1 / (
                1
                + torch.exp(
                    -(frames @ state[f"gate_proj.{g}.weight"].T + state[f"gate_proj.{g}.bias"])
                )
            )
            gated.append(gate * (features.sum(0) / length))
        mixed = torch.cat(gated, dim=1) @ state["out_proj.weight"].T + state["out_proj.bias"]
        outputs.append(
            F.layer_norm(mixed, (d,), state["norm.weight"], state["norm.bias"], eps=1e-5)
        )
    return outputs


@pytest.mark.parametrize("degree", [1, 2, 4])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_follows_its_equation_on_valid_frames(variant, degree):
    mixer = PolynomialMixer(11, degree, expand=3, variant=variant).double()
    x, lengths = torch.randn(3, 20, 11, dtype=torch.float64), [20, 1, 13]
    padding = torch.arange(20) >= torch.tensor(lengths).unsqueeze(1)
    output, _ = mixer(x, x, x, key_padding_mask=padding)
    for row, expected in enumerate(by_the_equations(mixer, x, lengths)):
        torch.testing.assert_close(output[row, : lengths[row]], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("variant", "group_widths"),
    [("base", [11]), ("selective", [11]), ("frequency2", [5, 6]), ("frequency3", [3, 4, 4])],
)
def test_sizes_of_the_projections_are_those_of_the_paper(variant, group_widths):
    mixer = PolynomialMixer(11, degree=3, expand=2, variant=variant)
    orders = 1 if variant == "selective" else 3
    shapes = [(orders * 2 * width, width) for width in group_widths]
    assert [tuple(proj.weight.shape) for proj in mixer.poly_proj] == shapes
    assert [tuple(proj.weight.shape) for proj in mixer.gate_proj] == shapes
    assert tuple(mixer.out_proj.weight.shape) == (11, orders * 2 * 11)
    assert mixer.norm.eps == 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_model": 0}, "PoM: d_model is 0: give a whole number of at least 1"),
        ({"degree": 2.0}, "PoM: degree is 2.0: give a whole number of at least 1"),
        ({"degree": True}, "PoM: degree is True: give a whole number of at least 1"),
        ({"expand": "2"}, "PoM: expand is '2': give a whole number of at least 1"),
        (
            {"variant": "bass"},
            "PoM: variant is 'bass': choose one of base, selective, frequency2, frequency3",
        ),
        (
            {"backend": "fast"},
            "PoM: backend is 'fast': choose one of auto, reference, tiled, triton, fused",
        ),
        (
            {"init_gain": -1},
            "PoM: init_gain is -1: give a number of at least 0 (1 as published)",
        ),
        (
            {"init_gain": float("nan")},
            "PoM: init_gain is nan: give a number of at least 0 (1 as published)",
        ),
        (
            {"d_model": 2, "variant": "frequency3"},
            "PoM: d_model is 2: frequency3 needs at least 3",
        ),
    ],
)
def test_bad_options_are_quoted(options, message):
    with pytest.raises(ValueError, match="PoM: ") as error:
        PolynomialMixer(**{"d_model": 8, **options})
    assert str(error.value) == message


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_gain_at_the_start_changes_the_scale_alone(variant):
    """The published start is one option away, with the same matrices."""
    mixers = {}
    for gain in (None, 1, 0):
        torch.manual_seed(3)
        options = {} if gain is None else {"init_gain": gain}
        mixers[gain] = PolynomialMixer(9, variant=variant, **options)
    x = torch.randn(2, 63, 9)
    default, published, silent = (mixers[gain](x)[0] for gain in (None, 1, 0))
    torch.testing.assert_close(default, 0.1 * published)
    assert published.square().mean().sqrt() > 0.9
    assert not silent.any()
    (silent * torch.randn_like(x)).sum().backward()
    assert mixers[0].norm.weight.grad.any()  # it can leave zero


def test_the_gain_at_the_start_stays_in_an_encoder():
    """TransformerASR draws all matrices anew, but no vectors."""
    options = {"tgt_vocab": 1, "input_size": 6, "d_model": 8, "nhead": 2, "num_encoder_layers": 2}
    options |= {"num_decoder_layers": 0, "encoder_module": "conformer", "normalize_before": True}
    model = TransformerASR(**options, attention_type="PoM*1 + PoM(init_gain=1)*1", causal=False)
    gains = [layer.mha_layer.norm.weight.detach() for layer in model.encoder.layers]
    assert [float(gain.unique()) for gain in gains] == pytest.approx([0.1, 1.0])


def test_a_separate_value_is_refused():
    mixer = PolynomialMixer(4)
    x, y = torch.randn(2, 1, 5, 4)
    with pytest.raises(ValueError, match="PoM: value is another tensor than key"):
        mixer(x, x, y)
    mixer(x, y, y)


def test_query_and_key_of_different_lengths():
    mixer = PolynomialMixer(4)
    query, key = torch.randn(2, 3, 4), torch.randn(2, 9, 4)
    output, _ = mixer(query, key, key)
    both, _ = mixer(torch.cat([query, key], 1), key)
    assert output.shape == query.shape
    torch.testing.assert_close(output, both[:, :3])


@pytest.mark.parametrize("variant", VARIANTS)
def test_state_dict_round_trip_keeps_names_and_outputs(variant, tmp_path):
    mixer, other = (PolynomialMixer(7, 3, 1, variant) for _ in range(2))
    x = torch.randn(2, 6, 7)
    assert not torch.equal(mixer(x)[0], other(x)[0])
    torch.save(mixer.state_dict(), tmp_path / "mixer.pt")
    state = torch.load(tmp_path / "mixer.pt", weights_only=True)
    other.load_state_dict(state, strict=True)
    assert list(state) == list(mixer.state_dict())  # loading did not rename the caller's copy
    assert torch.equal(mixer(x)[0], other(x)[0])


def test_double_deepcopy_and_modes():
    mixer = PolynomialMixer(6)
    x = torch.randn(2, 5, 6)
    copied = copy.deepcopy(mixer).double()
    assert mixer.out_proj.weight.dtype == torch.float32
    torch.testing.assert_close(copied(x.double())[0].float(), mixer(x)[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(mixer.eval()(x)[0], mixer.train()(x)[0])  # nothing random inside


def test_the_backend_is_the_functions(monkeypatch):
    chosen = []
    function = polynomial.polynomial_mix

    def note(*args, backend, **kwargs):
        chosen.append(backend)
        return function(*args, backend=backend, **kwargs)

    monkeypatch.setattr(polynomial, "polynomial_mix", note)
    for backend in ("auto", "tiled", "reference"):
        PolynomialMixer(6, backend=backend)(torch.randn(1, 5, 6))
    assert chosen == ["auto", "tiled", "reference"]


def test_options_are_printed():
    text = repr(PolynomialMixer(6, degree=3, expand=1, variant="frequency2"))
    assert "d_model=6, degree=3, expand=1, variant='frequency2'" in text
