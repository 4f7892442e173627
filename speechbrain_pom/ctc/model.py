"""What CTC fine-tuning trains: an encoder and a head, as one module with one forward."""

from __future__ import annotations

import torch
from torch import nn

from speechbrain_pom.encoder.compiling import compile_encoder
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.nnet.weighted_sum import WeightedSum
from speechbrain_pom.training.augmentation import Augment, augment_features


class CTCModel(nn.Module):
    """An encoder and a head: waveforms to log-probabilities.

    Arguments
    ---------
    encoder : SpeechEncoder
        Pretrained, or with random weights.
    head : torch.nn.Module
        Frames (B, T, d_model) to logits (B, T, outputs).
    layer_sum : WeightedSum
        Over the hidden states of the encoder; idle unless it is asked for.
    weighted_sum : bool
        Whether the head reads the sum of all layers, in place of the encoder's output.
    freeze_encoder : bool
        Whether the encoder has neither gradients nor dropout.

    Example
    -------
    >>> from hyperpyyaml import load_hyperpyyaml
    >>> with open("hparams/pom.yaml") as stream:
    ...     encoder = load_hyperpyyaml(stream, {"d_model": 16, "cb_vocab": 8})["encoder"]
    >>> model = CTCModel(encoder, torch.nn.Linear(16, 29), WeightedSum(13))
    >>> log_probs, num_frames = model(torch.randn(1, 16000), torch.tensor([16000]), epoch=1)
    >>> log_probs.shape, num_frames
    (torch.Size([1, 26, 29]), tensor([26]))
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        head: nn.Module,
        layer_sum: WeightedSum,
        weighted_sum: bool = False,
        freeze_encoder: bool = False,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.layer_sum = layer_sum
        self.weighted_sum = weighted_sum
        self.freeze_encoder = freeze_encoder
        if freeze_encoder:
            encoder.requires_grad_(False)
        # DDP waits for the gradient of whatever requires one: not for what is left out.
        (encoder.transformer.encoder.norm if weighted_sum else layer_sum).requires_grad_(False)

    def train(self, mode: bool = True) -> CTCModel:
        """As of any module; a frozen encoder stays without dropout."""
        super().train(mode)
        if self.freeze_encoder:
            self.encoder.front_end.eval()
            self.encoder.transformer.eval()
        return self

    def forward(
        self,
        wavs: torch.Tensor,
        num_samples: torch.Tensor,
        epoch: int | None = None,
        fea_augment: Augment | None = None,
        chunks: tuple[int, int | None] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers.
        epoch : int, optional
            Where the statistics of the features are learnt: see `FeatureExtractor`.
        fea_augment : callable, optional
            An `Augmenter` of SpeechBrain, for the features.
        chunks : tuple of (int, int or None), optional
            As `SpeechEncoder` takes them: the pass that a stream equals.

        Returns
        -------
        log_probs : torch.Tensor
            (B, T, outputs) in fp32.
        num_frames : torch.Tensor
            (B,) integers: the valid frames of each utterance.
        """
        layers = list(range(self.encoder.num_states)) if self.weighted_sum else "last"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_encoder):
            floor = None if chunks is None else "running"
            feats, num_features = self.encoder.features(wavs, num_samples, epoch, floor)
            feats = augment_features(fea_augment, feats, num_features)
            encoded, num_frames = self.encoder.encode(feats, num_features, layers, chunks=chunks)
        if self.weighted_sum:
            encoded = self.layer_sum(encoded)
        return self.head(encoded).float().log_softmax(-1), num_frames

    def compile(self, *args, **kwargs) -> None:
        """Compile both halves of the encoder, and the head, as `torch.compile` does."""
        compile_encoder(self.encoder, *args, **kwargs)
        self.head.compile(*args, **kwargs)
