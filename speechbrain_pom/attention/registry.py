"""The attention types: SpeechBrain's own, ours, and those that others add."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from speechbrain_pom.utils.errors import UserError

# SpeechBrain 1.1's own names, with what they are. The contract test compares the names with the
# list inside TransformerInterface.
BUILTIN_TYPES = {
    "regularMHA": "multi-head attention (SpeechBrain)",
    "RelPosMHAXL": "multi-head attention with Transformer-XL relative positions (SpeechBrain)",
    "hypermixing": "HyperMixing, token mixing by generated MLPs (SpeechBrain)",
    "RoPEMHA": "multi-head attention with rotary positions (SpeechBrain)",
}

# Those of them that take no positions from the encoder's input.
OWN_POSITIONS = ("RelPosMHAXL", "RoPEMHA", "hypermixing")

# What classes that know only SpeechBrain's names are built with, when a spec says something else.
STAND_IN = "regularMHA"

# What an encoder layer can tell a mixer besides d_model. A factory that names one of these gets
# it from the layer; they are not options of the spec.
LAYER_ARGUMENTS = ("nhead", "dropout", "causal", "d_ffn")

_registered = {}


def is_builtin(spec: object) -> bool:
    """Whether an attention spec is just the name of one of SpeechBrain's own types.

    >>> is_builtin("RoPEMHA"), is_builtin("RoPEMHA*2")
    (True, False)
    """
    return isinstance(spec, str) and spec in BUILTIN_TYPES


@dataclass(frozen=True)
class AttentionType:
    """A registered attention type.

    Arguments
    ---------
    name : str
        The type's name, as a spec has it.
    factory : callable
        `factory(d_model, **layer_arguments, **options)` gives the module.
    description : str
        One line.
    option_names : tuple of str
        Options of the spec, in order of position.
    layer_argument_names : tuple of str
        Which of `LAYER_ARGUMENTS` the factory takes.
    """

    name: str
    factory: Callable[..., nn.Module]
    description: str
    option_names: tuple[str, ...]
    layer_argument_names: tuple[str, ...]

    def build(
        self, d_model: int, options: Mapping[str, Any], layer_arguments: Mapping[str, Any]
    ) -> nn.Module:
        """The mixer of one layer, from options of the spec and some or all of `LAYER_ARGUMENTS`."""
        taken = {name: layer_arguments[name] for name in self.layer_argument_names}
        return self.factory(d_model, **taken, **options)


def register_attention(
    name: str, factory: Callable[..., nn.Module], description: str | None = None
) -> None:
    """Add an attention type for the encoders of SpeechBrain.

    Arguments
    ---------
    name : str
        Its name in the spec: a Python identifier.
    factory : callable
        A class derived from `speechbrain_pom.TokenMixer`, whose docstring is the contract; or any
        callable that returns such a module, or one with the same call: `module(x, x, x,
        attn_mask=, key_padding_mask=, pos_embs=)` gives `(output, weights or None)`. The factory
        is called as `factory(d_model, **options)`; if its signature names any of nhead, dropout,
        causal or d_ffn, it gets the encoder layer's.
    description : str, optional
        One line; the first line of the factory's docstring when not given.

    Raises
    ------
    UserError
        If the name is taken (by another factory) or is no identifier.

    Example
    -------
    >>> import speechbrain_pom
    >>> class Identity(speechbrain_pom.TokenMixer):
    ...     def __init__(self, d_model, scale=1.0):
    ...         super().__init__()
    ...         self.scale = scale
    ...
    ...     def mix_frames(self, query, key, attn_mask, key_padding_mask):
    ...         return query * self.scale
    >>> speechbrain_pom.register_attention("Identity", Identity, "scales its input")
    >>> speechbrain_pom.attention_types()["Identity"]
    'scales its input'
    >>> speechbrain_pom.unregister_attention("Identity")
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise UserError(f"attention type {name!r}: give a name that is a Python identifier")
    taken = _registered.get(name)
    if name in BUILTIN_TYPES or (taken is not None and taken.factory is not factory):
        owner = "SpeechBrain" if taken is None else repr(taken.factory)
        raise UserError(f"attention type {name!r} is already registered by {owner}: rename yours")
    parameters = list(inspect.signature(factory).parameters.values())[1:]  # after d_model
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if description is None:
        description = (inspect.getdoc(factory) or name).splitlines()[0]
    _registered[name] = AttentionType(
        name,
        factory,
        description,
        option_names=tuple(n for n in names if n not in LAYER_ARGUMENTS),
        layer_argument_names=tuple(n for n in names if n in LAYER_ARGUMENTS),
    )


def unregister_attention(name: str) -> None:
    """Remove an attention type that `register_attention` added.

    Arguments
    ---------
    name : str
        Its name.

    Raises
    ------
    UserError
        If there is none of this name.

    Example
    -------
    >>> register_attention("Nothing", lambda d_model: torch.nn.Identity(), "for a moment")
    >>> unregister_attention("Nothing")
    >>> "Nothing" in attention_types()
    False
    """
    if name not in _registered:
        raise UserError(f"attention type {name!r} is not registered, nothing to remove")
    del _registered[name]


def get_type(name: str) -> AttentionType:
    """The `AttentionType` of a registered name."""
    return _registered[name]


def attention_types() -> dict[str, str]:
    """All attention types, SpeechBrain's own included.

    Returns
    -------
    dict of str to str
        Name to one-line description, sorted by name.

    Example
    -------
    >>> "RoPEMHA" in attention_types()
    True
    """
    types = {**BUILTIN_TYPES, **{name: kind.description for name, kind in _registered.items()}}
    return dict(sorted(types.items()))
