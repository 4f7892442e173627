"""Which classes and functions take an attention type, SpeechBrain's and those of others."""

import inspect
from collections.abc import Callable

from speechbrain.lobes.models import dual_path
from speechbrain.lobes.models.transformer import Conformer, Transformer
from speechbrain.lobes.models.transformer.TransformerLM import TransformerLM

# They have a parameter attention_type, but no encoder to apply a spec to.
REFUSING = (
    Transformer.TransformerDecoder,
    Transformer.TransformerDecoderLayer,
    Conformer.ConformerDecoder,
    Conformer.ConformerDecoderLayer,
    dual_path.FastTransformerBlock,
)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def arguments_of(target: Callable) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments that a class or function takes by name, and whether it takes others too.

    They are in order of position; for a class with `**kwargs` those of its parents count as well.

    >>> arguments, takes_others = arguments_of(TransformerLM)
    >>> list(arguments)[:2], arguments["attention_type"].default, takes_others
    (['vocab', 'd_model'], 'regularMHA', False)
    """
    is_class = inspect.isclass(target)
    owners = [owner for owner in target.__mro__ if "__init__" in vars(owner)] if is_class else []
    functions = [vars(owner)["__init__"] for owner in owners] or [target]
    arguments = {}
    for function in functions:
        try:
            parameters = list(inspect.signature(function).parameters.values())[int(is_class) :]
        except (TypeError, ValueError):  # written in C
            return arguments, True
        arguments = {**{p.name: p for p in parameters if p.kind in _NAMED}, **arguments}
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            return arguments, False
    return arguments, True


def takes_spec(target: object) -> bool:
    """Whether a class or function takes an attention spec.

    >>> takes_spec(Transformer.TransformerEncoder), takes_spec(Transformer.TransformerDecoder)
    (True, False)
    """
    if not callable(target) or (inspect.isclass(target) and issubclass(target, REFUSING)):
        return False
    return "attention_type" in arguments_of(target)[0]


def is_language_model(target: object) -> bool:
    """Whether a class or function builds a language model, not an encoder of the input.

    >>> is_language_model(TransformerLM)
    True
    """
    return inspect.isclass(target) and issubclass(target, TransformerLM)
