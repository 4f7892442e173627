"""Ways to change what a module of SpeechBrain does in a call, without storing the call on it."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from speechbrain.nnet.CNN import Conv1d, Conv2d
from torch import nn


class InCall:
    """Stands in for a module as the `self` of one call, with some of its parts replaced.

    SpeechBrain's own `forward` runs and finds the replacements. The module itself does not change:
    any number of threads may call it.

    Arguments
    ---------
    module : torch.nn.Module
        The module.
    **parts : callable
        Replacements, by the names that `forward` uses.

    Example
    -------
    >>> layer = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> InCall(layer, training="here").training, layer.training
    ('here', True)
    """

    def __init__(self, module: nn.Module, **parts: Any) -> None:
        self.module = module
        self.parts = parts

    def __getattr__(self, name: str) -> Any:
        parts = self.__dict__["parts"]
        return parts[name] if name in parts else getattr(self.__dict__["module"], name)


def with_own_ends(
    part: Callable[[torch.Tensor], torch.Tensor],
    frames: torch.Tensor,
    lengths: torch.Tensor,
    reach: int,
    stride: int = 1,
) -> torch.Tensor:
    """Call a part that convolves with each utterance continued by its own reflection.

    Arguments
    ---------
    part : callable
        It reflects the end of the batch itself, which is then too far away to matter.
    frames : torch.Tensor
        (B, T, ...)
    lengths : torch.Tensor
        (B,) integers, the valid frames.
    reach : int
        Frames beyond its own that the last output of an utterance reads.
    stride : int
        Frames per output.

    Returns
    -------
    torch.Tensor
        (B, T // stride, ...)

    Example
    -------
    >>> frames = torch.arange(4.0).view(1, 4, 1)
    >>> with_own_ends(lambda x: x.roll(-2, 1), frames, torch.tensor([3]), 2).flatten()
    tensor([2., 1., 0., 1.])
    """
    num_frames = frames.shape[1]
    index = reflected_indices(lengths, num_frames + reach)
    index = index.reshape(*index.shape, *[1] * (frames.dim() - 2))
    extended = frames.gather(1, index.expand(-1, -1, *frames.shape[2:]))
    return part(extended)[:, : num_frames // stride]


def reflected_indices(lengths: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Indices (B, num_frames) that continue utterances with lengths (B,) by their own reflection.

    They count up inside an utterance, then mirror at its last frame (and again at its first one, if
    the utterance is shorter than what is added).

    >>> reflected_indices(torch.tensor([3]), 6)
    tensor([[0, 1, 2, 1, 0, 1]])
    """
    last = lengths.unsqueeze(1).clamp(min=1) - 1
    period = (2 * last).clamp(min=1)
    position = torch.arange(num_frames, device=lengths.device) % period
    return torch.minimum(position, 2 * last - position).clamp(min=0)


class TellsLengths:
    """Mixin for a sequence of modules, whose call gets a second argument: the utterances' lengths.

    `reaches` holds, for each part, how far it reads beyond the end of an utterance, and its stride.
    It is determined before anything can wrap the parts.
    """

    def forward(self, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """Call the parts in turn on (B, T, ...), with lengths (B,) in frames where needed."""
        if lengths is None:
            return super().forward(x)
        for part, (reach, stride) in zip(self.children(), self.reaches, strict=True):
            x = with_own_ends(part, x, lengths, reach, stride) if reach else part(x)
            lengths = lengths // stride
        return x


def reach_and_stride(module: nn.Module) -> tuple[int, int]:
    """Frames that a part reads beyond the last one of an utterance, and its frames per output.

    (0, 1) for a part without a convolution. Nothing has to be reflected where a convolution pads
    with zeros, or does not pad the end.

    >>> from speechbrain.nnet.CNN import Conv1d
    >>> reach_and_stride(Conv1d(8, 5, in_channels=4)), reach_and_stride(torch.nn.ReLU())
    ((2, 1), (0, 1))
    """
    module = inside(module, (Conv1d, Conv2d))
    if module is None:
        return 0, 1
    kernel, stride, dilation = map(_time, (module.kernel_size, module.stride, module.dilation))
    if module.padding != "same" or module.padding_mode != "reflect":
        return 0, stride
    span = dilation * (kernel - 1)
    before = kernel // 2 if stride > 1 else span // 2  # as SpeechBrain's get_padding_elem
    return max(0, span - before - stride + 1), stride


def _time(size):
    """The size in time of a 2-d convolution's sizes, which SpeechBrain has last."""
    return size[-1] if isinstance(size, (list, tuple)) else size


def inside(module: nn.Module, kind: type | tuple[type, ...]) -> nn.Module | None:
    """The outermost module of a kind in a module, which may be itself or what it wraps; or None.

    >>> inside(torch.nn.Sequential(torch.nn.ReLU()), torch.nn.ReLU)
    ReLU()
    """
    return next((part for part in module.modules() if isinstance(part, kind)), None)


def become(module: nn.Module, kind: type) -> None:
    """Change a module's class in place; its weights, names, hooks and attributes stay.

    The kind is derived from its attribute `original`, the module's class or a parent of it.
    """
    if not isinstance(module, kind):
        own = type(module)
        module.__class__ = kind if own is kind.original else _mixed(kind, own)


def become_itself(module: nn.Module, kind: type) -> None:
    """Undo `become`."""
    if isinstance(module, kind):
        module.__class__ = original_class(module)


def original_class(module: nn.Module) -> type:
    """The class that a module had before `become`.

    >>> original_class(torch.nn.ReLU())
    <class 'torch.nn.modules.activation.ReLU'>
    """
    return vars(type(module)).get("original", type(module))


@functools.cache
def _mixed(kind, own):
    """A class derived by somebody else, with the kind in place of SpeechBrain's."""

    def reduce(self):  # what has no name in a file cannot be pickled by its name
        return _new, (kind, own), self.__dict__

    return type(own.__name__, (own, kind), {"original": own, "__reduce__": reduce})


def _new(kind, own):
    mixed = _mixed(kind, own)
    return mixed.__new__(mixed)
