"""Tiny encoders with random weights."""

import pytest
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.processing.features import InputNormalization

from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.inference.recogniser import SpeechRecogniser


def build_transformer(attention_type, input_size, d_model=16, num_layers=2, **options):
    """A `TransformerASR` that is an encoder alone, normalises before its mixers, and is centred."""
    options = {"d_ffn": 32, "encoder_module": "conformer", **options}
    return TransformerASR(
        tgt_vocab=1,
        input_size=input_size,
        d_model=d_model,
        nhead=2,
        num_encoder_layers=num_layers,
        num_decoder_layers=0,
        attention_type=attention_type,
        normalize_before=True,
        causal=False,
        **options,
    )


def build_encoder(attention_type="PoM", d_model=16, num_layers=2, seed=0, **options):
    """A tiny encoder in eval mode; options: layers, norm_type, kernel_size, encoder_module, ..."""
    torch.manual_seed(seed)
    kernel = options.pop("kernel_size", 3)
    layers = options.pop("layers", "last")
    norm_type = options.pop("norm_type", "global")
    floor = options.pop("feature_floor", "utterance")
    normalize = InputNormalization(norm_type=norm_type)
    front_end = ConvolutionFrontEnd(
        input_shape=[8, 10, 80],
        num_blocks=2,
        num_layers_per_block=1,
        out_channels=[4, 32],
        kernel_sizes=[kernel, kernel],
        strides=[2, 2],
        residuals=[False, False],
    )
    options = {"activation": torch.nn.GELU, **options}
    transformer = build_transformer(attention_type, 640, d_model, num_layers, **options)
    if norm_type == "global":
        normalize(5.0 + 3.0 * torch.randn(2, 50, 80), torch.ones(2), epoch=1)
    features = Fbank(n_mels=80)
    encoder = SpeechEncoder(
        features, normalize, front_end, transformer, layers, feature_floor=floor
    )
    return encoder.eval()


@pytest.fixture
def make_encoder():
    """`build_encoder`: a tiny encoder of any attention type."""
    return build_encoder


@pytest.fixture
def tiny_encoder():
    """PoM, d_model 16, 2 layers, with statistics."""
    return build_encoder()


@pytest.fixture
def tiny_recogniser():
    """The tiny encoder with a linear head on characters."""
    units = CharacterUnits()
    encoder = build_encoder()
    return SpeechRecogniser(encoder, torch.nn.Linear(16, units.size), units).eval()
