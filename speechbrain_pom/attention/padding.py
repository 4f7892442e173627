"""No padding leak: the convolutions of an encoder layer see an utterance as if it were alone.

SpeechBrain's convolutions read the frames of padding before the layer masks them. These hooks
(torch's public module hooks, never on encoders of one built-in type) repair the input
of each convolution: zeros where SpeechBrain pads the end of a sequence with zeros, the utterance's
own reflection where it reflects it. Nothing is added where there is no padding mask.
"""

import itertools
import operator
from contextlib import contextmanager

import torch
from speechbrain.nnet.CNN import Conv1d, Conv2d


class PaddingSeam:
    """Carries the padding mask of a layer's call to the hooks on its convolutions.

    Arguments
    ---------
    layer : torch.nn.Module
        An encoder layer whose forward takes `src_key_padding_mask`.
    """

    def __init__(self, layer):
        self.key_padding_mask = None
        self.only_for_spec = True
        self._handles = [
            layer.register_forward_pre_hook(self._open, with_kwargs=True),
            layer.register_forward_hook(self._close, always_call=True),
        ]

    def remove(self):
        """Take all hooks away."""
        for handle in self._handles:
            handle.remove()

    def _open(self, layer, args, kwargs):
        # forward(x, src_mask, src_key_padding_mask, ...) in all three kinds of encoder layer
        mask = kwargs.get("src_key_padding_mask")
        self.key_padding_mask = args[2] if mask is None and len(args) > 2 else mask

    def _close(self, layer, args, output):
        self.key_padding_mask = None

    def zero_output(self, module):
        """Zero the padded frames of a module's output (B, C, T): what a zero-padded conv reads."""
        self._handles.append(module.register_forward_hook(self._zero_channels_first))

    def _zero_channels_first(self, module, args, output):
        if self.key_padding_mask is None:
            return output
        return output.masked_fill(self.key_padding_mask.unsqueeze(1), 0.0)

    def reflect_input(self, conv):
        """Make a reflecting "same" convolution (B, T, C) reflect each utterance at its own end."""
        if conv.padding != "same" or conv.padding_mode != "reflect":
            return
        self._handles.append(conv.register_forward_pre_hook(self._append_reflection))
        self._handles.append(conv.register_forward_hook(self._cut_to_input))

    def _append_reflection(self, conv, args):
        (frames,) = args
        if self.key_padding_mask is None:
            return args
        reach = conv.dilation * (conv.kernel_size - 1) // 2
        index = reflected_indices(~self.key_padding_mask, reach)  # (B, T + reach)
        index = index.unsqueeze(-1).expand(-1, -1, frames.shape[2])
        return (frames.gather(1, index),)

    def _cut_to_input(self, conv, args, output):
        if self.key_padding_mask is None:
            return output
        return output[:, : self.key_padding_mask.shape[1]]


def reflected_indices(valid, reach):
    """Where each frame comes from when every utterance is continued by its own reflection.

    Arguments
    ---------
    valid : torch.Tensor
        (B, T) boolean, True for the first frames of each utterance.
    reach : int
        Frames to add after the T.

    Returns
    -------
    torch.Tensor
        (B, T + reach) integers: t inside the utterance, then mirrored at its last frame (and
        again at its first one, if it is shorter than the reach).

    Example
    -------
    >>> reflected_indices(torch.tensor([[True, True, True, False]]), 2)
    tensor([[0, 1, 2, 1, 0, 1]])
    """
    last = valid.sum(1, keepdim=True).clamp(min=1) - 1
    period = (2 * last).clamp(min=1)
    position = torch.arange(valid.shape[1] + reach, device=valid.device) % period
    return torch.minimum(position, 2 * last - position).clamp(min=0)


