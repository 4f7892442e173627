"""A front end in which each utterance of a batch ends as it would alone.

SpeechBrain's convolutions reflect the end of the batch, and a shorter utterance ends in padding
instead. Here are its modules with a second argument, the lengths, by which each utterance is
reflected at its own end wherever a convolution reaches beyond it; one with a kernel of 3 and a
stride of 2, as in the recipes, does not. As in padding.py, no module stores anything of a call.
"""

import torch
from speechbrain.lobes.models import convolution
from speechbrain.nnet import containers
from torch import nn

from speechbrain_pom.attention.parts import (
    InCall,
    TellsLengths,
    become,
    become_itself,
    inside,
    reach_and_stride,
)
from speechbrain_pom.utils.errors import UserError


class Sequential(TellsLengths, containers.Sequential):
    """The convolutions of a block, with the lengths (B,) in frames as a second argument."""

    original = containers.Sequential


class ConvBlock(convolution.ConvBlock):
    """A block, with the lengths (B,) in frames as a second argument."""

    original = convolution.ConvBlock

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """As SpeechBrain's; its other branch has a kernel of 1."""
        if lengths is None:
            return super().forward(x)

        def convs(x):
            return self.convs(x, lengths)

        return convolution.ConvBlock.forward(InCall(self, convs=convs), x)


class ConvolutionFrontEnd(convolution.ConvolutionFrontEnd):
    """The front end, with the lengths (B,) in feature frames as a second argument."""

    original = convolution.ConvolutionFrontEnd

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """As SpeechBrain's without lengths; else every utterance ends as it would alone."""
        if lengths is None:
            return super().forward(x)
        for block, (reaches, stride) in zip(self.children(), self.blocks, strict=True):
            x = block(x, lengths) if reaches else block(x)
            lengths = lengths // stride
        return x


def take_lengths(front_end: nn.Module) -> None:
    """Let a front end be called with lengths; nothing else about it changes.

    A front end that is not SpeechBrain's `ConvolutionFrontEnd` is refused.

    >>> front_end = convolution.ConvolutionFrontEnd((8, 30, 10), strides=[1, 2, 2])
    >>> take_lengths(front_end)
    >>> front_end(torch.rand(2, 32, 10), torch.tensor([32, 20])).shape
    torch.Size([2, 8, 3, 512])
    """
    own = inside(front_end, convolution.ConvolutionFrontEnd)
    if own is None:
        raise UserError(
            f"the front end is a {type(front_end).__name__}, which cannot end each utterance "
            "as it would alone: take SpeechBrain's ConvolutionFrontEnd, or padding: speechbrain"
        )
    become(own, ConvolutionFrontEnd)
    own.blocks = []
    for child in own.children():
        block = inside(child, convolution.ConvBlock)
        convs = inside(block.convs, containers.Sequential)
        convs.reaches = [reach_and_stride(part) for part in convs.children()]
        reaches = any(reach for reach, _ in convs.reaches)
        own.blocks.append((reaches, block.get_filter_properties().stride))
        become(convs, Sequential)
        become(block, ConvBlock)


def front_end_lengths(
    padding: str, num_frames: torch.Tensor, stride: int
) -> tuple[torch.Tensor, ...]:
    """What a front end is called with besides the features: their lengths (B,), or nothing.

    Arguments
    ---------
    padding : str
        As given to `speechbrain_pom.attention.padding.set_padding`.
    num_frames : torch.Tensor
        (B,) integers, encoder frames.
    stride : int
        Feature frames per encoder frame.

    Returns
    -------
    tuple

    Example
    -------
    >>> front_end_lengths("exact", 5, 4), front_end_lengths("speechbrain", 5, 4)
    ((20,), ())
    """
    return (num_frames * stride,) if padding == "exact" else ()


def take_no_lengths(front_end: nn.Module) -> None:
    """Undo `take_lengths`."""
    own = inside(front_end, ConvolutionFrontEnd)
    if own is not None:
        become_itself(own, ConvolutionFrontEnd)
