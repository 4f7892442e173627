"""The mathematics of the mixers, as functions of tensors: no SpeechBrain, no nn.Module."""

from speechbrain_pom.ops.backends import available_backends, choose_backend
from speechbrain_pom.ops.polynomial import polynomial_mix
from speechbrain_pom.ops.visibility import ChunkMask, parse_attn_mask

__all__ = [
    "ChunkMask",
    "available_backends",
    "choose_backend",
    "parse_attn_mask",
    "polynomial_mix",
]
