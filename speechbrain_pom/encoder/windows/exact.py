"""The single pass over a file of any length, layer by layer, in the memory of a window.

A mixer with `num_passes`, `summarise` and `mix` (PolynomialMixer has them) sees the sequence only
through a summary, and summaries of its parts add up. So a layer takes a pass over all frames that
adds them up, and one that applies the layer to each window with the summary of the whole. The
frames stand in one (T, d_model) buffer, where each window is overwritten by the layer's output; the
few old frames that the next window's convolution still needs are kept aside.

The layers are SpeechBrain's own: a copy of each (of the object, not of its parameters) is called
with another module in the place of its mixer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from speechbrain.lobes.models.transformer.Branchformer import BranchformerEncoderLayer
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer
from speechbrain.lobes.models.transformer.Transformer import TransformerEncoderLayer
from speechbrain.nnet.CNN import Conv1d
from torch import nn

from speechbrain_pom.attention import mixer_of
from speechbrain_pom.attention.parts import original_class
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.inputs import WindowInputs, obstacle_to_parts
from speechbrain_pom.ops.common.sums import moved

if TYPE_CHECKING:  # the encoder stands on this module
    from speechbrain_pom.encoder.encoder import Layers, SpeechEncoder


def obstacle_to_exactness(encoder: SpeechEncoder) -> str | None:
    """Why windows do not give the frames of a single pass.

    Arguments
    ---------
    encoder : SpeechEncoder

    Returns
    -------
    str or None
        None if they do.
    """
    if encoder.transformer.causal:
        return "its mixers see the past only"
    for layer in encoder.transformer.encoder.layers:
        mixer = mixer_of(layer)
        if not getattr(mixer, "num_passes", 0):
            return f"{type(mixer).__name__} has no summary"
        if _reach(layer) is None:
            return f"how far {type(layer).__name__} sees is not known"
    return obstacle_to_parts(encoder)


def _reach(layer):
    """Frames to either side that a layer's convolutions see; None for an unknown layer."""
    kind = original_class(layer)
    if kind is ConformerEncoderLayer:
        return layer.convolution_module.padding
    if kind is BranchformerEncoderLayer:
        convolutions = [layer.convolution_branch.csgu.conv]
    elif kind is TransformerEncoderLayer:
        convolutions = [conv for conv in layer.pos_ffn.modules() if isinstance(conv, Conv1d)]
    else:
        return None
    return sum(conv.dilation * (conv.kernel_size - 1) for conv in convolutions)


