"""What one call of SpeechBrain's `TransformerASR.encode` does otherwise: states, masks, layerdrop.

SpeechBrain takes these from attributes, or has no place for them. They are not set on the module
itself, where a second thread would meet them half-way: a call gets a view that shares all weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn


def in_call(
    transformer: nn.Module,
    hidden_states: bool = False,
    mask: torch.Tensor | None = None,
    mask_vector: torch.Tensor | None = None,
) -> nn.Module:
    """A view of a `TransformerASR` for one call of its `encode`; all weights are shared.

    In training with `layerdrop_prob`, a dropped layer passes its input on. SpeechBrain leaves it
    out of the hidden states too, so that their number varies and a weighted sum of them breaks;
    here it has a state, and weights with a gradient of zero, as several processes need it.

    Arguments
    ---------
    transformer : torch.nn.Module
        SpeechBrain's `TransformerASR`.
    hidden_states : bool
        `encode` returns (output, list of hidden states).
    mask : torch.Tensor, optional
        (B, T) boolean: frames in whose place, after the input projection and its dropout and
        before the positions, stands `mask_vector`.
    mask_vector : torch.Tensor, optional
        (d_model,).

    Returns
    -------
    torch.nn.Module
        The transformer itself where nothing differs.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> model = TransformerASR(
    ...     tgt_vocab=1, input_size=8, d_model=4, nhead=2, num_encoder_layers=2, d_ffn=4,
    ...     num_decoder_layers=0, encoder_module="conformer", normalize_before=True, causal=False,
    ...     positional_encoding="fixed_abs_sine", dropout=0.0, layerdrop_prob=0.9,
    ... )
    >>> mask = torch.tensor([[False, True, True, False, False]])
    >>> view = in_call(model, hidden_states=True, mask=mask, mask_vector=torch.zeros(4))
    >>> states = view.encode(torch.randn(1, 5, 8))[1]
    >>> len(states), torch.equal(states[0][0, 1], model.positional_encoding(states[0])[0, 1])
    (3, True)
    """
    drops = transformer.training and transformer.encoder.layerdrop_prob > 0
    if not (hidden_states or drops or mask is not None):
        return transformer
    view = _view(transformer)
    if mask is not None:
        _replace(view, "custom_src_module", _masked(view.custom_src_module, mask, mask_vector))
    if hidden_states or drops:
        view.encoder = _view(transformer.encoder)
        view.encoder.output_hidden_states = view.output_hidden_states = hidden_states
    if drops:
        _drop_layers(view.encoder)
    return view


def _view(module):
    """A copy of a module whose parts may be replaced; it shares them until then."""
    view = copy.copy(module)
    view._modules = dict(module._modules)
    return view


def _replace(view, name, part):
    """Put what need not be a module in place of a part of a view."""
    view._modules.pop(name)
    view.__dict__[name] = part


def _masked(project, mask, mask_vector):
    def masked(frames):
        frames = project(frames)
        return torch.where(mask.unsqueeze(-1), mask_vector.to(frames.dtype), frames)

    return masked


def _drop_layers(encoder):
    """Draw, as SpeechBrain does, from PyTorch's global generator on the CPU."""
    keep = torch.rand(len(encoder.layers)) > encoder.layerdrop_prob
    pairs = zip(encoder.layers, keep.tolist(), strict=True)
    _replace(encoder, "layers", [one if kept else _passing_on(one) for one, kept in pairs])
    encoder.layerdrop_prob = 0.0


def _passing_on(layer: nn.Module) -> Callable[..., tuple[torch.Tensor, None]]:
    """In place of a layer: its input, on which its weights have no influence but take part."""

    def dropped(frames, *_, **__):
        weights = [weight for weight in layer.parameters() if weight.requires_grad]
        zero = sum(weight.flatten()[0].to(frames.dtype) for weight in weights) * 0.0
        return frames + zero, None

    return dropped
