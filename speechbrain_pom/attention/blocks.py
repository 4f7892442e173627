"""SpeechBrain's models other than TransformerASR: what their constructors do with a spec.

Each works with every spec or refuses it when it is built;
`tests/unit/attention/test_every_class.py` walks over all of SpeechBrain's classes that take one.
"""

from collections.abc import Callable
from inspect import BoundArguments

from torch import nn

from speechbrain_pom.attention.positions import ExtendedSinePositions
from speechbrain_pom.attention.registry import OWN_POSITIONS, STAND_IN, is_builtin
from speechbrain_pom.attention.spec import one_builtin, parse_spec
from speechbrain_pom.attention.wrapping import bound_init, encoder_spec, set_while
from speechbrain_pom.utils.errors import UserError


@bound_init
def conformer_block_init(original: Callable, self: nn.Module, call: BoundArguments) -> None:
    """SBConformerEncoderBlock: accept specs besides the two names that it knows."""
    named = call.arguments
    layers = parse_spec(named["attention_type"], named["num_layers"])
    builtin = one_builtin(layers)
    if builtin in ("regularMHA", "RelPosMHAXL"):
        named["attention_type"] = builtin
        original(*call.args, **call.kwargs)
    else:
        # Its forward asks for its attention_type: the stand-in's branch adds sines, or nothing.
        spec, named["attention_type"] = named["attention_type"], STAND_IN
        named["use_positional_encoding"] &= any(layer.name not in OWN_POSITIONS for layer in layers)
        with set_while(encoder_spec, spec):
            original(*call.args, **call.kwargs)
        _extend_sines(self)


@bound_init
def sines_or_none_init(original: Callable, self: nn.Module, call: BoundArguments) -> None:
    """Dual-path blocks and TransformerLM, which add sines or nothing to their encoder's input."""
    named = call.arguments
    spec = named["attention_type"]
    layers = parse_spec(spec, named.get("num_layers", named.get("num_encoder_layers")))
    if one_builtin(layers) == "RelPosMHAXL":
        raise UserError(
            f"attention_type {spec!r} in a {type(self).__name__}: SpeechBrain's class gives it no "
            "relative positions; choose another type"
        )
    original(*call.args, **call.kwargs)
    if not is_builtin(spec):
        _extend_sines(self)


def _extend_sines(block):
    """A block's own sines go on past the end of SpeechBrain's table; state dicts stay the same."""
    if hasattr(block, "pos_enc"):
        block.pos_enc = ExtendedSinePositions(block.pos_enc.pe.shape[2], block.pos_enc.max_len)


@bound_init
def fast_block_init(original: Callable, self: nn.Module, call: BoundArguments) -> None:
    """FastTransformerBlock: refuse specs, as it builds no encoder of SpeechBrain's."""
    spec = call.arguments["attention_type"]
    try:
        parse_spec(spec, call.arguments["num_layers"])
    except UserError:  # none of ours: a name of fast-transformers
        original(*call.args, **call.kwargs)
    else:
        raise UserError(
            f"attention_type {spec!r} in a FastTransformerBlock: its types are those of the "
            "package fast-transformers; use an SBTransformerBlock for attention specs"
        )
