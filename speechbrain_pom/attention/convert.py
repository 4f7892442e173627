"""Other mixers for an existing model, whose other weights all stay.

What a spec needs around the mixers (positions, hooks, attributes) comes from the functions that the
constructors use (patches.py), so the converted model is the one that would have been built.
"""

import inspect

from speechbrain.lobes.models.transformer.Transformer import TransformerInterface
from torch import nn

from speechbrain_pom.attention.patches import (
    ENCODERS,
    build_layer,
    give_positions,
    give_relative_positions,
    guard_layer,
    mixer_of,
    register,
    unguard_layer,
)
from speechbrain_pom.attention.positions import ExtendedSinePositions, extend_positions
from speechbrain_pom.attention.registry import STAND_IN, get_type
from speechbrain_pom.attention.spec import one_builtin, parse_spec
from speechbrain_pom.utils.errors import UserError

POSITIONS = ("positional_encoding", "positional_encoding_decoder")
"""Parts of a TransformerInterface that depend on the spec."""


def convert_attention(model: nn.Module, spec: str) -> list[int]:
    """Replace mixers of a SpeechBrain model in place; all its other weights stay as they are.

    Afterwards the model is what its constructor would have built with this spec: state dicts have
    the same keys and parameters the same order, so checkpoints and optimizer states of the two
    interchange. Layers whose part of the spec does not change keep their mixers; all weights that
    stay are the same objects. New mixers are initialised as the constructor does it, from the
    current random state; they have the device, dtype and mode of their layer and require
    gradients. Build the optimizer after the conversion, or add their parameters to it.

    Below the first new mixer nothing changes where the positions stay: regularMHA and the mixers of
    this package share the sines at the encoder's input. RelPosMHAXL, RoPEMHA and hypermixing have
    positions of their own; beside mixers that have none, a model built with
    ``positional_encoding=None`` gets no sines and the others get them, in all layers.

    Arguments
    ---------
    model : torch.nn.Module
        Holds exactly one Conformer, Transformer or Branchformer encoder of SpeechBrain: a
        `TransformerASR`, an `EncoderWrapper`, a `SpeechEncoder`, any module around those, or an
        encoder by itself.
    spec : str
        The attention spec, such as ``"RelPosMHAXL*4 + PoM(degree=2)*8"``.

    Returns
    -------
    list of int
        The layers that have new mixers, 0 being the bottom one.

    Raises
    ------
    UserError
        If the spec is wrong, a mixer refuses its options, or the model holds no encoder that can
        be converted. The model is then as it was.

    Example
    -------
    Continue the pretraining of an encoder with multi-head attention as a hybrid:

    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> model = TransformerASR(
    ...     tgt_vocab=10, input_size=20, d_model=16, nhead=2, num_encoder_layers=4,
    ...     num_decoder_layers=0, d_ffn=32, encoder_module="conformer", normalize_before=True,
    ...     attention_type="regularMHA", causal=False,
    ... )  # and its weights from a checkpoint
    >>> convert_attention(model, "regularMHA*2 + PoM(degree=2, expand=2)*2")
    [2, 3]
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> model.encode(torch.randn(2, 50, 20), torch.tensor([1.0, 0.6])).square().mean().backward()
    >>> optimizer.step()
    """
    register()
    transformer, encoder = _find_encoder(model)
    layers = parse_spec(spec, len(encoder.layers))
    # All are built before any is put in: what a mixer refuses leaves the model as it was.
    fresh = {
        index: _build_like(layer, layer_spec, transformer)
        for index, (layer, layer_spec) in enumerate(zip(encoder.layers, layers, strict=True))
        if not _is_same(layer_spec, layer.built_from[0])
    }
    for index, new_layer in fresh.items():
        _put_mixer(encoder.layers[index], new_layer)
    _update_encoder(encoder, spec, layers)
    if transformer is not None:
        _update_positions(transformer, spec, layers)
    return list(fresh)


