"""One definition of the features for both stages: mel filter banks, normalised, padded by zeros."""

import torch

from speechbrain_pom.encoder.lengths import (
    num_feature_frames,
    pad_to_multiple,
    padding_mask,
    relative_lengths,
)


def extract_features(
    wavs, num_samples, *, compute_features, normalize, sample_rate, hop_ms, stride, epoch=None
):
    """Features as pretraining and fine-tuning both see them.

    Arguments
    ---------
    wavs : torch.Tensor
        (B, samples), padded on the right.
    num_samples : torch.Tensor
        (B,) integers.
    compute_features : torch.nn.Module
        SpeechBrain's `Fbank`.
    normalize : torch.nn.Module
        SpeechBrain's `InputNormalization`.
    sample_rate, hop_ms : int
        Of the features: Hz, milliseconds.
    stride : int
        Feature frames per encoder frame; the time axis is padded to a multiple of it.
    epoch : int or float, optional
        For `normalize`; infinity keeps its statistics as they are.

    Returns
    -------
    feats : torch.Tensor
        (B, T, num_mels), T divisible by the stride; exactly zero in all padding.
    num_frames : torch.Tensor
        (B,) integers, frames of each utterance.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.processing.features import InputNormalization
    >>> feats, num_frames = extract_features(
    ...     torch.randn(2, 16000), torch.tensor([16000, 8000]), compute_features=Fbank(n_mels=80),
    ...     normalize=InputNormalization(), sample_rate=16000, hop_ms=10, stride=4,
    ... )
    >>> feats.shape, num_frames
    (torch.Size([2, 104, 80]), tensor([101,  51]))
    >>> bool((feats[1, 51:] == 0).all())
    True
    """
    # Half precision would cost the quietest bands: features and targets are always fp32.
    with torch.autocast(wavs.device.type, enabled=False):
        num_frames = num_feature_frames(num_samples, sample_rate, hop_ms)
        # The last frames reach beyond the utterance: what is there must not matter.
        padding = padding_mask(num_samples, wavs.shape[1])
        feats = compute_features(wavs.float().masked_fill(padding, 0.0))
        # What is not finite stays out of the running statistics, which are in the checkpoints, and
        # comes back after them: the step has to show it, and is then skipped.
        bad = ~torch.isfinite(feats)
        lengths = relative_lengths(num_frames, feats.shape[1])
        feats = normalize(feats.masked_fill(bad, 0.0), lengths, epoch=epoch)
        feats = feats.masked_fill(bad, torch.nan)
        padding = padding_mask(num_frames, feats.shape[1])
        feats = feats.masked_fill(padding.unsqueeze(-1), 0.0)
    return pad_to_multiple(feats, stride), num_frames
