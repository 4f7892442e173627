"""What a front end is: the part of an encoder between its features and its Transformer."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import nn

from speechbrain_pom.attention.front_end import front_end_lengths
from speechbrain_pom.encoder.lengths import num_encoder_frames


class FrontEnd(Protocol):
    """What `SpeechEncoder` asks of a front end: a module that knows how it counts.

    It turns feature frames into frames of the encoder; before a `Waveform` its feature frames are
    samples. SpeechBrain's `ConvolutionFrontEnd` does not know, and is adapted by
    `SameConvolutions`; a module with these four members is taken as it is.

    Arguments
    ---------
    stride : int
        Feature frames from one frame to the next.
    window : int
        Feature frames that one frame sees.
    multiple : int
        What the number of feature frames must be a multiple of: zeros are added. 1 for "valid"
        convolutions, the stride for "same" ones.

    Example
    -------
    >>> class Valid(torch.nn.Module):
    ...     stride, window, multiple = 2, 4, 1
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.conv = torch.nn.Conv1d(1, 8, kernel_size=4, stride=2)
    ...     def num_frames(self, num_features):
    ...         return (num_features - self.window) // self.stride + 1
    ...     def forward(self, feats, num_features):
    ...         return self.conv(feats.transpose(1, 2)).transpose(1, 2)
    >>> front_end = front_end_of(Valid())
    >>> front_end.num_frames(16), front_end(torch.zeros(1, 16, 1), torch.tensor([16])).shape
    (7, torch.Size([1, 7, 8]))
    """

    stride: int
    window: int
    multiple: int

    def num_frames(self, num_features: int | torch.Tensor) -> int | torch.Tensor:
        """The number of frames, from the number of feature frames (same integer type)."""

    def __call__(self, feats: torch.Tensor, num_features: torch.Tensor) -> torch.Tensor:
        """Feature frames (B, N, F) of which (B,) are valid, to (B, num_frames(N), ...)."""


class SameConvolutions(NamedTuple):
    """SpeechBrain's `ConvolutionFrontEnd` as a `FrontEnd`.

    Arguments
    ---------
    convolutions : torch.nn.Module
        "Same" 2-D convolutions.
    stride, window : int
        Feature frames from frame to frame, and those that a frame sees.
    padding : str
        What `speechbrain_pom.attention.padding.set_padding` was told.
    """

    convolutions: nn.Module
    stride: int
    window: int
    padding: str

    @property
    def multiple(self) -> int:
        """The stride, so that each frame is made of whole feature frames or of zeros."""
        return self.stride

    def num_frames(self, num_features: int | torch.Tensor) -> int | torch.Tensor:
        """A frame for every stride that has begun."""
        return num_encoder_frames(num_features, self.stride)

    def __call__(self, feats: torch.Tensor, num_features: torch.Tensor) -> torch.Tensor:
        """Feature frames (B, N, F) to (B, N / stride, frequencies, channels)."""
        lengths = front_end_lengths(self.padding, self.num_frames(num_features), self.stride)
        return self.convolutions(feats, *lengths)


def front_end_of(module: nn.Module, padding: str = "exact") -> FrontEnd:
    """A module as a `FrontEnd`: itself if it is one, adapted if it is SpeechBrain's."""
    if hasattr(module, "num_frames"):
        return module
    geometry = module.get_filter_properties()
    return SameConvolutions(module, geometry.stride, geometry.window_size, padding)
