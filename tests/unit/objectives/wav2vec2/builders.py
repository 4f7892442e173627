"""A tiny wav2vec 2.0 on log-mel features, and waveforms for it."""

import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization

from speechbrain_pom.encoder import SpeechEncoder
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.objectives.wav2vec2 import GumbelQuantizer, Wav2Vec2
from tests.helpers.encoders import build_transformer

LENGTHS = torch.tensor([24000, 16000, 9000])
IDS = ["a", "b", "c"]


def build(attention_type="SummaryMixing", dropout=0.0, layerdrop_prob=0.0, num_layers=3, **options):
    """The objective; options are those of `Wav2Vec2`."""
    torch.manual_seed(0)
    options_of_layers = {"d_ffn": 16, "dropout": dropout, "layerdrop_prob": layerdrop_prob}
    transformer = build_transformer(attention_type, 12, 16, num_layers, **options_of_layers)
    encoder = SpeechEncoder(
        Fbank(n_mels=20),
        InputNormalization(norm_type="sentence"),
        ValidConvolutions(20, channels=[12, 12]),
        transformer,
    )
    quantizer = GumbelQuantizer(12, num_codes=8, groups=2, code_size=4, output_size=8)
    return Wav2Vec2(encoder, quantizer, **{"num_negatives": 20, **options})


def signals(rows=(0, 1, 2)):
    """Waveforms (B, samples), their lengths, their ids."""
    generator = torch.Generator().manual_seed(1)
    wavs = 0.1 * torch.randn(3, int(LENGTHS.max()), generator=generator)
    for wav, length in zip(wavs, LENGTHS, strict=True):
        wav[length:] = 0.0
    rows = list(rows)
    lengths = LENGTHS[rows]
    return wavs[rows, : int(lengths.max())], lengths, [IDS[row] for row in rows]
