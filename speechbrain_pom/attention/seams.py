"""Where we meet SpeechBrain: the few places that are wrapped, and nothing else.

SpeechBrain 1.1 has no registry of attention types: `TransformerInterface` compares the name with a
fixed list, and the encoder layers build no mixer for a name that they do not know. So constructors
are wrapped (never copied): specs that are one built-in name go through untouched; for others the
interface is built with a stand-in name, and each layer gets the mixer that its spec says. All
names used here are in `tests/unit/attention/test_contract.py`.
"""

import functools
import inspect
import threading
from contextlib import contextmanager
from contextvars import ContextVar

from packaging.version import Version
from speechbrain import __version__ as speechbrain_version
from speechbrain.lobes.models.transformer import Branchformer, Conformer, Transformer
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.utils.logger import get_logger

from speechbrain_pom.attention.padding import stop_leaks
from speechbrain_pom.attention.positions import NoPositions, RelativePositions, set_positions
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.attention.spec import parse_spec
from speechbrain_pom.ops import ChunkMask

logger = get_logger(__name__)

SUPPORTED_SPEECHBRAIN = ("1.1.2", "1.2")  # first version that works, first that is not tested

ENCODERS = (
    Conformer.ConformerEncoder,
    Transformer.TransformerEncoder,
    Branchformer.BranchformerEncoder,
)
LAYERS = (
    Conformer.ConformerEncoderLayer,
    Transformer.TransformerEncoderLayer,
    Branchformer.BranchformerEncoderLayer,
)
# The built-in types that take no positions from the encoder's input.
OWN_POSITIONS = ("RelPosMHAXL", "RoPEMHA", "hypermixing")

STAND_IN = "regularMHA"
_interface_spec = ContextVar("interface_spec", default=None)
_layer_queue = ContextVar("layer_queue", default=None)


class _Compact(threading.local):
    """Whether this thread is in a model that needs no (T, T) masks."""

    on = False  # not a ContextVar: torch.compile cannot follow those


_compact_masks = _Compact()


def check_version(version=speechbrain_version):
    """Refuse a SpeechBrain that the seams were not tested with.

    Arguments
    ---------
    version : str
        SpeechBrain's version.

    Raises
    ------
    ImportError
        Outside of the supported range.
    """
    first, end = SUPPORTED_SPEECHBRAIN
    if not Version(first) <= Version(version) < Version(end):
        raise ImportError(
            f"speechbrain-pom works with speechbrain>={first},<{end}, found {version}: "
            f'pip install "speechbrain>={first},<{end}"'
        )


def mixer_of(layer):
    """The attention module of an encoder layer.

    Arguments
    ---------
    layer : torch.nn.Module
        Layer of one of SpeechBrain's encoders.

    Returns
    -------
    torch.nn.Module or None

    Example
    -------
    >>> layer = Transformer.TransformerEncoderLayer(8, 2, d_model=4)
    >>> type(mixer_of(layer)).__name__
    'MultiheadAttention'
    """
    name = "mha_layer" if not isinstance(layer, LAYERS[1]) else "self_att"
    return getattr(layer, name, None)


@contextmanager
def _set(variable, value):
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _is_builtin(spec):
    return isinstance(spec, str) and spec in BUILTIN_TYPES


def _one_builtin(layers):
    """The name of the built-in type that all layers have, if that is so."""
    names = {layer.name for layer in layers}
    return names.pop() if len(names) == 1 and layers[0].is_builtin else None


def _bound(wrap):
    """Make a wrapper of __init__ that sees the call's arguments by name, defaults included."""

    def decorate(original):
        signature = inspect.signature(original)

        @functools.wraps(original)
        def init(self, *args, **kwargs):
            call = signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            wrap(original, self, call)

        return init

    return decorate


