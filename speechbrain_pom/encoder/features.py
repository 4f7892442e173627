"""What a front end is given: features of waveforms in fp32, normalised, with zeros in all padding.

One definition for pretraining, fine-tuning, probes and inference. SpeechBrain's Fbank and
InputNormalization do the work; what they are called with is settled here.
"""

from __future__ import annotations

from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    mark_as_transfer,
    register_checkpoint_hooks,
)
from torch import nn

from speechbrain_pom.encoder.filter_banks import (
    checked_floor,
    has_floor,
    limited_so_far,
    unlimited,
)
from speechbrain_pom.encoder.lengths import (
    num_feature_frames,
    pad_to_multiple,
    padding_mask,
    relative_lengths,
)
from speechbrain_pom.encoder.step_statistics import STATISTICS, StepStatistics
from speechbrain_pom.encoder.weights import read_tensors
from speechbrain_pom.utils.errors import UserError


class Waveform(nn.Module):
    """Takes the place of an Fbank before a front end that reads waveforms: one frame a sample.

    Arguments
    ---------
    sample_rate : int
        Of the waveforms, in Hz.

    Example
    -------
    >>> Waveform()(torch.zeros(2, 16000)).shape
    torch.Size([2, 16000, 1])
    """

    deltas = context = False

    def __init__(self, sample_rate: int = 16000):
        super().__init__()
        self.sample_rate = sample_rate

    def forward(self, wavs: torch.Tensor) -> torch.Tensor:
        """Waveforms (B, samples) as (B, samples, 1)."""
        return wavs.unsqueeze(-1)


