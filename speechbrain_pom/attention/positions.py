"""Positions of encoders with registered attention types.

The published models add fixed sines once, at the encoder's input. SpeechBrain's table of them ends
at `max_length` (2500 frames, 100 s) and crashes beyond; and its encoders know either sines or the
relative positions of RelPosMHAXL, not both in one stack.
"""

import math
from collections.abc import Callable

import torch
from speechbrain.lobes.models.transformer.Transformer import PositionalEncoding
from speechbrain.nnet.attention import RelPosEncXL, RelPosMHAXL
from torch import nn

from speechbrain_pom.ops.common.graphs import is_exporting


class ExtendedSinePositions(PositionalEncoding):
    """SpeechBrain's fixed sine positions, computed on demand past the end of the table.

    Arguments
    ---------
    input_size : int
        Width of the frames, even.
    max_len : int
        Length of the stored table: SpeechBrain's, so that state dicts are the same.

    Example
    -------
    >>> positions = ExtendedSinePositions(8, max_len=10)
    >>> longer = PositionalEncoding(8, max_len=30)(torch.zeros(1, 25, 8))
    >>> torch.equal(positions(torch.zeros(1, 25, 8)), longer)
    True
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Positions for frames x (B, T, d): (1, T, d)."""
        num_frames = x.size(1)
        if is_exporting():  # a graph is of any length, on either side of the table
            return sines_at(torch.arange(num_frames, device=x.device), self.pe).unsqueeze(0)
        if num_frames <= self.max_len:
            return super().forward(x)
        return PositionalEncoding(self.pe.shape[2], num_frames).pe.to(self.pe)


def positions_between(
    positions: nn.Module, start: int, stop: int, frames: torch.Tensor
) -> torch.Tensor:
    """The positions of the frames start to stop of a sequence, or of a stream.

    Arguments
    ---------
    positions : torch.nn.Module
        `ExtendedSinePositions` or `NoPositions`.
    start, stop : int
        Frames.
    frames : torch.Tensor
        (B, stop - start, d)

    Returns
    -------
    torch.Tensor
        (1, stop - start, d) as the module gives them for a sequence from 0 on, or (1, 1, 1).

    Example
    -------
    >>> positions, frames = ExtendedSinePositions(8, max_len=10), torch.zeros(1, 25, 8)
    >>> part = positions_between(positions, 20, 25, frames[:, 20:])
    >>> torch.equal(part, positions(frames)[:, 20:])
    True
    """
    if isinstance(positions, NoPositions):
        return positions(frames)
    if stop <= positions.max_len:
        return positions.pe[:, start:stop]
    # SpeechBrain's table begins at 0, and one of the whole file does not fit into a window.
    return sines_at(torch.arange(start, stop), positions.pe).unsqueeze(0)


def positions_from(
    positions: nn.Module, starts: torch.Tensor, frames: torch.Tensor
) -> torch.Tensor:
    """As `positions_between` for streams of which each is elsewhere, from numbers in a tensor.

    Arguments
    ---------
    positions : torch.nn.Module
        `ExtendedSinePositions` or `NoPositions`.
    starts : torch.Tensor
        (B,) integers: frames of each stream before these.
    frames : torch.Tensor
        (B, C, d)

    Returns
    -------
    torch.Tensor
        (B, C, d), or (1, 1, 1).

    Example
    -------
    >>> positions, frames = ExtendedSinePositions(8, max_len=10), torch.zeros(2, 5, 8)
    >>> part = positions_from(positions, torch.tensor([0, 20]), frames)
    >>> torch.allclose(part[1:], positions_between(positions, 20, 25, frames), atol=1e-6)
    True
    """
    if isinstance(positions, NoPositions):
        return positions(frames)
    numbers = torch.arange(frames.shape[1], device=frames.device)
    return sines_at(starts.unsqueeze(1) + numbers, positions.pe)


