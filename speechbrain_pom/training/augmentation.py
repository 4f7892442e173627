"""SpeechBrain's augmentation of waveforms and features, for the lengths that this package keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch

from speechbrain_pom.utils.errors import UserError

Augment = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def batch_waveforms(
    sig: tuple[torch.Tensor, torch.Tensor],
    device: torch.device | str,
    augment: Augment | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The waveforms (B, samples) of a batch and their lengths in samples (B,), on a device.

    `augment` is an `Augmenter` of SpeechBrain, which may change the lengths, or None.
    """
    wavs, lengths = (part.to(device) for part in sig)
    if augment is not None:
        batch_size = len(wavs)
        wavs, lengths = augment(wavs, lengths)
        if len(wavs) != batch_size:
            raise UserError(
                f"wav_augment made {len(wavs)} waveforms of {batch_size}, and the others have no "
                "labels: leave out concat_original, parallel_augment and repeat_augment"
            )
    return wavs, (lengths * wavs.shape[1]).round().long()


def augment_features(
    augment: Augment | None, feats: torch.Tensor, num_frames: torch.Tensor
) -> torch.Tensor:
    """Features (B, T, n) as an `Augmenter` of SpeechBrain makes them, of the same shape.

    Padding stays zero: a front end reads it. Without an augmenter they are returned as they are.

    >>> from speechbrain.augment.freq_domain import SpectrogramDrop
    >>> drop = SpectrogramDrop(drop_length_low=2, drop_length_high=3)
    >>> feats = torch.ones(1, 8, 80)
    >>> out = augment_features(lambda x, lengths: (drop(x), lengths), feats, torch.tensor([6]))
    >>> out.shape, out[0, 6:].sum().item()
    (torch.Size([1, 8, 80]), 0.0)
    """
    if augment is None:
        return feats
    changed, _ = augment(feats, num_frames / feats.shape[1])
    if changed.shape != feats.shape:
        raise UserError(
            f"fea_augment made features {tuple(changed.shape)} of {tuple(feats.shape)}: only "
            "augmentations that keep their shape can be used, without concat_original, "
            "parallel_augment and repeat_augment"
        )
    times = torch.arange(feats.shape[1], device=feats.device)
    return torch.where((times < num_frames.unsqueeze(1)).unsqueeze(-1), changed, 0.0)