@register_checkpoint_hooks
class FeatureExtractor(nn.Module):
    """Normalised mel filter banks, or waveforms, in fp32, with zeros in all padding.

    The statistics of SpeechBrain's `InputNormalization` are outside of the state dict and of
    `.to(device)`; here they are buffers. Moving the encoder to half precision leaves this module
    in fp32: the quietest bands would not survive it. As a recoverable of a checkpointer it writes
    and reads the file of SpeechBrain's `InputNormalization`.

    Arguments
    ---------
    compute_features : torch.nn.Module
        SpeechBrain's `Fbank`, without deltas and context, or a `Waveform`.
    normalize : torch.nn.Module, optional
        SpeechBrain's `InputNormalization`, "global" (with or still without its statistics) or
        "sentence"; None for a `Waveform` that is taken as it is.
    multiple : int
        The time axis is padded to a multiple of it.
    floor : str
        The range of filter banks is limited below the loudest value of the "utterance", as in
        SpeechBrain, or below that of the "running" utterance so far, as in a stream.

    Raises
    ------
    UserError
        For features or a floor of another kind; in `forward`, if there are no statistics.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.processing.features import InputNormalization
    >>> features = FeatureExtractor(Fbank(n_mels=80), InputNormalization(norm_type="sentence"), 4)
    >>> feats, num_frames = features(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> feats.shape, num_frames
    (torch.Size([2, 104, 80]), tensor([101,  51]))
    >>> bool((feats[1, 51:] == 0).all())
    True
    """

    def __init__(
        self,
        compute_features: nn.Module,
        normalize: nn.Module | None,
        multiple: int = 1,
        floor: str = "utterance",
    ) -> None:
        super().__init__()
        if compute_features.deltas or compute_features.context:
            raise UserError("compute_features has deltas or context: the recipes' Fbank has none")
        norm_type = None if normalize is None else normalize.norm_type
        if norm_type not in ("global", "sentence", None):
            raise UserError(
                f"normalize has norm_type {norm_type!r}, which depends on the batch: "
                "an encoder is loaded with global or sentence"
            )
        self.multiple = multiple
        self.floor = checked_floor(floor)
        self.compute_features = compute_features
        self.norm_type = norm_type
        self.step_statistics: StepStatistics | None = None  # where they are updated once per step
        self.normalize = normalize
        self._read_hop(compute_features)
        if self._is_global:
            self._hold_statistics()
            self.register_load_state_dict_post_hook(_note_statistics)

    def collect_per_step(self) -> StepStatistics | None:
        """From now on only `merge` of what this gives updates global statistics; None without."""
        return StepStatistics(self) if self._is_global else None

    def _read_hop(self, compute_features: nn.Module) -> None:
        if isinstance(compute_features, Waveform):
            self.sample_rate, self.hop_samples = compute_features.sample_rate, 1
        else:
            stft = compute_features.compute_STFT
            self.sample_rate, self.hop_samples = stft.sample_rate, stft.hop_length

    @property
    def hop_ms(self) -> float:
        """Milliseconds between feature frames."""
        return 1000 * self.hop_samples / self.sample_rate

    def num_frames(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """Count the feature frames of an utterance, from integers."""
        if isinstance(self.compute_features, Waveform):
            return num_samples
        return num_feature_frames(num_samples, self.sample_rate, self.hop_ms)

    def forward(
        self,
        wavs: torch.Tensor,
        num_samples: torch.Tensor,
        epoch: float | None = None,
        floor: str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute features.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers.
        epoch : int, optional
            In training mode the statistics of global normalisation are updated by this batch,
            if `InputNormalization` still does so in this epoch. Without it they stay as they are.
        floor : str, optional
            In place of what it was made with.

        Returns
        -------
        feats : torch.Tensor
            (B, T, num_mels) in fp32, T divisible by `multiple`; exactly zero in all padding.
        num_frames : torch.Tensor
            (B,) integers, feature frames of each utterance.
        """
        # Half precision would cost the quietest bands: features and targets are always fp32.
        with torch.autocast(wavs.device.type, enabled=False):
            num_frames = self.num_frames(num_samples)
            # The last frames reach beyond the utterance: what is there must not matter.
            padding = padding_mask(num_samples, wavs.shape[1])
            feats = self._compute(wavs.float().masked_fill(padding, 0.0), floor or self.floor)
            # What is not finite stays out of the running statistics, which are in the
            # checkpoints, and comes back after them: the step has to show it, and is then skipped.
            bad = ~torch.isfinite(feats)
            feats = self.normalise(feats.masked_fill(bad, 0.0), num_frames, epoch)
            feats = feats.masked_fill(bad, torch.nan)
            padding = padding_mask(num_frames, feats.shape[1])
            feats = feats.masked_fill(padding.unsqueeze(-1), 0.0)
        return pad_to_multiple(feats, self.multiple), num_frames

    def _compute(self, wavs, floor):
        if floor == "utterance" or not has_floor(self.compute_features):
            return self.compute_features(wavs)
        top_db = self.compute_features.compute_fbanks.top_db
        return limited_so_far(unlimited(self.compute_features, wavs), top_db)[0]

    def normalise(
        self, feats: torch.Tensor, num_frames: torch.Tensor, epoch: float | None = None
    ) -> torch.Tensor:
        """Normalise features (B, T, num_mels) of which `num_frames` (B,) are valid.

        Raises
        ------
        UserError
            If there are no statistics for global normalisation.
        """
        if self.normalize is None:
            return feats
        if self.norm_type == "sentence":
            return self.normalize(feats, relative_lengths(num_frames, feats.shape[1]))
        if self.training and epoch is not None:
            if self.step_statistics is None:
                self._update_statistics(feats, num_frames, epoch)
            else:
                self.step_statistics.collect(feats, num_frames, epoch)
        if not self.has_statistics:
            raise UserError(
                "the encoder has no statistics of its features: load its weights before it is used"
            )
        return (feats - self.mean) / self.std.clamp(min=self.normalize.epsilon)

    @property
    def has_statistics(self) -> bool:
        """Whether global normalisation knows a mean; True for what needs none."""
        return not self._is_global or self.count > 0

    def trust_statistics(self) -> None:
        """Say that the buffers hold statistics, where something else than this module set them."""
        if self._is_global:
            self.count = max(self.count, 1)

    def _hold_statistics(self) -> None:
        """Take over the statistics of SpeechBrain's module, which has them as plain attributes."""
        known = bool(self.normalize.count)
        num_mels = self.compute_features.compute_fbanks.n_mels
        self.count = int(self.normalize.count)
        mean = self.normalize.glob_mean if known else torch.zeros(num_mels)
        std = self.normalize.glob_std if known and self.normalize.std_norm else torch.ones(num_mels)
        self.register_buffer("mean", mean.detach().float().clone())
        self.register_buffer("std", std.detach().float().clone())

    def _update_statistics(
        self, feats: torch.Tensor, num_frames: torch.Tensor, epoch: float
    ) -> None:
        """Update the statistics by SpeechBrain's module, on all processes together."""
        statistics = {"count": self.count, "glob_mean": self.mean, "glob_std": self.std}
        self.normalize._load_statistics_dict(statistics)
        self.normalize(feats, relative_lengths(num_frames, feats.shape[1]), epoch=epoch)
        self.take_statistics(self.normalize._statistics_dict())

    def take_statistics(self, statistics: dict) -> None:
        """Take over statistics, by SpeechBrain's names."""
        if not statistics["count"]:
            return
        self.count = int(statistics["count"])
        # In place: DDP and compiled graphs know these very tensors.
        self.mean.copy_(statistics["glob_mean"])
        if self.normalize.std_norm:
            self.std.copy_(statistics["glob_std"])

    @mark_as_saver
    def save_statistics(self, path: str | Path) -> None:
        """Write the file of SpeechBrain's `InputNormalization`."""
        nothing = torch.empty(0)
        values = (self.count, self.mean, self.std) if self._is_global else (0, nothing, nothing)
        torch.save(dict(zip(STATISTICS, values, strict=True)), path)

    @mark_as_transfer
    @mark_as_loader
    def load_statistics(self, path: str | Path, end_of_epoch: bool = False) -> None:
        """Read a file of SpeechBrain's `InputNormalization`; nothing in it is executed.

        Raises
        ------
        UserError
            If it is damaged, or global normalisation finds no statistics in it.
        """
        state = read_tensors(Path(path))
        if not self._is_global:
            return
        tensors = [state.get(key) for key in STATISTICS[1:]]
        if not state.get("count") or not all(isinstance(one, torch.Tensor) for one in tensors):
            raise UserError(
                f"{path} has no statistics of the features, and the hparams file says norm_type "
                "global: choose a checkpoint that was trained so"
            )
        self.take_statistics(state)

    @property
    def _is_global(self) -> bool:
        return self.norm_type == "global"

    def _apply(self, fn, recurse=True):
        # Devices change, the dtype does not.
        return super()._apply(lambda tensor: tensor.to(fn(tensor).device), recurse)


def _note_statistics(features: FeatureExtractor, incompatible_keys) -> None:
    """A state dict does not say of how many frames its statistics are, but they are there."""
    missing = {key.rpartition(".")[2] for key in incompatible_keys.missing_keys}
    if not missing & {"mean", "std"}:
        features.trust_statistics()
