"""Statistics of the features that are updated once per optimizer step, by all its batches together.

SpeechBrain updates the running mean before each batch, so that what a batch is normalised with
depends on which batches other processes have at the same time. Here all batches of a step see the
statistics of the steps before, whatever the number of processes that share them.
"""

from __future__ import annotations

import torch
from torch import nn

from speechbrain_pom.encoder.lengths import padding_mask

STATISTICS = ("count", "glob_mean", "glob_std")
"""What SpeechBrain's `InputNormalization` calls its statistics."""


class StepStatistics:
    """Collects the sums of a step, and merges them into the statistics at its end.

    Arguments
    ---------
    features : torch.nn.Module
        `Features` with global normalisation; its batches are collected from now on.
    """

    def __init__(self, features: nn.Module) -> None:
        self.features = features
        self.reset()
        features.step_statistics = self

    def reset(self) -> None:
        """Forget what was collected."""
        self.sums: torch.Tensor | None = None  # (3, num_mels): frames, sum, sum of squares

    def collect(self, feats: torch.Tensor, num_frames: torch.Tensor, epoch: float) -> None:
        """Add the valid frames of (B, T, num_mels), if statistics are still learnt."""
        if epoch >= self.features.normalize.update_until_epoch:
            return
        valid = ~padding_mask(num_frames, feats.shape[1]).unsqueeze(-1)
        frames = feats.detach().double() * valid
        count = valid.sum().double().expand(feats.shape[-1])
        sums = torch.stack([count, frames.sum((0, 1)), frames.square().sum((0, 1))])
        self.sums = sums if self.sums is None else self.sums + sums

    def merge(self, together: bool = True) -> None:
        """Update the statistics; a collective call if `together` with the other processes."""
        if self.sums is None:
            return
        sums, features = self.sums, self.features
        if together and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums)
        count, mean, std = float(features.count), features.mean.double(), features.std.double()
        total = count + sums[0]
        new_mean = (count * mean + sums[1]) / total
        square = (count * (std.square() + mean.square()) + sums[2]) / total
        variance = (square - new_mean.square()).clamp(min=features.normalize.epsilon)
        merged = (int(total[0]), new_mean.float(), variance.sqrt().float())
        features.take_statistics(dict(zip(STATISTICS, merged, strict=True)))
        self.reset()

    def begin(self, wavs: torch.Tensor, num_samples: torch.Tensor) -> None:
        """First statistics, from a batch that is the same in all processes; they hardly count."""
        self.features.count = 1  # so that the features can be computed
        self.features(wavs, num_samples, epoch=0)
        self.features.count = 0
        self.merge(together=False)
        self.features.count = 1
