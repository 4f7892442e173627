"""SpeechBrain's Conformer chunk by chunk, in a state of constant size.

A chunk comes out as under the masks of dynamic chunk training: its mixers see it and `left` chunks
before it, its convolutions the frames before it and zeros after it. SpeechBrain's own
`forward_streaming` keeps the left frames of each layer instead, and mixes them again.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoderLayer
from speechbrain.nnet.hypermixing import HyperMixing
from torch import Tensor, nn

from speechbrain_pom.attention.layers import mixer_of
from speechbrain_pom.attention.parts import original_class
from speechbrain_pom.attention.rings import (
    ATTENTION,
    check_chunk_size,
    first_ring,
    is_attention,
    obstacle_to_ring,
    relative_positions,
    ring_step,
)
from speechbrain_pom.nnet.mixer import TokenMixer
from speechbrain_pom.utils.errors import UserError


class LayerState(NamedTuple):
    """What the next chunk of a stream needs of all chunks before it, in one layer.

    Arguments
    ---------
    past : torch.Tensor
        (B, d_model, (kernel_size - 1) / 2): the last inputs of the depthwise convolution; zeros
        before the stream, which are the padding of the masked pass.
    mixed : NamedTuple of torch.Tensor
        The mixer's state.
    """

    past: Tensor
    mixed: Any


def obstacle_to_steps(encoder: nn.Module, left_context_chunks: int | None = None) -> str | None:
    """Why one of SpeechBrain's encoders cannot encode a stream in a state of constant size.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder of a `TransformerASR`.
    left_context_chunks : int, optional
        Chunks that a frame sees to the left of its own; None: all.

    Returns
    -------
    str or None
        One line; None: it can.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    >>> encoder = ConformerEncoder(1, d_model=8, d_ffn=16, nhead=2, attention_type="hypermixing")
    >>> obstacle_to_steps(encoder)
    'hypermixing cannot mix a stream step by step: choose another attention_type'
    """
    for layer in encoder.layers:
        kind = original_class(layer)
        if kind is not ConformerEncoderLayer:
            return f"{kind.__name__} cannot stream: choose encoder_module: conformer"
        convolution = layer.convolution_module
        if convolution.causal or convolution.dilation != 1:
            return "the convolutions are causal or dilated: chunks need causal: False, dilation 1"
        obstacle = _obstacle_of(mixer_of(layer), left_context_chunks)
        if obstacle:
            return obstacle
    return None


def _obstacle_of(mixer, left_context_chunks):
    if is_attention(mixer):
        return obstacle_to_ring(mixer, left_context_chunks)
    if isinstance(mixer, TokenMixer):
        return mixer.obstacle_to_steps(left_context_chunks)
    return f"{_name_of(mixer)} cannot mix a stream step by step: choose another attention_type"


def _name_of(mixer):
    """The attention type that makes a mixer."""
    name = getattr(mixer, "registered_name", None) or type(mixer).__name__
    return {**ATTENTION, HyperMixing: "hypermixing"}.get(type(mixer), name)


def obstacle_to_fading(encoder: nn.Module) -> str | None:
    """Why what the layers of an encoder know of the past cannot fade or begin anew; None if it can.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder of a `TransformerASR`.

    Returns
    -------
    str or None
        One line.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    >>> encoder = ConformerEncoder(1, d_model=8, d_ffn=16, nhead=2, attention_type="RoPEMHA")
    >>> obstacle_to_fading(encoder)
    'RoPEMHA has no sums over time, which alone fade or begin anew: leave half-life and resets out'
    """
    for layer in encoder.layers:
        mixer = mixer_of(layer)
        if getattr(mixer, "summary_size", 0) and mixer.accepts_chunk_mask:
            continue
        return (
            f"{_name_of(mixer)} has no sums over time, which alone fade or begin anew: leave "
            "half-life and resets out"
        )
    return None


def emptied_sums(states: Sequence[LayerState]) -> list[LayerState]:
    """The states of layers whose mixers see nothing before the next chunk; convolutions go on."""
    return [state._replace(mixed=state.mixed.emptied()) for state in states]


def first_states(
    encoder: nn.Module,
    batch_size: int,
    left_context_chunks: int | None = None,
    chunk_size: int | None = None,
    half_life_chunks: float | None = None,
) -> list[LayerState]:
    """The states of an encoder's layers before the first chunk.

    Arguments
    ---------
    encoder : torch.nn.Module
        A `ConformerEncoder` without an `obstacle_to_steps`.
    batch_size : int
        B, streams.
    left_context_chunks : int, optional
        Chunks that a frame sees to the left of its own; None: all.
    chunk_size : int, optional
        C, frames of a chunk: for layers of attention only.
    half_life_chunks : float, optional
        Of the mixers' sums, as for `ChunkMask`; without an `obstacle_to_fading`.

    Returns
    -------
    list of LayerState

    Raises
    ------
    UserError
        With the obstacle, if there is one.
    """
    obstacle = obstacle_to_steps(encoder, left_context_chunks)
    fading = {} if half_life_chunks is None else {"half_life_chunks": half_life_chunks}
    obstacle = obstacle or (fading and obstacle_to_fading(encoder))
    if obstacle:
        raise UserError(obstacle)
    states = []
    for layer in encoder.layers:
        convolution = layer.convolution_module
        weight = convolution.conv.weight
        past = weight.new_zeros(batch_size, len(weight), convolution.padding)
        mixer = mixer_of(layer)
        if is_attention(mixer):
            check_chunk_size(chunk_size)
            mixed = first_ring(batch_size, left_context_chunks * chunk_size, len(weight), weight)
        else:
            mixed = mixer.first_state(batch_size, left_context_chunks, **fading)
        states.append(LayerState(past, mixed))
    return states


def encoder_step(
    encoder: nn.Module,
    frames: Tensor,
    states: Sequence[LayerState],
    encoding: nn.Module | None = None,
) -> tuple[Tensor, list[Tensor], list[LayerState]]:
    """Encode the next chunk of a stream, in eval mode.

    Arguments
    ---------
    encoder : torch.nn.Module
        As for `first_states`.
    frames : torch.Tensor
        (B, C, d_model): the input of the first layer. All chunks but the last have one size.
    states : sequence of LayerState
        From `first_states` or the step before; never changed in place.
    encoding : torch.nn.Module, optional
        SpeechBrain's `RelPosEncXL` of the model, where its only type is RelPosMHAXL.

    Returns
    -------
    output : torch.Tensor
        (B, C, d_model), as the encoder returns it for these frames with
        `DynChunkTrainConfig(C, left_context_chunks)`.
    hidden : list of torch.Tensor
        (B, C, d_model): the input of the first layer, and the output of each.
    states : list of LayerState
        For the next step, of the same sizes.

    Example
    -------
    >>> import speechbrain_pom  # attention types
    >>> from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    >>> encoder = ConformerEncoder(2, d_model=8, d_ffn=16, nhead=2, attention_type="PoM").eval()
    >>> states = first_states(encoder, batch_size=1)
    >>> output, hidden, states = encoder_step(encoder, torch.randn(1, 16, 8), states)
    >>> output.shape, len(hidden), len(states)
    (torch.Size([1, 16, 8]), 3, 2)
    """
    hidden, following = [frames], []
    positions = relative_positions(encoder, [state.mixed for state in states], frames, encoding)
    for layer, state in zip(encoder.layers, states, strict=True):
        frames, state = layer_step(layer, frames, state, positions)
        hidden.append(frames)
        following.append(state)
    return encoder.norm(frames), hidden, following


def layer_step(
    layer: nn.Module, frames: Tensor, state: LayerState, positions: Tensor | None = None
) -> tuple[Tensor, LayerState]:
    """One chunk (B, C, d_model) through a `ConformerEncoderLayer`; as `encoder_step`."""
    frames = frames + 0.5 * layer.ffn_module1(frames)
    mixer, inputs = mixer_of(layer), layer.norm1(frames)
    if is_attention(mixer):
        mixed, mixer_state = ring_step(mixer, inputs, state.mixed, positions)
    else:
        mixed, mixer_state = mixer.step(inputs, state.mixed)
    frames = frames + mixed
    convolved, past = _convolution_step(layer.convolution_module, frames, state.past)
    frames = frames + convolved
    frames = layer.norm2(frames + 0.5 * layer.ffn_module2(frames))
    return frames, LayerState(past, mixer_state)


def _convolution_step(module, frames, past):
    """The dynamic chunk convolution of a chunk, and the past of the next one."""
    inputs = module.bottleneck(module.layer_norm(frames).transpose(1, 2))  # (B, d, C)
    inputs = torch.cat([past.to(inputs.dtype), inputs], dim=-1)
    conv, num_frames = module.conv, frames.shape[1]
    padded = F.pad(inputs, (0, module.padding))
    convolved = F.conv1d(padded, conv.weight, conv.bias, groups=conv.groups)
    past = inputs[..., num_frames:].to(past.dtype, copy=True, memory_format=torch.contiguous_format)
    return module.after_conv(convolved.transpose(1, 2)), past
