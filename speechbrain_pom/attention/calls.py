"""What one call of SpeechBrain's `TransformerASR.encode` does otherwise: states, masks, layerdrop.

SpeechBrain takes these from attributes, or has no place for them. They are not set on the module
itself, where a second thread would meet them half-way: a call gets a view that shares all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig
from torch import nn

from speechbrain_pom.attention.parts import InCall
from speechbrain_pom.ops import ChunkMask


@dataclass
class MaskedChunks(DynChunkTrainConfig):
    """SpeechBrain's configuration of chunks, with a mask of which it has no words.

    Arguments
    ---------
    chunk_size, left_context_size
        Those of the mask.
    mask : ChunkMask
        With a half-life or resets, for layers that all take such a mask.
    """

    mask: ChunkMask | None = None


def encode(
    transformer: nn.Module,
    frames: torch.Tensor,
    relative: torch.Tensor | None = None,
    hidden_states: bool = False,
    mask: torch.Tensor | None = None,
    mask_vector: torch.Tensor | None = None,
    chunks: ChunkMask | None = None,
) -> torch.Tensor | tuple[torch.Tensor, list[torch.Tensor]]:
    """Call a `TransformerASR`'s `encode`, perhaps with hidden states, a mask or dropped layers.

    In training with `layerdrop_prob`, a dropped layer passes its input on. SpeechBrain leaves it
    out of the hidden states too, so that their number varies and a weighted sum of them breaks;
    here it has a state, and weights with a gradient of zero, as several processes need it.

    Arguments
    ---------
    transformer : torch.nn.Module
        SpeechBrain's `TransformerASR`.
    frames : torch.Tensor
        (B, T, ...), from a front end.
    relative : torch.Tensor, optional
        (B,) relative lengths.
    hidden_states : bool
        Return the hidden states too.
    mask : torch.Tensor, optional
        (B, T) boolean: frames in whose place, after the input projection and its dropout and
        before the positions, stands `mask_vector`.
    mask_vector : torch.Tensor, optional
        (d_model,).
    chunks : ChunkMask, optional
        What mixers see; convolutions see nothing beyond a chunk.

    Returns
    -------
    torch.Tensor or tuple of (torch.Tensor, list of torch.Tensor)
        The output, perhaps with the hidden states: one more than layers.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> model = TransformerASR(
    ...     tgt_vocab=1, input_size=8, d_model=4, nhead=2, num_encoder_layers=2, d_ffn=4,
    ...     num_decoder_layers=0, encoder_module="conformer", normalize_before=True, causal=False,
    ...     positional_encoding="fixed_abs_sine", dropout=0.0, layerdrop_prob=0.9,
    ... )
    >>> frames, mask = torch.randn(1, 5, 8), torch.tensor([[False, True, True, False, False]])
    >>> masked = {"mask": mask, "mask_vector": torch.zeros(4)}
    >>> _, states = encode(model, frames, hidden_states=True, **masked)
    >>> len(states), torch.equal(states[0][0, 1], model.positional_encoding(states[0])[0, 1])
    (3, True)
    """
    drops = transformer.training and transformer.encoder.layerdrop_prob > 0
    view = transformer
    if hidden_states or drops:
        view = _view(transformer)
        view.encoder = _view(transformer.encoder)
        view.encoder.output_hidden_states = view.output_hidden_states = hidden_states
    if drops:
        layers = view.encoder._modules.pop("layers")
        drawn = _Drawn(len(layers), view.encoder.layerdrop_prob)
        stand_ins = [_DroppableLayer(layer, i, drawn) for i, layer in enumerate(layers)]
        view.encoder.__dict__.update(layers=stand_ins, layerdrop_prob=0.0)
    config = None if chunks is None else _config(chunks)
    if mask is None:
        return view.encode(frames, relative, dynchunktrain_config=config)
    project = _masked(transformer.custom_src_module, mask, mask_vector)
    call = InCall(view, custom_src_module=project)
    return type(transformer).encode(call, frames, relative, dynchunktrain_config=config)


def _config(mask):
    numbers = mask.chunk_size, mask.left_context_chunks
    return MaskedChunks(*numbers, mask) if mask.has_weights else DynChunkTrainConfig(*numbers)


def _view(module):
    """A copy of a module whose parts may be replaced; it shares them until then."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view


def _masked(project, mask, mask_vector):
    def masked(frames):
        frames = project(frames)
        return torch.where(mask.unsqueeze(-1), mask_vector.to(frames.dtype), frames)

    return masked


class _DroppableLayer(InCall):
    """Stands in for a layer in one pass over an encoder, and passes its input on if it is dropped.

    It is drawn for all layers where SpeechBrain draws, from PyTorch's generator: after the input
    projection, when the first layer is called.
    """

    def __init__(self, layer, number, drawn):
        super().__init__(layer)
        self.number, self.drawn = number, drawn

    @property
    def __class__(self):
        return type(self.module)  # for isinstance

    def __call__(self, frames, *args, **kwargs):
        if not self.drawn.keep:
            self.drawn.draw()
        if self.drawn.keep[self.number]:
            return self.module(frames, *args, **kwargs)
        if not hasattr(self.module, "unshard"):
            return _passing_on(self.module)(frames, *args, **kwargs)
        # In shards (FSDP): all processes gather the weights of a layer, also those that drop it.
        self.module.forward = _passing_on(self.module)
        try:
            return self.module(frames, *args, **kwargs)
        finally:
            del self.module.forward


class _Drawn:
    """Which layers of an encoder are kept, once it is drawn."""

    def __init__(self, num_layers, probability):
        self.num_layers, self.probability, self.keep = num_layers, probability, []

    def draw(self):
        self.keep = (torch.rand(self.num_layers) > self.probability).tolist()


def _passing_on(layer: nn.Module) -> Callable[..., tuple[torch.Tensor, None]]:
    """In place of a layer: its input, on which its weights have no influence but take part."""

    def dropped(frames, *_, **__):
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        zero = sum(weight.flatten()[0].to(frames.dtype) for weight in weights) * 0.0
        return frames + zero, None

    return dropped
