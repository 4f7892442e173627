"""A last check before training: whether the attention type of the hparams file was built at all.

A recipe that is started without `run` is not asked which keys its models refer to.
"""

import re
from collections.abc import Callable
from inspect import BoundArguments

from speechbrain import Brain

from speechbrain_pom.attention.layers import ENCODERS
from speechbrain_pom.attention.registry import BUILTIN_TYPES, attention_types
from speechbrain_pom.attention.wrapping import bound_init
from speechbrain_pom.utils.errors import UserError


@bound_init
def checked_brain_init(original: Callable, self: Brain, call: BoundArguments) -> None:
    """Brain: refuse an attention spec in the hparams that none of its encoders was built with."""
    spec = (call.arguments["hparams"] or {}).get("attention_type")
    encoders = {
        path: part
        for name, module in (call.arguments["modules"] or {}).items()
        for path, part in module.named_modules(prefix=name)
        if isinstance(part, ENCODERS)
    }
    if encoders and _names_a_type_of_ours(spec) and all(map(_is_speechbrains, encoders.values())):
        raise UserError(
            f"attention_type {spec!r} is in the hparams file, but none of its encoders "
            f"({', '.join(encoders)}) was built with it: write `attention_type: !ref "
            "<attention_type>` into the section of the model"
        )
    original(*call.args, **call.kwargs)


def _names_a_type_of_ours(spec):
    words = set(re.findall(r"\w+", spec)) if isinstance(spec, str) else set()
    return bool(words & (attention_types().keys() - BUILTIN_TYPES.keys()))


def _is_speechbrains(encoder):
    """Whether no layer has a registered type; layers from before the import have none either."""
    specs = [layer.built_from[0] for layer in encoder.layers if hasattr(layer, "built_from")]
    return all(spec.is_builtin for spec in specs)
