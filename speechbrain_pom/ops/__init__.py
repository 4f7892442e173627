"""The mathematics of the mixers, as functions of tensors: no SpeechBrain, no nn.Module."""

from speechbrain_pom.ops.common.chunks import ChunkMask
from speechbrain_pom.ops.common.masks import parse_attn_mask
from speechbrain_pom.ops.fastformer import fastformer
from speechbrain_pom.ops.polynomial import polynomial_mix
from speechbrain_pom.ops.polynomial.backends import available_backends, choose_backend
from speechbrain_pom.ops.selective_scan import choose_scan_backend, selective_scan
from speechbrain_pom.ops.summary_mixing import summary_mixing

__all__ = [
    "ChunkMask",
    "available_backends",
    "choose_backend",
    "choose_scan_backend",
    "fastformer",
    "parse_attn_mask",
    "polynomial_mix",
    "selective_scan",
    "summary_mixing",
]
