"""`register_attention`: mixers of others."""

import pytest
import torch

import speechbrain_pom
from speechbrain_pom.attention import mixer_of


class Decay(torch.nn.Module):
    """A mixer of others.

    Only its first line describes it.
    """

    def __init__(self, d_model, rate=0.5, *, nhead, dropout, causal, d_ffn, mode="plain"):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.full((d_model,), rate))
        self.arguments = {
            "d_model": d_model,
            "rate": rate,
            "nhead": nhead,
            "dropout": dropout,
            "causal": causal,
            "d_ffn": d_ffn,
            "mode": mode,
        }

    def forward(self, query, key, value, attn_mask=None, key_padding_mask=None, pos_embs=None):
        return query * self.scale, None


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer", "branchformer"])
def test_a_mixer_of_others_gets_options_and_what_the_layer_knows(
    build_asr, registered, encoder_module
):
    registered("Decay", Decay)
    model = build_asr("PoM + Decay(0.25, mode=fast)", encoder_module, dropout=0.3, causal=True)
    assert mixer_of(model.encoder.layers[1]).arguments == {
        "d_model": 16,
        "rate": 0.25,
        "nhead": 2,
        "dropout": 0.3,
        "causal": encoder_module != "branchformer",  # the Branchformer knows no causality
        "d_ffn": 64 if encoder_module == "branchformer" else 32,
        "mode": "fast",
    }
    assert torch.isfinite(model.encode(torch.randn(2, 20, 20), torch.tensor([1.0, 0.5]))).all()


def test_functions_can_be_factories(build_asr, registered):
    registered("Half", lambda d_model: Decay(d_model, 0.5, nhead=1, dropout=0, causal=0, d_ffn=1))
    assert type(mixer_of(build_asr("Half").encoder.layers[0])) is Decay


def test_types_are_listed_with_their_descriptions(registered):
    registered("Decay", Decay)
    registered("Echo", Decay, "says it again")
    types = speechbrain_pom.attention_types()
    assert list(types) == sorted(types)
    assert types["Decay"] == "A mixer of others."
    assert types["Echo"] == "says it again"
    assert types["PoM"].startswith("Polynomial Mixer")
    assert {"regularMHA", "RelPosMHAXL", "RoPEMHA", "hypermixing"} < set(types)
    types.clear()
    assert speechbrain_pom.attention_types()


def test_collisions_raise(registered):
    registered("Decay", Decay)
    speechbrain_pom.register_attention("Decay", Decay)  # the same again is no collision
    with pytest.raises(ValueError, match="attention type") as error:
        speechbrain_pom.register_attention("Decay", torch.nn.Identity)
    assert str(error.value) == (
        f"attention type 'Decay' is already registered by {Decay!r}: rename yours"
    )
    with pytest.raises(ValueError, match="attention type") as error:
        speechbrain_pom.register_attention("RoPEMHA", Decay)
    assert str(error.value) == (
        "attention type 'RoPEMHA' is already registered by SpeechBrain: rename yours"
    )
    with pytest.raises(ValueError, match=r"'PoM' is already registered by .*PolynomialMixer"):
        speechbrain_pom.register_attention("PoM", Decay)
    speechbrain_pom.unregister_attention("Decay")
    speechbrain_pom.register_attention("Decay", Decay)  # a removed name is free


@pytest.mark.parametrize("name", ["my mixer", "3D", "", None, "a-b"])
def test_names_are_identifiers(name):
    with pytest.raises(ValueError, match="attention type") as error:
        speechbrain_pom.register_attention(name, Decay)
    assert str(error.value) == (f"attention type {name!r}: give a name that is a Python identifier")


def test_removed_types_are_unknown(build_asr):
    speechbrain_pom.register_attention("Decay", Decay)
    build_asr("Decay")
    speechbrain_pom.unregister_attention("Decay")
    with pytest.raises(ValueError, match="unknown type 'Decay'"):
        build_asr("Decay")
    for name in ("Decay", "RoPEMHA"):
        with pytest.raises(ValueError, match="attention type") as error:
            speechbrain_pom.unregister_attention(name)
        assert str(error.value) == (f"attention type {name!r} is not registered, nothing to remove")
