"""BEST-RQ (arXiv 2202.01855) as pure functions: lengths, masks, targets, health figures."""

from speechbrain_pom.encoder.lengths import (
    duration_to_num_samples,
    num_encoder_frames,
    num_feature_frames,
    num_whole_blocks,
    pad_to_multiple,
    padding_mask,
    relative_lengths,
)
from speechbrain_pom.objectives.bestrq.masks import (
    check_mask_options,
    find_unmaskable,
    predicted_positions,
    sample_masks,
)
from speechbrain_pom.objectives.bestrq.noise import sample_noise
from speechbrain_pom.objectives.bestrq.statistics import CodeStatistics, find_collapse
from speechbrain_pom.objectives.bestrq.targets import (
    apply_noise,
    nearest_codes,
    quantizer_fingerprint,
    stack_frames,
)

__all__ = [
    "CodeStatistics",
    "apply_noise",
    "check_mask_options",
    "duration_to_num_samples",
    "find_collapse",
    "find_unmaskable",
    "nearest_codes",
    "num_encoder_frames",
    "num_feature_frames",
    "num_whole_blocks",
    "pad_to_multiple",
    "padding_mask",
    "predicted_positions",
    "quantizer_fingerprint",
    "relative_lengths",
    "sample_masks",
    "sample_noise",
    "stack_frames",
]
