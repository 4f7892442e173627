"""BEST-RQ (arXiv 2202.01855) as an objective: predict the codes of masked frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_pom.objectives.bestrq.masks import (
    check_mask_options,
    predicted_positions,
    sample_masks,
    why_unmaskable,
)
from speechbrain_pom.objectives.bestrq.noise import sample_noise
from speechbrain_pom.objectives.bestrq.statistics import METRICS, find_collapse, summarise
from speechbrain_pom.objectives.bestrq.targets import (
    apply_noise,
    nearest_codes,
    quantizer_fingerprint,
    stack_frames,
)
from speechbrain_pom.objectives.objective import Draw, Objective, Outcome
from speechbrain_pom.training.augmentation import Augment, augment_features


class BestRQ(Objective):
    """Predict the code that a frozen random quantizer gives to each masked stack of frames.

    Masks come before the front end: noise takes the place of the masked features. The loss is the
    mean over the masked positions of the batch.

    Arguments
    ---------
    encoder : SpeechEncoder
    quantizer : torch.nn.Module
        SpeechBrain's `RandomProjectionQuantizer`, for stacks of `encoder.stride` feature frames.
        Draw it before the encoder: the targets then depend on the seed alone.
    linear : torch.nn.Module
        From (..., d_model) to one logit for each of its codes.
    mask_prob : float
        Probability that a feature frame starts a mask.
    mask_length : int
        Feature frames in a mask, a multiple of the stride.
    mask_scope : str
        "batch": one mask for the whole batch, as published; "utterance": one each.
    noise_mean, noise_std : float
        Mean and standard deviation of the noise.
    fea_augment : callable, optional
        An `Augmenter` of SpeechBrain for what the encoder reads in training; the targets are those
        of the features as they were.

    Raises
    ------
    UserError
        If the mask options cannot work.

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.convolution import ConvolutionFrontEnd
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> from speechbrain.nnet.quantisers import RandomProjectionQuantizer
    >>> from speechbrain.processing.features import InputNormalization
    >>> from speechbrain_pom.encoder import SpeechEncoder
    >>> quantizer = RandomProjectionQuantizer(input_dim=4 * 80, cb_dim=16, cb_vocab=64)
    >>> encoder = SpeechEncoder(
    ...     Fbank(n_mels=80),
    ...     InputNormalization(norm_type="global"),
    ...     ConvolutionFrontEnd(
    ...         input_shape=[8, 10, 80], num_blocks=2, num_layers_per_block=1, out_channels=[8, 4],
    ...         kernel_sizes=[3, 3], strides=[2, 2], residuals=[False, False],
    ...     ),
    ...     TransformerASR(
    ...         tgt_vocab=1, input_size=80, d_model=16, nhead=2, num_encoder_layers=1,
    ...         num_decoder_layers=0, d_ffn=32, encoder_module="conformer", attention_type="PoM",
    ...         normalize_before=True, causal=False,
    ...     ),
    ... )
    >>> objective = BestRQ(encoder, quantizer, nn.Linear(16, 64))
    >>> wavs, num_samples = torch.randn(2, 32000), torch.tensor([32000, 24000])
    >>> outcome = objective(wavs, num_samples, ["a", "b"], Draw(seed=1000, epoch=1, step=1))
    >>> outcome.loss.backward()
    >>> sorted(objective.recoverables()), outcome.sums["counts"].sum().item() == outcome.weight
    (['linear', 'quantizer'], True)
    """

    name = "BEST-RQ"
    metrics = METRICS
    takes_chunks = True

    def __init__(
        self,
        encoder: nn.Module,
        quantizer: nn.Module,
        linear: nn.Module,
        mask_prob: float = 0.15,
        mask_length: int = 4,
        mask_scope: str = "batch",
        noise_mean: float = 0.0,
        noise_std: float = 0.1,
        fea_augment: Augment | None = None,
    ) -> None:
        super().__init__(encoder)
        check_mask_options(mask_prob, mask_length, encoder.stride, mask_scope)
        self.quantizer = quantizer
        self.linear = linear
        self.mask_options = {
            "mask_prob": mask_prob,
            "mask_length": mask_length,
            "scope": mask_scope,
        }
        self.noise_options = {"mean": noise_mean, "std": noise_std}
        self.fea_augment = fea_augment

    @property
    def num_codes(self) -> int:
        """Number of codes of the quantizer."""
        return len(self.quantizer.CB)

    def forward(
        self, wavs: torch.Tensor, num_samples: torch.Tensor, ids: Sequence[str], draw: Draw
    ) -> Outcome:
        """Cross-entropy over the masked positions of a batch; see `Objective.forward`."""
        stride = self.encoder.stride
        feats, num_frames = self.encoder.features(wavs, num_samples, draw.epoch)
        mask = self._sample_mask(feats, num_frames, ids, draw)
        predicted = predicted_positions(mask, num_frames, stride)  # (B, T/stride)
        stacked = stack_frames(feats, stride)[predicted]
        targets = nearest_codes(stacked, self.quantizer.P, self.quantizer.CB)
        feats = augment_features(self.fea_augment if draw.training else None, feats, num_frames)
        noise = sample_noise(
            feats, ids, **self.noise_options, seed=None if draw.training else draw.seed
        )
        feats = apply_noise(feats, mask, noise)
        encoded, _ = self.encoder.encode(feats, num_frames, chunks=draw.chunks)
        logits = self.linear(encoded[predicted]).float()
        loss_sum = F.cross_entropy(logits, targets, reduction="sum")
        sums = {
            "loss_sum": loss_sum.detach(),
            "num_correct": (logits.argmax(-1) == targets).sum(),
            "counts": torch.bincount(targets, minlength=self.num_codes),
            "num_masked": mask.sum(),
            "num_valid": num_frames.sum(),
        }
        return Outcome(loss_sum, len(targets), sums)

    def _sample_mask(
        self, feats: torch.Tensor, num_frames: torch.Tensor, ids: Sequence[str], draw: Draw
    ) -> torch.Tensor:
        """The masked feature frames, (B, T) as the features (B, T, F)."""
        mask = sample_masks(
            num_frames.tolist(),
            ids,
            **self.mask_options,
            seed=draw.seed,
            epoch=draw.epoch if draw.training else None,
            step=draw.step,
            rank=draw.rank,
        ).to(feats.device)
        return F.pad(mask, (0, feats.shape[1] - mask.shape[1]))

    def summary(self, sums: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """Loss, accuracy and use of the codes; see `summarise`."""
        return summarise(sums)

    def unusable(self, num_samples: int) -> str | None:
        """Why nothing of an utterance could be predicted: it is too short for a mask."""
        num_frames = self.encoder.features.num_frames(num_samples)
        return why_unmaskable(num_frames, self.mask_options["mask_length"])

    def warning(self, stats: Mapping[str, float]) -> str | None:
        """Whether the targets have collapsed."""
        return find_collapse(stats, self.num_codes)

    def fingerprints(self) -> dict[str, str]:
        """The hash of the quantizer: a resumed run has the same targets."""
        return {"quantizer": quantizer_fingerprint(self.quantizer)}
