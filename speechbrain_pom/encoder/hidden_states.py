"""The methods of a `SpeechEncoder` that are about its hidden states."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from speechbrain_pom.encoder.arguments import checked_layers
from speechbrain_pom.encoder.lengths import padding_mask

Layers = str | int | Sequence[int]


class HiddenStates:
    """Mixin for `SpeechEncoder`: `num_layers`, `num_states`, `choose`, `output`, `check_layers`."""

    # Given by SpeechEncoder.
    layers: Layers
    transformer: nn.Module
    layer_sum: Callable[..., torch.Tensor]

    @property
    def num_layers(self) -> int:
        """Layers of the encoder; there is one hidden state more."""
        return len(self.transformer.encoder.layers)

    @property
    def num_states(self) -> int:
        """Hidden states: the input of the first layer, and the output of each."""
        return self.num_layers + 1

    def choose(
        self, states: list[torch.Tensor], layers: Layers
    ) -> torch.Tensor | list[torch.Tensor]:
        """Select the hidden states that `layers` asks for.

        Arguments
        ---------
        states : list of torch.Tensor
            (B, T, d_model): the input of the first layer, then the output of each layer.
        layers : str, int or sequence of int
            As for the class.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            Of several layers one for each.
        """
        if layers == "sum":
            return self.layer_sum(states)
        return states[layers] if isinstance(layers, int) else [states[i] for i in layers]

    def output(
        self, states: list[torch.Tensor], num_frames: torch.Tensor | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        """What `forward` returns, from all hidden states, for who needs both in one pass.

        Arguments
        ---------
        states : list of torch.Tensor
            (B, T, d_model), one more than layers.
        num_frames : torch.Tensor, optional
            (B,) integers; all frames are valid when not given.

        Returns
        -------
        torch.Tensor or list of torch.Tensor
            (B, T, d_model), exactly zero in padding.
        """
        if self.layers != "last":
            return self.choose(states, self.layers)
        frames = self.transformer.encoder.norm(states[-1])
        if num_frames is None:
            return frames
        return frames.masked_fill(padding_mask(num_frames, frames.shape[1]).unsqueeze(-1), 0.0)

    def check_layers(self, layers: Layers) -> Layers:
        """Layers in plain integers; a `UserError` for those that the encoder does not have."""
        return checked_layers(layers, self.num_layers, hasattr(self, "layer_sum"))
