"""The patches of SpeechBrain: the few places that are wrapped, and nothing else.

SpeechBrain 1.1 has no registry of attention types: `TransformerInterface` compares the name with a
fixed list, and the encoder layers build no mixer for a name that they do not know. So constructors
are wrapped, never copied. A spec that is one built-in name passes through unchanged; for others the
interface is built with a stand-in name, and each layer gets the mixer of its spec. All names used
here are in `tests/unit/attention/test_contract.py`.
"""

import functools
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from packaging.version import Version
from speechbrain import Brain
from speechbrain import __version__ as speechbrain_version
from speechbrain.lobes.models import dual_path, resepformer
from speechbrain.lobes.models.transformer import Conformer, Transformer, TransformerLM
from speechbrain.lobes.models.transformer import TransformerASR as asr
from torch import nn

from speechbrain_pom.attention.blocks import (
    conformer_block_init,
    fast_block_init,
    sines_or_none_init,
)
from speechbrain_pom.attention.brains import checked_brain_init
from speechbrain_pom.attention.contexts import (
    chunk_by_states,
    context_of_states,
    streaming_with_positions,
)
from speechbrain_pom.attention.layers import ENCODERS, LAYERS, mixer_of
from speechbrain_pom.attention.masks import compact_src_mask, with_compact_masks
from speechbrain_pom.attention.padding import isolate_padding, restore_padding
from speechbrain_pom.attention.positions import RelativePositions, set_positions
from speechbrain_pom.attention.registry import OWN_POSITIONS, STAND_IN, get_type, is_builtin
from speechbrain_pom.attention.spec import LayerSpec, one_builtin, parse_spec
from speechbrain_pom.attention.wrapping import bound_init, encoder_spec, set_while
from speechbrain_pom.utils.errors import UserError

SUPPORTED_SPEECHBRAIN = ("1.1.2", "1.2")  # first version that works, first that is not tested

_layer_queue = ContextVar("layer_queue", default=None)


def check_version(version: str = speechbrain_version) -> None:
    """Refuse, by an ImportError, a SpeechBrain that the patches were not tested with."""
    first, end = SUPPORTED_SPEECHBRAIN
    if not Version(first) <= Version(version) < Version(end):
        raise ImportError(
            f"speechbrain-pom works with speechbrain>={first},<{end}, found {version}: "
            f'pip install "speechbrain>={first},<{end}"'
        )


@bound_init
def _interface_init(original, self, call):
    """TransformerInterface: accept specs, and set the positions."""
    named = call.arguments
    spec = named["attention_type"]
    layers = None if is_builtin(spec) else parse_spec(spec, named["num_encoder_layers"])
    if layers == []:
        raise UserError(
            f"attention_type {spec!r}: the {type(self).__name__} has no encoder layers, and "
            "decoders have attention; the attention spec is for encoders"
        )
    builtin = spec if layers is None else one_builtin(layers)
    _patch_initialisation(type(self))
    named["attention_type"] = builtin or STAND_IN
    with set_while(encoder_spec, None if builtin else spec):
        original(*call.args, **call.kwargs)
    names = ("d_model", "max_length", "positional_encoding")
    self.position_arguments = {name: named[name] for name in names}
    if hasattr(self, "encoder"):
        self.encoder.is_in_interface = True
    if builtin is None:
        give_positions(self, spec, layers)


def give_positions(transformer: nn.Module, spec: str, layers: Sequence[LayerSpec]) -> None:
    """Give a TransformerInterface with the stand-in the positions for a spec of several types."""
    transformer.attention_type = spec
    set_positions(
        transformer,
        **transformer.position_arguments,
        needs_sines=any(layer.name not in OWN_POSITIONS for layer in layers),
    )


@bound_init
def _encoder_init(original, self, call):
    """Encoders: hand each layer its own part of the spec, bottom first."""
    named = call.arguments
    spec = encoder_spec.get() or named["attention_type"]
    if is_builtin(spec):
        named["attention_type"] = spec
        return original(*call.args, **call.kwargs)
    layers = parse_spec(spec, named["num_layers"])
    builtin = one_builtin(layers)
    if builtin is not None:
        named["attention_type"] = builtin
        return original(*call.args, **call.kwargs)
    named["attention_type"] = spec
    with set_while(encoder_spec, None), set_while(_layer_queue, iter(layers)):
        original(*call.args, **call.kwargs)
    give_relative_positions(self, layers)
    return None


def give_relative_positions(encoder: nn.Module, layers: Sequence[LayerSpec]) -> None:
    """Install `RelativePositions` in an encoder with several types, RelPosMHAXL among them."""
    if any(layer.name == "RelPosMHAXL" for layer in layers):
        RelativePositions(encoder.layers[0].built_from[1]["d_model"]).install(encoder, mixer_of)


@bound_init
def _layer_init(original, self, call):
    """Encoder layers: build the registered mixer where SpeechBrain builds none."""
    named = call.arguments
    arguments = {name: value for name, value in named.items() if name != "self"}
    queue = _layer_queue.get()
    if queue is None and is_builtin(named["attention_type"]):
        layer = None
    else:
        layer = next(queue) if queue else parse_spec(named["attention_type"], 1)[0]
        named["attention_type"] = layer.name
    with set_while(_layer_queue, None):
        original(*call.args, **call.kwargs)
        if layer is not None and not layer.is_builtin:
            _add_mixer(self, layer, named)
    if layer is not None:  # the built-in layers of a mixed encoder too: no leak anywhere in it
        guard_layer(self, layer)
    self.built_from = layer or LayerSpec(named["attention_type"]), arguments
    if mixer_of(self) is None:
        raise UserError(
            f"attention_type {named['attention_type']!r} is not available in SpeechBrain's "
            f"{type(self).__name__}: it would be built without a mixer; choose another type"
        )