def sines_at(frames: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """SpeechBrain's fixed sines of frames by their numbers, computed instead of looked up.

    Arguments
    ---------
    frames : torch.Tensor
        (...,) integers: numbers of frames from the start of a sequence.
    like : torch.Tensor
        (..., d): its dtype, its device, and d.

    Returns
    -------
    torch.Tensor
        (..., d)

    Example
    -------
    >>> table = PositionalEncoding(8, max_len=30).pe
    >>> torch.equal(sines_at(torch.tensor([20]), table), table[0, 20:21])
    True
    """
    width = like.shape[-1]
    rates = torch.exp(torch.arange(0, width, 2).float() * -(math.log(10000.0) / width))
    angles = frames.unsqueeze(-1).float() * rates.to(frames.device)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2).to(like)


class NoPositions(nn.Module):
    """Stands for the sines where `positional_encoding` is null: adds nothing.

    SpeechBrain's `TransformerASR.encode` fails on null with its own regularMHA (an unset variable);
    a zero through the branch of the sines is the same as no positions.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A zero that broadcasts."""
        return x.new_zeros(1, 1, 1)


class RelativePositions(nn.Module):
    """Gives the RelPosMHAXL layers of a mixed encoder their positions, and only them.

    Arguments
    ---------
    d_model : int
        Width of the frames.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.encoding = RelPosEncXL(d_model)

    def install(
        self, encoder: nn.Module, mixer_of: Callable[[nn.Module], nn.Module | None]
    ) -> None:
        """Hook an encoder and its layers; `mixer_of` gives the attention module of a layer."""
        encoder.add_module("relative_positions", self)
        self._handles = [encoder.register_forward_pre_hook(_compute_positions, with_kwargs=True)]
        for layer in encoder.layers:
            if not isinstance(mixer_of(layer), RelPosMHAXL):
                # Other mixers ignore positions, but regularMHA would add them to its mask.
                handle = layer.register_forward_pre_hook(_drop_positions, with_kwargs=True)
                self._handles.append(handle)

    def remove(self, encoder: nn.Module) -> None:
        """Remove itself and all hooks from the encoder that it was installed in."""
        for handle in self._handles:
            handle.remove()
        del encoder.relative_positions


def _compute_positions(encoder, args, kwargs):
    source = kwargs["src"] if "src" in kwargs else args[0]
    if len(args) <= 3 and kwargs.get("pos_embs") is None:
        kwargs = {**kwargs, "pos_embs": encoder.relative_positions.encoding(source)}
    return args, kwargs


def _drop_positions(layer, args, kwargs):
    # SpeechBrain's encoders pass pos_embs by name
    return args, {**kwargs, "pos_embs": None}


def set_positions(
    transformer: nn.Module,
    d_model: int,
    max_length: int,
    positional_encoding: str | None,
    needs_sines: bool,
) -> None:
    """Give a TransformerInterface whose spec is not one built-in type its positions.

    Arguments
    ---------
    transformer : torch.nn.Module
        Built by SpeechBrain with the stand-in regularMHA.
    d_model, max_length : int
        As SpeechBrain got them.
    positional_encoding : str or None
        "fixed_abs_sine" or None, as SpeechBrain got it.
    needs_sines : bool
        Whether any layer relies on positions in its input.
    """
    if not needs_sines:
        # Only types with positions of their own: SpeechBrain's branch for RoPEMHA adds nothing
        # to the encoder's input and sines to the decoder's.
        transformer.attention_type = "RoPEMHA"
        transformer.positional_encoding_decoder = ExtendedSinePositions(d_model, max_length)
        return
    transformer.positional_encoding_type = "fixed_abs_sine"
    if positional_encoding is None:
        transformer.positional_encoding = NoPositions()
    else:
        transformer.positional_encoding = ExtendedSinePositions(d_model, max_length)


def extend_positions(transformer: nn.Module) -> None:
    """Let a TransformerInterface with SpeechBrain's own sines read more than its table."""
    sines = getattr(transformer, "positional_encoding", None)
    if type(sines) is PositionalEncoding:
        extended = ExtendedSinePositions(sines.pe.shape[2], sines.max_len)
        transformer.positional_encoding = extended.to(sines.pe)
