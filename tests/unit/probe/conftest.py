"""A tiny encoder with random weights, and corpora of noise."""

import numpy as np
import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain.processing.features import InputNormalization

from speechbrain_pom.encoder.encoder import SpeechEncoder


@pytest.fixture
def encoder():
    """PoM, d_model 16, 2 layers."""
    torch.manual_seed(0)
    front_end = ConvolutionFrontEnd(
        input_shape=[8, 10, 80],
        num_blocks=2,
        num_layers_per_block=1,
        out_channels=[4, 4],
        kernel_sizes=[3, 3],
        strides=[2, 2],
        residuals=[False, False],
    )
    transformer = TransformerASR(
        tgt_vocab=1,
        input_size=80,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        num_decoder_layers=0,
        d_ffn=32,
        encoder_module="conformer",
        attention_type="PoM",
        normalize_before=True,
        causal=False,
    )
    normalize = InputNormalization(norm_type="sentence")
    return SpeechEncoder(Fbank(n_mels=80), normalize, front_end, transformer).eval()


@pytest.fixture
def write_audio():
    """Function of a path and a number of samples: a file of noise at 16 kHz."""

    def write(path, num_samples=4000):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.RandomState(num_samples).uniform(-0.5, 0.5, num_samples)
        soundfile.write(path, noise, 16000)

    return write