def build_layer(
    layer_class: type[nn.Module], arguments: Mapping[str, Any], layer_spec: LayerSpec
) -> nn.Module:
    """An encoder layer of a class in `LAYERS`, built as an encoder with a spec builds it."""
    with set_while(_layer_queue, iter([layer_spec])):
        return layer_class(**arguments)


def guard_layer(layer: nn.Module, layer_spec: LayerSpec) -> None:
    """Install what a layer of an encoder with a mixed spec needs around its mixer."""
    isolate_padding(layer, only_for_spec=True)
    if layer_spec.name == "hypermixing":
        layer.mask_refusal = layer.register_forward_pre_hook(_refuse_mask, with_kwargs=True)


def unguard_layer(layer: nn.Module, keep_padding: bool) -> None:
    """Undo `guard_layer`, except for the padding if `keep_padding`."""
    if hasattr(layer, "mask_refusal"):
        layer.mask_refusal.remove()
        del layer.mask_refusal
    if not keep_padding:
        restore_padding(layer, only_for_spec=True)


def _refuse_mask(layer, args, kwargs):
    """SpeechBrain's HyperMixing drops the mask without a word, and sees the future."""
    mask = kwargs.get("src_mask", args[1] if len(args) > 1 else None)
    if mask is not None:
        raise UserError(
            "hypermixing cannot honour a causal or chunk mask: it mixes all frames; set "
            "causal: False and no dynamic chunks, or choose another type"
        )


def _add_mixer(encoder_layer, layer, named):
    layer_arguments = {
        "nhead": named["nhead"],
        "dropout": named["dropout"],
        "causal": named.get("causal", False),
        "d_ffn": named.get("d_ffn", 4 * named["d_model"]),  # the Branchformer has no d_ffn
    }
    mixer = get_type(layer.name).build(named["d_model"], dict(layer.options), layer_arguments)
    name = "self_att" if isinstance(encoder_layer, LAYERS[1]) else "mha_layer"
    encoder_layer.add_module(name, mixer)


@bound_init
def _decoder_layer_init(original, self, call):
    """Decoder layers: SpeechBrain leaves out the attention for a name it does not know."""
    if call.arguments["attention_type"] not in ("regularMHA", "RelPosMHAXL"):
        raise UserError(
            f"attention_type {call.arguments['attention_type']!r} in a decoder: SpeechBrain's "
            "decoders have regularMHA or RelPosMHAXL; the attention spec is for encoders"
        )
    original(*call.args, **call.kwargs)


def _patch_initialisation(model_class):
    """Models draw every matrix anew at the end of their constructor, each in its own way."""
    for owner in model_class.__mro__:
        for name in ("_init_params", "_reset_params"):
            method = vars(owner).get(name)
            if method is not None and not hasattr(method, "keeps_own_initialisation"):
                _replace(owner, name, _keep_own_initialisation)


def _keep_own_initialisation(original):
    """The initial values of some mixers have a meaning."""

    @functools.wraps(original)
    def _init_params(self):
        original(self)
        for module in self.modules():
            if getattr(module, "keeps_own_initialisation", False):
                module.reset_parameters()

    _init_params.keeps_own_initialisation = True
    return _init_params


PATCHES = (
    (Transformer.TransformerInterface, "__init__", _interface_init),
    *((encoder, "__init__", _encoder_init) for encoder in ENCODERS),
    *((layer, "__init__", _layer_init) for layer in LAYERS),
    (Transformer.TransformerDecoderLayer, "__init__", _decoder_layer_init),
    (Conformer.ConformerDecoderLayer, "__init__", _decoder_layer_init),
    (dual_path.FastTransformerBlock, "__init__", fast_block_init),
    (dual_path.SBConformerEncoderBlock, "__init__", conformer_block_init),
    (dual_path.SBTransformerBlock, "__init__", sines_or_none_init),
    (resepformer.SBTransformerBlock_wnormandskip, "__init__", sines_or_none_init),
    (TransformerLM.TransformerLM, "__init__", sines_or_none_init),
    (Brain, "__init__", checked_brain_init),
    (asr.TransformerASR, "encode", with_compact_masks),
    (asr.TransformerASR, "forward", with_compact_masks),
    (asr.TransformerASR, "encode_streaming", streaming_with_positions),
    (Conformer.ConformerEncoder, "make_streaming_context", context_of_states),
    (Conformer.ConformerEncoder, "forward_streaming", chunk_by_states),
    (asr, "make_transformer_src_mask", compact_src_mask),
)
_originals = []


def register() -> None:
    """Make the attention types known to SpeechBrain. Importing `speechbrain_pom` does it.

    Idempotent; built-in types stay bit-identical.

    Raises
    ------
    ImportError
        If this SpeechBrain is outside of the supported range.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
    >>> register()
    >>> model = TransformerASR(
    ...     tgt_vocab=10, input_size=16, d_model=16, nhead=2, num_encoder_layers=2,
    ...     num_decoder_layers=0, d_ffn=32, encoder_module="conformer", normalize_before=True,
    ...     attention_type="RelPosMHAXL + PoM(degree=3)", causal=False,
    ... )
    >>> model.encode(torch.randn(1, 20, 16)).shape
    torch.Size([1, 20, 16])
    """
    check_version()
    if _originals:
        return
    for owner, name, wrap in PATCHES:
        _replace(owner, name, wrap)


def _replace(owner, name, wrap):
    original = getattr(owner, name)
    _originals.append((owner, name, original))
    setattr(owner, name, wrap(original))


def unregister() -> None:
    """Restore SpeechBrain's own functions. Existing models keep working.

    Example
    -------
    >>> unregister()
    >>> unregister()  # nothing left to restore
    >>> register()
    """
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)
