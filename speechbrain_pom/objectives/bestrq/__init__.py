"""BEST-RQ (arXiv 2202.01855): the objective, and the functions that it is made of."""

from speechbrain_pom.objectives.bestrq.masks import (
    check_mask_options,
    predicted_positions,
    sample_masks,
)
from speechbrain_pom.objectives.bestrq.noise import sample_noise
from speechbrain_pom.objectives.bestrq.objective import BestRQ
from speechbrain_pom.objectives.bestrq.statistics import METRICS, find_collapse, summarise
from speechbrain_pom.objectives.bestrq.targets import (
    apply_noise,
    nearest_codes,
    quantizer_fingerprint,
    stack_frames,
)

__all__ = [
    "METRICS",
    "BestRQ",
    "apply_noise",
    "check_mask_options",
    "find_collapse",
    "nearest_codes",
    "predicted_positions",
    "quantizer_fingerprint",
    "sample_masks",
    "sample_noise",
    "stack_frames",
    "summarise",
]