def _find_encoder(model):
    """The TransformerInterface that holds the one encoder in a model, or None, and the encoder."""
    found = {path: part for path, part in model.named_modules() if isinstance(part, ENCODERS)}
    kind = type(model).__name__
    if len(found) != 1:
        places = f"{len(found)} encoders ({', '.join(found)})" if found else "no encoder"
        raise UserError(
            f"the {kind} holds {places}: pass a module that holds exactly one Conformer, "
            "Transformer or Branchformer encoder of SpeechBrain"
        )
    (encoder,) = found.values()
    owners = [
        part
        for part in model.modules()
        if isinstance(part, TransformerInterface) and getattr(part, "encoder", None) is encoder
    ]
    if not owners and getattr(encoder, "is_in_interface", False):
        raise UserError(
            f"the {kind} is a part of a model whose positions depend on the spec: pass the "
            "TransformerASR that holds it, or what holds that"
        )
    if not all(hasattr(layer, "built_from") for layer in encoder.layers):
        raise UserError(
            f"the {kind} was built before speechbrain_pom was imported, so its settings are not "
            "known: import speechbrain_pom first, and build it again"
        )
    return (owners[0] if owners else None), encoder


def _is_same(layer_spec, former):
    """Whether two mixers have the same type and options, those left out included."""
    if layer_spec.name != former.name or layer_spec.is_builtin:
        return layer_spec.name == former.name
    kind = get_type(layer_spec.name)
    parameters = inspect.signature(kind.factory).parameters
    defaults = {name: parameters[name].default for name in kind.option_names}
    return defaults | dict(layer_spec.options) == defaults | dict(former.options)


def _build_like(layer, layer_spec, transformer):
    """A new layer with the mixer that is wanted; the rest of it is thrown away."""
    new_layer = build_layer(type(layer), layer.built_from[1], layer_spec)
    mixer = mixer_of(new_layer)
    # TransformerASR, TransformerLM: loops over the parameters of whatever they are called with
    for name in ("_init_params", "_reset_params"):
        if hasattr(transformer, name):
            getattr(type(transformer), name)(mixer)
    example = next(layer.parameters())
    mixer.to(example.device, example.dtype).train(layer.training)
    return new_layer


def _put_mixer(layer, new_layer):
    """Exchange the mixer; parts get the order of a new layer, as optimizers count parameters."""
    parts = dict(layer.named_children())
    for name, part in new_layer.named_children():
        is_mixer = part is mixer_of(new_layer)
        delattr(layer, name)
        layer.add_module(name, part if is_mixer else parts[name])
    layer.built_from = new_layer.built_from


def _update_encoder(encoder, spec, layers):
    """Hooks and attributes of an encoder and its layers."""
    builtin = one_builtin(layers)
    if hasattr(encoder, "relative_positions"):
        encoder.relative_positions.remove(encoder)
    for layer, layer_spec in zip(encoder.layers, layers, strict=True):
        unguard_layer(layer, keep_padding=builtin is None)
        if builtin is None:
            guard_layer(layer, layer_spec)
    if builtin is None:
        give_relative_positions(encoder, layers)
    if hasattr(encoder, "relative_positions"):
        _move_like(encoder.relative_positions, encoder)
    if hasattr(encoder, "attention_type"):  # a TransformerEncoder has none
        encoder.attention_type = builtin or spec


def _update_positions(transformer, spec, layers):
    """Attributes and positions of the model around the encoder."""
    builtin = one_builtin(layers)
    sines = getattr(transformer, "positional_encoding", None)
    # SpeechBrain's own positions come from its constructor: the smallest model that has them.
    template = TransformerInterface(
        **transformer.position_arguments,
        attention_type=builtin or STAND_IN,
        nhead=1,
        num_encoder_layers=0,
        num_decoder_layers=1,
        d_ffn=1,
    )
    transformer.attention_type = template.attention_type
    transformer.positional_encoding_type = template.positional_encoding_type
    for name in POSITIONS:
        if hasattr(transformer, name):
            delattr(transformer, name)
        if hasattr(template, name):
            setattr(transformer, name, getattr(template, name))
    if builtin is None:
        give_positions(transformer, spec, layers)
    elif isinstance(sines, ExtendedSinePositions):  # long utterances stay possible
        extend_positions(transformer)
    for name in POSITIONS:
        if hasattr(transformer, name):
            _move_like(getattr(transformer, name), transformer.encoder)


def _move_like(part, encoder):
    example = next(encoder.parameters())
    part.to(example.device, example.dtype).train(encoder.training)
