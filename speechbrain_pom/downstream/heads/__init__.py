"""Heads of downstream tasks on the weighted sum of an encoder's layers."""

from speechbrain_pom.downstream.heads.frames import BiLSTMFrames, ContextNetFrames, LinearFrames
from speechbrain_pom.downstream.heads.utterances import (
    BiLSTMMean,
    ECAPAHead,
    EmbeddingHead,
    MeanLinear,
    XVectorHead,
)

__all__ = [
    "BiLSTMFrames",
    "BiLSTMMean",
    "ContextNetFrames",
    "ECAPAHead",
    "EmbeddingHead",
    "LinearFrames",
    "MeanLinear",
    "XVectorHead",
]