def stop_leaks(layer, only_for_spec=False):
    """Install the hooks that a SpeechBrain encoder layer needs, unless it has them.

    Arguments
    ---------
    layer : torch.nn.Module
        Layer of SpeechBrain's Conformer, Branchformer or Transformer encoder.
    only_for_spec : bool
        Whether `allow_leaks` may take them away. A call without it keeps them for good.
    """
    has_seam = hasattr(layer, "_padding_seam")
    seam = layer._padding_seam if has_seam else PaddingSeam(layer)
    seam.only_for_spec = seam.only_for_spec and only_for_spec
    if has_seam:
        return
    layer._padding_seam = seam
    if hasattr(layer, "convolution_module"):  # Conformer: zeros into the depthwise convolution
        seam.zero_output(layer.convolution_module.bottleneck)
    elif hasattr(layer, "convolution_branch"):  # Branchformer: a reflecting depthwise convolution
        seam.reflect_input(layer.convolution_branch.csgu.conv)
    else:  # Transformer: convolutions only with ffn_type="1dcnn"
        for module in layer.pos_ffn.modules():
            if isinstance(module, Conv1d):
                seam.reflect_input(module)


def allow_leaks(layer):
    """Take away the hooks that a layer has only because of its encoder's former attention spec.

    Arguments
    ---------
    layer : torch.nn.Module
        As `stop_leaks` takes it.
    """
    if hasattr(layer, "_padding_seam") and layer._padding_seam.only_for_spec:
        layer._padding_seam.remove()
        del layer._padding_seam


class ReflectedEnds:
    """Lets each utterance of a batch end in a front end as it would alone.

    SpeechBrain's convolutions reflect the end of the batch, and a shorter utterance ends in
    padding instead. Hooks reflect each utterance at its own end, where a convolution reaches
    beyond it: one with a kernel of 3 and a stride of 2, as in the recipes, does not.

    Arguments
    ---------
    front_end : torch.nn.Module
        SpeechBrain's `ConvolutionFrontEnd`.
    """

    def __init__(self, front_end):
        self.lengths = None
        for block, stride in zip(front_end.children(), _strides(front_end), strict=True):
            for conv in block.convs.modules():
                if isinstance(conv, (Conv1d, Conv2d)):
                    reach = _reach_beyond_end(conv)
                    if reach > 0:
                        _EndSeam(self, conv, stride, reach)
                    stride *= _time(conv.stride)

    @contextmanager
    def of(self, lengths):
        """Within this context the front end is given utterances of these lengths (B,) in frames."""
        self.lengths = lengths
        try:
            yield
        finally:
            self.lengths = None


class _EndSeam:
    """Hooks of a convolution: it is given `reach` frames more, and its output is cut again.

    A class, as methods follow a deep copy of the model where closures would not.
    """

    def __init__(self, ends, conv, stride_before, reach):
        self.ends = ends
        self.stride_before = stride_before
        self.reach = reach
        conv.register_forward_pre_hook(self._append)
        conv.register_forward_hook(self._cut)

    def _append(self, conv, args):
        (frames,) = args
        positions = torch.arange(frames.shape[1], device=frames.device)
        valid = positions < (self.ends.lengths // self.stride_before).unsqueeze(1)
        index = reflected_indices(valid, self.reach)
        index = index.reshape(*index.shape, *[1] * (frames.dim() - 2))
        return (frames.gather(1, index.expand(-1, -1, *frames.shape[2:])),)

    def _cut(self, conv, args, output):
        return output[:, : (args[0].shape[1] - self.reach) // _time(conv.stride)]


def _strides(front_end):
    """Of the front end's input in time, before each of its blocks."""
    blocks = front_end.children()
    strides = [block.get_filter_properties().stride for block in blocks]
    return itertools.accumulate(strides[:-1], operator.mul, initial=1)


def _reach_beyond_end(conv):
    """Frames that the last output of an utterance needs after its last input."""
    if conv.padding != "same" or conv.padding_mode != "reflect":
        return 0
    kernel, stride, dilation = map(_time, (conv.kernel_size, conv.stride, conv.dilation))
    span = dilation * (kernel - 1)
    before = kernel // 2 if stride > 1 else span // 2  # as SpeechBrain's get_padding_elem
    return span - before - stride + 1


def _time(size):
    """Of the sizes of a 2d convolution the one in time, which SpeechBrain has last."""
    return size[-1] if isinstance(size, (list, tuple)) else size