@_bound
def _interface_init(original, self, call):
    """TransformerInterface: accept specs, and see to the positions."""
    named = call.arguments
    spec, num_layers = named["attention_type"], named["num_encoder_layers"]
    if _is_builtin(spec):
        return original(*call.args, **call.kwargs)
    layers = parse_spec(spec, num_layers)
    builtin = _one_builtin(layers)
    if builtin is not None:
        named["attention_type"] = builtin
        return original(*call.args, **call.kwargs)
    named["attention_type"] = STAND_IN
    with _set(_interface_spec, spec):
        original(*call.args, **call.kwargs)
    self.attention_type = spec
    set_positions(
        self,
        named["d_model"],
        named["max_length"],
        named["positional_encoding"],
        needs_sines=any(layer.name not in OWN_POSITIONS for layer in layers),
    )
    return None


@_bound
def _encoder_init(original, self, call):
    """Encoders: hand each layer its own part of the spec, bottom first."""
    named = call.arguments
    spec = _interface_spec.get() or named["attention_type"]
    if _is_builtin(spec):
        return original(*call.args, **call.kwargs)
    layers = parse_spec(spec, named["num_layers"])
    builtin = _one_builtin(layers)
    if builtin is not None:
        named["attention_type"] = builtin
        return original(*call.args, **call.kwargs)
    named["attention_type"] = spec
    with _set(_interface_spec, None), _set(_layer_queue, iter(layers)):
        original(*call.args, **call.kwargs)
    if any(layer.name == "RelPosMHAXL" for layer in layers):
        RelativePositions(named["d_model"]).install(self, mixer_of)
    return None


@_bound
def _layer_init(original, self, call):
    """Encoder layers: build the registered mixer where SpeechBrain builds none."""
    named = call.arguments
    queue = _layer_queue.get()
    if queue is None and _is_builtin(named["attention_type"]):
        layer = None
    else:
        layer = next(queue) if queue else parse_spec(named["attention_type"], 1)[0]
        named["attention_type"] = layer.name
    with _set(_layer_queue, None):
        original(*call.args, **call.kwargs)
        if layer is not None and not layer.is_builtin:
            _add_mixer(self, layer, named)
    if layer is not None:  # the built-in layers of a mixed encoder too: no leak anywhere in it
        stop_leaks(self)
        if layer.name == "hypermixing":
            self.register_forward_pre_hook(_refuse_mask, with_kwargs=True)
    if mixer_of(self) is None:
        raise ValueError(
            f"attention_type {named['attention_type']!r} is not available in SpeechBrain's "
            f"{type(self).__name__}: it would be built without a mixer; choose another type"
        )


