"""What a front end is: the part of an encoder between its features and its Transformer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from speechbrain_pom.attention.front_end import front_end_lengths
from speechbrain_pom.encoder.lengths import num_encoder_frames
from speechbrain_pom.utils.errors import UserError


class FrontEnd(Protocol):
    """What `SpeechEncoder` asks of a front end: a module that knows how it counts.

    It turns feature frames into frames of the encoder; before a `Waveform` its feature frames are
    samples. SpeechBrain's `ConvolutionFrontEnd` does not know, and is adapted by
    `SameConvolutions`; a module with these four members is taken as it is.

    Attributes
    ----------
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


class ValidConvolutions(nn.Module):
    """Convolutions along time without padding: the front end of SummaryMixing wav2vec 2.0.

    Each layer is a convolution without bias, a LayerNorm over the channels and a GELU; a last
    LayerNorm follows (arXiv 2407.13377, "FBank + CNN1D"). A frame is made of whole feature frames
    of its utterance alone, so padding is nowhere read. The published code normalises the whole
    padded matrix of features once more, and so depends on the padding; here that is left out.
    Parameters of SpeechBrain's `W2VLatentExtractor` load.

    Arguments
    ---------
    input_size : int
        Features per feature frame.
    channels, kernel_sizes, strides : sequence of int
        Of each layer; kernels and strides in frames of the layer before.

    Raises
    ------
    UserError
        If the three are not of one length, or not whole numbers of at least 1.

    Example
    -------
    >>> front_end = ValidConvolutions(input_size=80)
    >>> front_end.stride, front_end.window
    (2, 7)
    >>> num_features = torch.tensor([1001, 7])
    >>> front_end(torch.randn(2, 1001, 80), num_features).shape
    torch.Size([2, 498, 512])
    >>> front_end.num_frames(num_features)
    tensor([498,   1])
    """

    multiple = 1

    def __init__(
        self,
        input_size: int,
        channels: Sequence[int] = (512, 512),
        kernel_sizes: Sequence[int] = (3, 3),
        strides: Sequence[int] = (2, 1),
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "kernel_sizes": kernel_sizes, "strides": strides}
        _check_layers(sizes)
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        self.stride = self.window = 1
        for width, kernel, stride in zip(channels, kernel_sizes, strides, strict=True):
            conv = nn.Conv1d(input_size, width, kernel, stride, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            self.convs.append(conv)
            self.norms.append(nn.LayerNorm(width))
            self.window += (kernel - 1) * self.stride
            self.stride *= stride
            input_size = width
        self.norm = nn.LayerNorm(input_size)
        self.register_load_state_dict_pre_hook(_accept_speechbrain_names)

    def num_frames(self, num_features: int | torch.Tensor) -> int | torch.Tensor:
        """The number of frames whose feature frames are all there; 0 for fewer than `window`."""
        num_frames = (num_features - self.window) // self.stride + 1
        if isinstance(num_frames, torch.Tensor):
            return num_frames.clamp(min=0)
        return max(num_frames, 0)

    def forward(self, feats: torch.Tensor, num_features: torch.Tensor) -> torch.Tensor:
        """Feature frames (B, N, F) to frames (B, num_frames(N), channels)."""
        frames = feats
        for conv, norm in zip(self.convs, self.norms, strict=True):
            frames = conv(frames.transpose(1, 2)).transpose(1, 2)
            frames = F.gelu(norm(frames))
        return self.norm(frames)


def _check_layers(sizes):
    if len({len(numbers) for numbers in sizes.values()}) != 1:
        given = ", ".join(f"{name} = {list(numbers)}" for name, numbers in sizes.items())
        raise UserError(f"{given}: give one number for each layer")
    for name, numbers in sizes.items():
        if not all(isinstance(number, int) and number >= 1 for number in numbers):
            raise UserError(f"{name} = {list(numbers)}: give whole numbers of at least 1")


_SPEECHBRAIN_LAYER = re.compile(
    r"extractor\.convblock_(\d+)\.convs\.(conv|norm)_0\.(?:conv|norm)\."
)


def _accept_speechbrain_names(module, state_dict, prefix, *_):
    for name in [name for name in state_dict if name.startswith(prefix)]:
        ours = _SPEECHBRAIN_LAYER.sub(r"\2s.\1.", name.removeprefix(prefix))
        if prefix + ours != name:
            state_dict[prefix + ours] = state_dict.pop(name)


def front_end_of(module: nn.Module, padding: str = "exact") -> FrontEnd:
    """A module as a `FrontEnd`: itself if it is one, adapted if it is SpeechBrain's."""
    if hasattr(module, "num_frames"):
        return module
    geometry = module.get_filter_properties()
    return SameConvolutions(module, geometry.stride, geometry.window_size, padding)
