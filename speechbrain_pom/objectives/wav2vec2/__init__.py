"""wav2vec 2.0 (arXiv 2006.11477, 2407.13377): the objective, and the functions it is made of."""

from speechbrain_pom.objectives.wav2vec2.batch import MaskVector, find_masked
from speechbrain_pom.objectives.wav2vec2.contrastive import contrast, contrastive_loss
from speechbrain_pom.objectives.wav2vec2.masks import check_mask_options, sample_masks
from speechbrain_pom.objectives.wav2vec2.negatives import sample_negatives
from speechbrain_pom.objectives.wav2vec2.objective import Wav2Vec2
from speechbrain_pom.objectives.wav2vec2.quantizer import (
    GumbelQuantizer,
    diversity_loss,
    perplexities,
    sample_gumbel,
)
from speechbrain_pom.objectives.wav2vec2.statistics import find_collapse, summarise

__all__ = [
    "GumbelQuantizer",
    "MaskVector",
    "Wav2Vec2",
    "check_mask_options",
    "contrast",
    "contrastive_loss",
    "diversity_loss",
    "find_collapse",
    "find_masked",
    "perplexities",
    "sample_gumbel",
    "sample_masks",
    "sample_negatives",
    "summarise",
]