def _refuse_mask(layer, args, kwargs):
    """SpeechBrain's HyperMixing drops the mask without a word, and sees the future."""
    mask = kwargs.get("src_mask", args[1] if len(args) > 1 else None)
    if mask is not None:
        raise ValueError(
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


@_bound
def _decoder_layer_init(original, self, call):
    """Decoder layers: SpeechBrain leaves out the attention for a name it does not know."""
    if call.arguments["attention_type"] not in ("regularMHA", "RelPosMHAXL"):
        raise ValueError(
            f"attention_type {call.arguments['attention_type']!r} in a decoder: SpeechBrain's "
            "decoders have regularMHA or RelPosMHAXL; the attention spec is for encoders"
        )
    original(*call.args, **call.kwargs)


def takes_chunk_masks(encoder):
    """Whether all mixers of an encoder accept a `ChunkMask` in place of a (T, T) tensor."""
    return all(getattr(mixer_of(layer), "accepts_chunk_mask", False) for layer in encoder.layers)


@functools.cache
def _say_once(message):
    logger.warning(message)


def _warn_of_hypermixing(masked):
    """SpeechBrain's own type stays as it is, but not without a word."""
    if masked:
        _say_once(
            "attention_type hypermixing ignores causal and chunk masks (SpeechBrain's own): this "
            "model sees the future; choose another type for streaming"
        )


def _with_compact_masks(original):
    """TransformerASR.encode and .forward: no (T, T) tensor where no layer needs one."""

    @functools.wraps(original)
    def method(self, *args, **kwargs):
        if self.attention_type == "hypermixing":
            _warn_of_hypermixing(self.causal or kwargs.get("dynchunktrain_config"))
        compact = (
            not _is_builtin(self.attention_type)
            and hasattr(self, "encoder")
            and takes_chunk_masks(self.encoder)
        )
        if not compact:
            return original(self, *args, **kwargs)
        outside, _compact_masks.on = _compact_masks.on, True
        try:
            return original(self, *args, **kwargs)
        finally:
            _compact_masks.on = outside

    return method


def _make_src_mask(original):
    """make_transformer_src_mask: two numbers instead of a (T, T) tensor, where that is enough."""

    @functools.wraps(original)
    def make_transformer_src_mask(src, causal=False, dynchunktrain_config=None):
        if not _compact_masks.on or not (causal or dynchunktrain_config):
            return original(src, causal=causal, dynchunktrain_config=dynchunktrain_config)
        if not dynchunktrain_config:
            return ChunkMask(1)
        if causal:
            raise ValueError("causal: True excludes dynamic chunks: set causal: False")
        return ChunkMask(dynchunktrain_config.chunk_size, dynchunktrain_config.left_context_size)

    return make_transformer_src_mask


def _encode_streaming(original):
    """TransformerASR.encode_streaming: it restarts the sines in every chunk, so refuse those."""

    @functools.wraps(original)
    def encode_streaming(self, *args, **kwargs):
        relative = hasattr(self.encoder, "relative_positions")
        no_positions = isinstance(getattr(self, "positional_encoding", None), NoPositions)
        if relative or not (no_positions or _is_builtin(self.attention_type)):
            spec = getattr(self.encoder, "attention_type", self.attention_type)
            raise ValueError(
                f"attention_type {spec!r} cannot stream with {'relative' if relative else 'sine'} "
                "positions (SpeechBrain restarts them in every chunk): train with "
                "positional_encoding: null and without RelPosMHAXL layers"
            )
        stuck = [
            type(mixer).__name__
            for mixer in map(mixer_of, self.encoder.layers)
            if not getattr(mixer, "can_stream", True)
        ]
        if stuck:
            raise ValueError(
                f"{stuck[0]} cannot stream: a chunk and its left context do not determine its "
                "output; choose another attention_type"
            )
        return original(self, *args, **kwargs)

    return encode_streaming


def _keep_own_initialisation(original):
    """TransformerASR draws every matrix anew; of some mixers the first numbers have a meaning."""

    @functools.wraps(original)
    def _init_params(self):
        original(self)
        for module in self.modules():
            if getattr(module, "keeps_own_initialisation", False):
                module.reset_parameters()

    return _init_params


PATCHES = (
    (Transformer.TransformerInterface, "__init__", _interface_init),
    *((encoder, "__init__", _encoder_init) for encoder in ENCODERS),
    *((layer, "__init__", _layer_init) for layer in LAYERS),
    (Transformer.TransformerDecoderLayer, "__init__", _decoder_layer_init),
    (Conformer.ConformerDecoderLayer, "__init__", _decoder_layer_init),
    (asr.TransformerASR, "_init_params", _keep_own_initialisation),
    (asr.TransformerASR, "encode", _with_compact_masks),
    (asr.TransformerASR, "forward", _with_compact_masks),
    (asr.TransformerASR, "encode_streaming", _encode_streaming),
    (asr, "make_transformer_src_mask", _make_src_mask),
)
_originals = []


def register():
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
        original = getattr(owner, name)
        _originals.append((owner, name, original))
        setattr(owner, name, wrap(original))


def unregister():
    """Give SpeechBrain back its own functions. Models that exist keep working.

    Example
    -------
    >>> unregister()
    >>> unregister()  # nothing more to give back
    >>> register()
    """
    while _originals:
        owner, name, original = _originals.pop()
        setattr(owner, name, original)