class ExactWindows:
    """Encodes one file.

    Arguments
    ---------
    encoder : SpeechEncoder
        Without an `obstacle_to_exactness`.
    reader : AudioReader
        The file.
    window : int
        Frames of a window.
    progress : callable, optional
        Called with the share of the work that is done.
    """

    def __init__(
        self,
        encoder: SpeechEncoder,
        reader: AudioReader,
        window: int,
        progress: Callable[[float], None] | None = None,
    ) -> None:
        self.encoder = encoder
        self.inputs = WindowInputs(encoder, reader)
        self.window = window
        self.progress = progress
        self._done = self._work = 0

    def encode(
        self, layers: Layers, out: torch.Tensor | list[torch.Tensor] | None
    ) -> torch.Tensor | list[torch.Tensor]:
        """Encode the file.

        Arguments
        ---------
        layers : str, int or list of int
            As for `SpeechEncoder.forward`.
        out : list of torch.Tensor
            (T, d_model) on the CPU, for each layer one.
        """
        encoder = self.encoder
        stack = list(encoder.transformer.encoder.layers)
        numbers = layers if isinstance(layers, list) else [layers]
        if isinstance(numbers[0], int):
            stack = stack[: max(numbers)]
        # The frames stand in the result itself; a sum needs its own tensor beside them.
        frames = torch.empty_like(out[0]) if layers == "sum" else out[_last(numbers)]
        passes = sum(mixer_of(layer).num_passes + 1 for layer in stack)
        num_windows = -(-len(frames) // self.window)
        self._work = num_windows * (self.inputs.num_passes + 1 + passes + (layers == "last"))
        self.inputs.run_pass(self._windows)
        for start, stop in self._windows():
            frames[start:stop] = self.inputs.embed(start, stop)[0]
        for number in range(len(stack) + 1):
            if number > 0:
                self._pass_through(stack[number - 1], frames)
            if layers == "sum":
                self._add(number, frames, out[0])
            for wanted, target in zip(numbers, out, strict=True):
                if wanted == number and target is not frames:
                    target.copy_(frames)
        if layers == "last":
            for start, stop in self._windows():
                part = frames[start:stop].to(encoder.device)
                frames[start:stop] = encoder.transformer.encoder.norm(part)

    def _windows(self):
        """The ranges of frames of one pass."""
        num_frames = self.inputs.num_frames
        for start in range(0, num_frames, self.window):
            yield start, min(start + self.window, num_frames)
            self._done += 1
            if self.progress:
                self.progress(self._done / self._work)

    def _add(self, number, frames, total):
        """Add a hidden state to the weighted sum."""
        weight = self.encoder.layer_sum.scores.softmax(0)[number].item()
        if number == 0:
            total.zero_()
        total.add_(frames, alpha=weight)

    def _pass_through(self, layer, frames):
        """Replace the frames (T, d_model) by the layer's output."""
        device, reach = self.encoder.device, _reach(layer)
        summary = self._summary(layer, frames)
        layer = _with_mixer(layer, _Mixed(mixer_of(layer), summary))
        before = frames[:0].to(device)  # what was in the frames to the left of the window
        for start, stop in self._windows():
            after = frames[start : stop + reach].to(device)
            old = torch.cat([before, after])
            output, _ = layer(old.unsqueeze(0))
            end = len(before) + stop - start
            frames[start:stop] = output[0, len(before) : end]
            before = old[max(0, end - reach) : end].clone()

    def _summary(self, layer, frames):
        """What the layer's mixer knows of all frames, on the device."""
        mixer, device = mixer_of(layer), self.encoder.device
        summary = None
        for _ in range(mixer.num_passes):
            reading, total = _Summarised(mixer, summary), None
            ended = _with_mixer(layer, reading)
            for start, stop in self._windows():
                try:
                    ended(frames[start:stop].to(device).unsqueeze(0))
                except _EnoughError:
                    part = moved(reading.summary, "cpu", torch.float64)
                total = part if total is None else total + part
            summary = moved(total, device, torch.promote_types(frames.dtype, torch.float32))
        return summary


def _last(numbers):
    """The place of the uppermost layer."""
    return max(range(len(numbers)), key=lambda place: numbers[place])


def _with_mixer(layer, mixer):
    """A view of a layer with another mixer; all else is shared, and the layer itself unchanged."""
    own = mixer_of(layer)
    (name,) = (name for name, child in layer.named_children() if child is own)
    view = copy.copy(layer)
    view._modules = {**layer._modules, name: mixer}
    return view


class _EnoughError(Exception):
    """Ends the call of a layer at its mixer."""


class _Summarised(nn.Module):
    """In the place of a mixer: keeps the summary of what that is given, and ends the call."""

    def __init__(self, mixer, earlier):
        super().__init__()
        self.mixer, self.earlier, self.summary = mixer, earlier, None

    def forward(self, query, *_, **__):
        self.summary = self.mixer.summarise(query, earlier=self.earlier)
        raise _EnoughError


class _Mixed(nn.Module):
    """In the place of a mixer: mixes by the summary of the whole sequence."""

    def __init__(self, mixer, summary):
        super().__init__()
        self.mixer, self.summary = mixer, summary

    def forward(self, query, *_, **__):
        return self.mixer.mix(query, self.summary), None
