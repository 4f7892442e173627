"""Small SpeechBrain models, built by SpeechBrain itself from an attention spec."""

import pytest
import torch
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR

import speechbrain_pom


@pytest.fixture
def build_asr():
    """Factory of `TransformerASR` models in evaluation mode; same settings, same weights."""

    def build(attention_type="PoM", encoder_module="conformer", num_layers=2, **settings):
        torch.manual_seed(0)
        defaults = {
            "tgt_vocab": 10,
            "input_size": 20,
            "d_model": 16,
            "nhead": 2,
            "num_encoder_layers": num_layers,
            "num_decoder_layers": 0,
            "d_ffn": 32,
            "kernel_size": 7,
            "csgu_linear_units": 32,
            "normalize_before": True,
            "causal": False,
            "encoder_module": encoder_module,
            "attention_type": attention_type,
        }
        return TransformerASR(**{**defaults, **settings}).eval()

    return build


@pytest.fixture
def without_plugin():
    """SpeechBrain as it is without the plugin, for the time of a test."""
    speechbrain_pom.unregister()
    yield
    speechbrain_pom.register()


@pytest.fixture
def registered():
    """`register_attention` for the time of a test."""
    names = []

    def register(name, factory, description=None):
        speechbrain_pom.register_attention(name, factory, description)
        names.append(name)

    yield register
    for name in names:
        speechbrain_pom.unregister_attention(name)
