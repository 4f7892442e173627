"""SpeechBrain's convolutional heads with each utterance as if alone, whatever its batch.

Their convolutions reflect the end of the batch and not that of the utterance, batch normalisation
counts padding, `AdaptivePool` averages it, and `StatisticsPooling` adds noise. `isolate` replaces
these four inside of a head; parameters and their names stay. `tests/unit/downstream` compares with
SpeechBrain's own where nothing is padded, so that a change there shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from speechbrain.nnet.CNN import Conv1d
from speechbrain.nnet.pooling import AdaptivePool, StatisticsPooling
from torch import nn

from speechbrain_pom.attention.parts import reflected_indices
from speechbrain_pom.encoder.lengths import padding_mask

_SMALLEST_VARIANCE = 1e-10


class Lengths:
    """The valid frames (B,) of the utterances in the call that a head is in, or None."""

    def __init__(self) -> None:
        self.num_frames: torch.Tensor | None = None

    @contextmanager
    def within(self, num_frames: torch.Tensor) -> Iterator[None]:
        """Set them for one call."""
        self.num_frames = num_frames
        try:
            yield
        finally:
            self.num_frames = None


def isolate(head: nn.Module) -> Lengths:
    """Make the parts of a head read its lengths, which are returned, in place.

    Arguments
    ---------
    head : torch.nn.Module
        Of SpeechBrain's `same` convolutions with stride 1, batch normalisation and pooling.

    Returns
    -------
    Lengths
        Set them by `within` around each call.

    Example
    -------
    >>> from speechbrain.nnet.CNN import Conv1d
    >>> conv = Conv1d(1, 3, in_channels=1)
    >>> lengths = isolate(conv)
    >>> frames = torch.randn(1, 5, 1)
    >>> with lengths.within(torch.tensor([3])):
    ...     torch.allclose(conv(frames)[:, :3], conv(frames[:, :3]))
    True
    """
    lengths = Lengths()
    for module in list(head.modules()):
        if isinstance(module, Conv1d) and module.padding == "same":
            module._manage_padding = partial(_reflect, lengths)
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm1d):
                child.__class__ = BatchNorm1d
                child.lengths = lengths
            elif isinstance(child, AdaptivePool):
                setattr(module, name, MeanOverTime(lengths))
            elif isinstance(child, StatisticsPooling):
                setattr(module, name, StatisticsOverTime(lengths))
    return lengths


def _reflect(lengths, x, kernel_size, dilation, stride):
    """Continue (B, C, T) at both ends by the utterances' own reflection, however short they are."""
    reach = dilation * (kernel_size - 1) // 2
    if not reach:
        return x
    if lengths.num_frames is None:
        num_frames = torch.full(x.shape[:1], x.shape[2], device=x.device)
    else:
        num_frames = lengths.num_frames
    places = torch.arange(-reach, x.shape[2] + reach, device=x.device).abs()
    index = reflected_indices(num_frames, x.shape[2] + reach)[:, places]
    return x.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1))


class BatchNorm1d(nn.BatchNorm1d):
    """Statistics of the valid frames alone; a single one is normalised by the running statistics.

    Of a single frame, or of the one utterance that is left for a last batch, no variance can be
    told: torch raises an error there.
    """

    lengths: Lengths

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise (B, C) or (B, C, T)."""
        num_frames = self.lengths.num_frames
        if not self.training:
            return super().forward(x)
        if x.dim() == 2 or num_frames is None or x.shape[2] < int(num_frames.max()):
            # Vectors, or one frame for each utterance.
            return (
                self._normalise(x.transpose(1, -1).flatten(0, -2))
                .view(*x.transpose(1, -1).shape)
                .transpose(1, -1)
            )
        valid = ~padding_mask(num_frames, x.shape[2])
        frames = x.transpose(1, 2)
        normalised = torch.zeros_like(frames)
        normalised[valid] = self._normalise(frames[valid]).to(frames.dtype)
        return normalised.transpose(1, 2)

    def _normalise(self, rows):
        if len(rows) > 1:
            return super().forward(rows)
        return nn.functional.batch_norm(
            rows, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class MeanOverTime(nn.Module):
    """The mean over the valid frames, in place of SpeechBrain's `AdaptivePool(1)`.

    Arguments
    ---------
    lengths : Lengths
    """

    def __init__(self, lengths: Lengths) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, 1, C)."""
        return masked_mean(frames, self.lengths.num_frames).unsqueeze(1)


class StatisticsOverTime(nn.Module):
    """Mean and standard deviation over the valid frames, in place of `StatisticsPooling`.

    SpeechBrain adds noise to the mean, so that an utterance has another embedding each time.

    Arguments
    ---------
    lengths : Lengths
    """

    def __init__(self, lengths: Lengths) -> None:
        super().__init__()
        self.lengths = lengths

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """(B, T, C) to (B, 1, 2 C); the deviation of a single frame is 0."""
        num_frames = self.lengths.num_frames
        if num_frames is None:
            num_frames = torch.full(frames.shape[:1], frames.shape[1], device=frames.device)
        mean = masked_mean(frames, num_frames)
        padding = padding_mask(num_frames, frames.shape[1]).unsqueeze(-1)
        squares = (frames - mean.unsqueeze(1)).square().masked_fill(padding, 0.0).sum(1)
        variance = squares / (num_frames - 1).clamp(min=1).unsqueeze(-1)
        std = variance.clamp(min=_SMALLEST_VARIANCE).sqrt()
        return torch.cat([mean, std], dim=-1).unsqueeze(1)


def masked_mean(frames: torch.Tensor, num_frames: torch.Tensor | None) -> torch.Tensor:
    """The mean of the valid frames: (B, T, C) and (B,) integers, None for all, to (B, C).

    >>> masked_mean(torch.tensor([[[1.0], [3.0], [8.0]]]), torch.tensor([2]))
    tensor([[2.]])
    """
    if num_frames is None:
        return frames.mean(1)
    padding = padding_mask(num_frames, frames.shape[1]).unsqueeze(-1)
    return frames.masked_fill(padding, 0.0).sum(1) / num_frames.unsqueeze(-1)


def mask_lengths(num_frames: torch.Tensor, total: int) -> torch.Tensor:
    """Relative lengths of which SpeechBrain's `length_to_mask` makes exactly `num_frames`.

    It compares each frame's number with a product of floats, which may lie above the integer.

    >>> from speechbrain.dataio.dataio import length_to_mask
    >>> lengths = torch.arange(1, 1000)
    >>> mask = length_to_mask(mask_lengths(lengths, 999) * 999, max_len=999)
    >>> bool((mask.sum(1) == lengths).all())
    True
    """
    return (num_frames - 0.5) / total
