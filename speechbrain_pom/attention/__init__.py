"""Attention types for SpeechBrain's encoders: registry, spec parser, patches of SpeechBrain."""

from speechbrain_pom.attention.convert import convert_attention
from speechbrain_pom.attention.patches import mixer_of, register, unregister
from speechbrain_pom.attention.registry import (
    attention_types,
    register_attention,
    unregister_attention,
)
from speechbrain_pom.attention.spec import LayerSpec, parse_spec

__all__ = [
    "LayerSpec",
    "attention_types",
    "convert_attention",
    "mixer_of",
    "parse_spec",
    "register",
    "register_attention",
    "unregister",
    "unregister_attention",
]
