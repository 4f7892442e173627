"""Features of a pretrained encoder: in fp32 whatever the encoder's dtype, with fixed statistics."""

import torch
from torch import nn

from speechbrain_pom.objectives.bestrq import extract_features
from speechbrain_pom.utils.errors import UserError


class FeatureExtractor(nn.Module):
    """Normalised mel filter banks, as the recipes compute them, with zeros in all padding.

    SpeechBrain's `InputNormalization` keeps its statistics outside of the state dict and of
    `.to(device)`; here they are buffers. Moving the encoder to half precision leaves this module
    in fp32: the quietest bands would not survive it.

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's `Fbank`, without deltas and context.
    normalize : torch.nn.Module
        SpeechBrain's `InputNormalization`, "global" (with or still without its statistics) or
        "sentence".
    stride : int
        Feature frames per encoder frame; the time axis is padded to a multiple of it.

    Raises
    ------
    UserError
        For features of another kind; in `forward`, if there are no statistics.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.processing.features import InputNormalization
    >>> features = FeatureExtractor(Fbank(n_mels=80), InputNormalization(norm_type="sentence"), 4)
    >>> feats, num_frames = features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> feats.shape, num_frames
    (torch.Size([2, 104, 80]), tensor([101,  51]))
    """

    def __init__(self, compute_features, normalize, stride):
        super().__init__()
        if compute_features.deltas or compute_features.context:
            raise UserError("compute_features has deltas or context: the recipes' Fbank has none")
        if normalize.norm_type not in ("global", "sentence"):
            raise UserError(
                f"normalize has norm_type {normalize.norm_type!r}, which depends on the batch: "
                "an encoder is loaded with global or sentence"
            )
        stft = compute_features.compute_STFT
        self.sample_rate = stft.sample_rate
        self.hop_ms = 1000 * stft.hop_length / stft.sample_rate
        self.stride = stride
        self.compute_features = compute_features
        self.norm_type = normalize.norm_type
        self.normalize = normalize
        self.has_statistics = self.norm_type == "sentence"
        if self.norm_type == "global":
            self._hold_statistics(normalize, compute_features.compute_fbanks.n_mels)

    def _hold_statistics(self, normalize, num_mels):
        known = bool(normalize.count)
        mean = normalize.glob_mean if known else torch.zeros(num_mels)
        std = normalize.glob_std if known and normalize.std_norm else torch.ones(num_mels)
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("std", std.detach().float().clone())
        self.has_statistics = known
        self.register_load_state_dict_post_hook(_note_statistics)

    def forward(self, wavs, num_samples):
        """Compute features.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers.

        Returns
        -------
        feats : torch.Tensor
            (B, T, num_mels) in fp32, T divisible by the stride; exactly zero in all padding.
        num_frames : torch.Tensor
            (B,) integers, feature frames of each utterance.
        """
        return extract_features(
            wavs,
            num_samples,
            compute_features=self.compute_features,
            normalize=self.normalise,
            sample_rate=self.sample_rate,
            hop_ms=self.hop_ms,
            stride=self.stride,
        )

    def normalise(self, feats, lengths, epoch=None):
        """Normalise features; no statistics change.

        Arguments
        ---------
        feats : torch.Tensor
            (B, T, num_mels)
        lengths : torch.Tensor
            (B,), relative.
        epoch : float, optional
            Only for the signature of `InputNormalization`.

        Returns
        -------
        torch.Tensor
            (B, T, num_mels)

        Raises
        ------
        UserError
            If the statistics of global normalisation were never loaded.
        """
        if not self.has_statistics:
            raise UserError(
                "the encoder has no statistics of its features: load its weights before it is used"
            )
        if self.norm_type == "sentence":
            return self.normalize(feats, lengths)
        return (feats - self.mean) / self.std.clamp(min=self.normalize.epsilon)

    def _apply(self, fn, recurse=True):
        # Devices change, the dtype does not.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def _note_statistics(features, incompatible_keys):
    missing = {key.rpartition(".")[2] for key in incompatible_keys.missing_keys}
    features.has_statistics |= not missing & {"mean", "std"}
