"""No padding leak: the convolutions of an encoder layer see an utterance as if it were alone.

SpeechBrain's convolutions read the frames of padding before the layer masks them. These hooks
(torch's public module hooks, never on encoders of one built-in type) repair the input
of each convolution: zeros where SpeechBrain pads the end of a sequence with zeros, the utterance's
own reflection where it reflects it. Nothing is added where there is no padding mask.
"""

import torch
from speechbrain.nnet.CNN import Conv1d


class PaddingSeam:
    """Carries the padding mask of a layer's call to the hooks on its convolutions.

    Arguments
    ---------
    layer : torch.nn.Module
        An encoder layer whose forward takes `src_key_padding_mask`.
    """

    def __init__(self, layer):
        self.key_padding_mask = None
        layer.register_forward_pre_hook(self._open, with_kwargs=True)
        layer.register_forward_hook(self._close, always_call=True)

    def _open(self, layer, args, kwargs):
        # forward(x, src_mask, src_key_padding_mask, ...) in all three kinds of encoder layer
        mask = kwargs.get("src_key_padding_mask")
        self.key_padding_mask = args[2] if mask is None and len(args) > 2 else mask

    def _close(self, layer, args, output):
        self.key_padding_mask = None

    def zero_output(self, module):
        """Zero the padded frames of a module's output (B, C, T): what a zero-padded conv reads."""
        module.register_forward_hook(self._zero_channels_first)

    def _zero_channels_first(self, module, args, output):
        if self.key_padding_mask is None:
            return output
        return output.masked_fill(self.key_padding_mask.unsqueeze(1), 0.0)

    def reflect_input(self, conv):
        """Make a reflecting "same" convolution (B, T, C) reflect each utterance at its own end."""
        if conv.padding != "same" or conv.padding_mode != "reflect":
            return
        conv.register_forward_pre_hook(self._append_reflection)
        conv.register_forward_hook(self._cut_to_input)

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


def stop_leaks(layer):
    """Install the hooks that a SpeechBrain encoder layer needs.

    Arguments
    ---------
    layer : torch.nn.Module
        Layer of SpeechBrain's Conformer, Branchformer or Transformer encoder.
    """
    seam = PaddingSeam(layer)
    if hasattr(layer, "convolution_module"):  # Conformer: zeros into the depthwise convolution
        seam.zero_output(layer.convolution_module.bottleneck)
    elif hasattr(layer, "convolution_branch"):  # Branchformer: a reflecting depthwise convolution
        seam.reflect_input(layer.convolution_branch.csgu.conv)
    else:  # Transformer: convolutions only with ffn_type="1dcnn"
        for module in layer.pos_ffn.modules():
            if isinstance(module, Conv1d):
                seam.reflect_input(module)
