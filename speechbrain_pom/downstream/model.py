"""What a downstream task trains: a weighted sum of an upstream's layers, and a head on it."""

from __future__ import annotations

import torch
from torch import nn

from speechbrain_pom.nnet.weighted_sum import WeightedSum


class DownstreamModel(nn.Module):
    """An upstream, a learnt weighted sum of its layers, and a head, as one module.

    Arguments
    ---------
    upstream : torch.nn.Module
        From `load_upstream`.
    head : torch.nn.Module
        From `speechbrain_pom.downstream.heads`.
    freeze : bool
        Whether the upstream has neither gradients nor dropout, in training too.
    normalise_layers : bool
        Whether each layer's frames are first brought to mean 0 and variance 1: layers of a large
        scale would otherwise weigh more than their share. MP3S does not.

    Example
    -------
    >>> from speechbrain_pom.downstream.heads import MeanLinear
    >>> from speechbrain_pom.downstream.upstream import LogMel
    >>> upstream = LogMel()
    >>> model = DownstreamModel(upstream, MeanLinear(upstream.d_model, 4))
    >>> outputs, num_frames = model(torch.randn(2, 16000), torch.tensor([16000, 8000]))
    >>> outputs.shape, model.layer_weights()
    (torch.Size([2, 4]), [1.0])
    """

    def __init__(
        self,
        upstream: nn.Module,
        head: nn.Module,
        freeze: bool = True,
        normalise_layers: bool = False,
    ) -> None:
        super().__init__()
        self.upstream = upstream
        self.head = head
        self.layer_sum = WeightedSum(upstream.num_states)
        self.freeze = freeze
        self.normalise_layers = normalise_layers
        if freeze:
            upstream.requires_grad_(False)
        else:
            # The states are taken before it, and DDP wants a gradient for what requires one.
            upstream.transformer.encoder.norm.requires_grad_(False)
            # A layer that is dropped leaves no state, and the sum is over all of them.
            upstream.transformer.encoder.layerdrop_prob = 0.0
        if upstream.num_states == 1:  # its weight is 1 whatever it learns
            self.layer_sum.requires_grad_(False)

    def train(self, mode: bool = True) -> DownstreamModel:
        """As of any module; a frozen upstream stays in eval mode."""
        super().train(mode)
        if self.freeze:
            self.upstream.eval()
        return self

    def states(
        self, wavs: torch.Tensor, num_samples: torch.Tensor
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """All hidden states.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers.

        Returns
        -------
        states : list of torch.Tensor
            (B, T, d_model) each, zero in padding.
        num_frames : torch.Tensor
            (B,) integers.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            return self.upstream(wavs, num_samples, layers=list(range(self.upstream.num_states)))

    def forward(
        self, inputs: torch.Tensor, lengths: torch.Tensor, are_states: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's outputs.

        Arguments
        ---------
        inputs : torch.Tensor
            Waveforms (B, samples), or states (B, num_states, T, d_model).
        lengths : torch.Tensor
            (B,) integers: samples, or frames.
        are_states : bool
            Which of the two `inputs` are.

        Returns
        -------
        outputs : torch.Tensor
            (B, T, outputs) or (B, outputs), as the head makes them, in fp32.
        num_frames : torch.Tensor
            (B,) integers.
        """
        frames, num_frames = self.frames(inputs, lengths, are_states)
        return self.head(frames, num_frames).float(), num_frames

    def frames(
        self, inputs: torch.Tensor, lengths: torch.Tensor, are_states: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The weighted sum (B, T, d_model) and the valid frames (B,); arguments as `forward`."""
        if are_states:
            states, num_frames = inputs.unbind(1), lengths
        else:
            states, num_frames = self.states(inputs, lengths)
        if self.normalise_layers:
            states = [nn.functional.layer_norm(state, state.shape[-1:]) for state in states]
        return self.layer_sum(states), num_frames

    def layer_weights(self) -> list[float]:
        """The weights of the layers, rounded to 4 digits; they add up to 1."""
        return [round(weight, 4) for weight in self.layer_sum.scores.softmax(0).tolist()]
