"""Ways to change what a module of SpeechBrain does in a call, without keeping the call on it."""

import functools

import torch
from speechbrain.nnet.CNN import Conv1d, Conv2d


class InCall:
    """Stands for a module as the `self` of one call, in which some of its parts are others.

    SpeechBrain's own `forward` runs, and finds the other parts; the module itself stays as it is,
    so any number of threads may call it.

    Arguments
    ---------
    module : torch.nn.Module
    **parts : callable
        By the names that `forward` calls them.

    Example
    -------
    >>> layer = torch.nn.Sequential(torch.nn.Linear(2, 2))
    >>> InCall(layer, training="here").training, layer.training
    ('here', True)
    """

    def __init__(self, module, **parts):
        self.module = module
        self.parts = parts

    def __getattr__(self, name):
        parts = self.__dict__["parts"]
        return parts[name] if name in parts else getattr(self.__dict__["module"], name)


def with_own_ends(part, frames, lengths, reach, stride=1):
    """Call a part that convolves, and give it each utterance continued by its own reflection.

    Arguments
    ---------
    part : callable
        Reflects the end of the batch by itself, which is then too far away to matter.
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


def reflected_indices(lengths, num_frames):
    """Where each frame comes from when every utterance is continued by its own reflection.

    Arguments
    ---------
    lengths : torch.Tensor
        (B,) integers, the frames of each utterance.
    num_frames : int
        Frames after the continuation.

    Returns
    -------
    torch.Tensor
        (B, num_frames) integers: t inside the utterance, then mirrored at its last frame (and
        again at its first one, if it is shorter than what is added).

    Example
    -------
    >>> reflected_indices(torch.tensor([3]), 6)
    tensor([[0, 1, 2, 1, 0, 1]])
    """
    last = lengths.unsqueeze(1).clamp(min=1) - 1
    period = (2 * last).clamp(min=1)
    position = torch.arange(num_frames, device=lengths.device) % period
    return torch.minimum(position, 2 * last - position).clamp(min=0)


class TellsLengths:
    """Mixed into a sequence of modules: a second argument of the call, the utterances' lengths.

    `reaches` says for each part how far it reads beyond the end of an utterance, and its stride.
    It is found before anything can wrap the parts.
    """

    def forward(self, x, lengths=None):
        """Call the parts one after the other, each with the utterances' own ends if it needs them.

        Arguments
        ---------
        x : torch.Tensor
            (B, T, ...)
        lengths : torch.Tensor, optional
            (B,) integers, in frames of x.

        Returns
        -------
        torch.Tensor
        """
        if lengths is None:
            return super().forward(x)
        for part, (reach, stride) in zip(self.children(), self.reaches, strict=True):
            x = with_own_ends(part, x, lengths, reach, stride) if reach else part(x)
            lengths = lengths // stride
        return x


def reach_and_stride(module):
    """How far a part reads beyond the last frame of an utterance, and its frames per output.

    Arguments
    ---------
    module : torch.nn.Module

    Returns
    -------
    (int, int)
        In frames; (0, 1) for what has no convolution. Nothing needs to be reflected where a
        convolution pads with zeros, or does not pad at the end.

    Example
    -------
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
    """Of the sizes of a 2d convolution the one in time, which SpeechBrain has last."""
    return size[-1] if isinstance(size, (list, tuple)) else size


def inside(module, kind):
    """What a wrapper, such as that of activation checkpointing, is around.

    Arguments
    ---------
    module : torch.nn.Module
    kind : type or tuple of type

    Returns
    -------
    torch.nn.Module or None
        The outermost module of the kind, most often the module itself.

    Example
    -------
    >>> inside(torch.nn.Sequential(torch.nn.ReLU()), torch.nn.ReLU)
    ReLU()
    """
    return next((part for part in module.modules() if isinstance(part, kind)), None)


def become(module, kind):
    """Give a module another class in place; its weights, names, hooks and attributes stay.

    Arguments
    ---------
    module : torch.nn.Module
    kind : type
        Derived from its class `original`, of which the module is, or which somebody else has
        derived the module's class from.
    """
    if not isinstance(module, kind):
        own = type(module)
        module.__class__ = kind if own is kind.original else _mixed(kind, own)


def become_itself(module, kind):
    """Take `become` back.

    Arguments
    ---------
    module : torch.nn.Module
    kind : type
        As it was given there.
    """
    if isinstance(module, kind):
        module.__class__ = original_class(module)


def original_class(module):
    """The class that a module had before `become`.

    Arguments
    ---------
    module : torch.nn.Module

    Returns
    -------
    type

    Example
    -------
    >>> original_class(torch.nn.ReLU())
    <class 'torch.nn.modules.activation.ReLU'>
    """
    return vars(type(module)).get("original", type(module))


@functools.cache
def _mixed(kind, own):
    """A class that somebody has derived, with the kind in the place of SpeechBrain's."""

    def reduce(self):  # what has no name in a file cannot be pickled by its name
        return _new, (kind, own), self.__dict__

    return type(own.__name__, (own, kind), {"original": own, "__reduce__": reduce})


def _new(kind, own):
    mixed = _mixed(kind, own)
    return mixed.__new__(mixed)
