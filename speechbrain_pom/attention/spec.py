"""The attention spec: one string that says which mixer each layer has.

    PoM                                   a name
    PoM(degree=3, expand=2), PoM(3, 2)    with options
    RelPosMHAXL*4 + PoM(degree=2)*8       per layer, bottom first

It is parsed with `ast` and never evaluated. Every error is one line that quotes the spec, gives
the column of the part it is about, and lists what exists.
"""

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechbrain_pom.attention.registry import BUILTIN_TYPES, attention_types, get_type
from speechbrain_pom.utils.errors import UserError


@dataclass(frozen=True)
class LayerSpec:
    """The mixer of one layer.

    Arguments
    ---------
    name : str
        A built-in or registered attention type.
    options : tuple of (str, value)
        Its options, by name.

    Example
    -------
    >>> str(LayerSpec("PoM", (("degree", 3),)))
    'PoM(degree=3)'
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def is_builtin(self) -> bool:
        """Whether SpeechBrain itself builds this mixer."""
        return self.name in BUILTIN_TYPES

    def __str__(self) -> str:
        if not self.options:
            return self.name
        return f"{self.name}({', '.join(f'{key}={value!r}' for key, value in self.options)})"


def parse_spec(spec: str, num_layers: int) -> list[LayerSpec]:
    """Resolve an attention spec to one mixer per layer.

    Arguments
    ---------
    spec : str
        See the head of this module.
    num_layers : int
        Layers of the encoder. One term without a count stands for all of them; counts must add up.

    Returns
    -------
    list of LayerSpec
        Bottom layer first, `num_layers` long.

    Raises
    ------
    UserError
        Syntax, unknown type, unknown or double option, counts that do not add up.

    Example
    -------
    >>> [str(layer) for layer in parse_spec("RelPosMHAXL + PoM(3)*2", 3)]
    ['RelPosMHAXL', 'PoM(degree=3)', 'PoM(degree=3)']
    >>> parse_spec("PoMM", 2)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: attention_type 'PoMM': unknown type 'PoMM' at ...
    """
    parser = _Parser(spec)
    terms = parser.parse()
    if len(terms) == 1 and terms[0][1] is None:
        return [terms[0][0]] * num_layers
    layers = [layer for layer, count in terms for _ in range(1 if count is None else count)]
    if len(layers) != num_layers:
        counts = " + ".join(str(1 if count is None else count) for _, count in terms)
        raise UserError(
            f"attention_type {spec!r}: its counts add up to {counts} = {len(layers)} layers, "
            f"the encoder has {num_layers}"
        )
    return layers


def one_builtin(layers: Sequence[LayerSpec]) -> str | None:
    """The name of the built-in type that all layers have, or None."""
    names = {layer.name for layer in layers}
    return names.pop() if len(names) == 1 and layers[0].is_builtin else None


class _Parser:
    """Recursive descent over Python's syntax tree of one spec."""

    def __init__(self, spec):
        self.spec = spec

    def error(self, problem, node=None):
        """The error for a problem, with the column of the part it is about."""
        column = "" if node is None else f" at column {node.col_offset + 1}"
        names = ", ".join(attention_types())
        return UserError(f"attention_type {self.spec!r}: {problem}{column}. Available: {names}")

    def part(self, node):
        """The text of a part, as the user wrote it."""
        return ast.get_source_segment(self.spec, node)

    def parse(self):
        """List of (LayerSpec, count or None), bottom first."""
        if not isinstance(self.spec, str) or not self.spec.strip():
            raise self.error("not a spec: give a name, a name with options, or a sum of such terms")
        self.spec = self.spec.strip()
        try:
            return self.terms(self.tree())
        except (RecursionError, MemoryError):
            raise self.error("nested too deeply") from None

    def tree(self):
        """Python's syntax tree of the spec."""
        try:
            return ast.parse(self.spec, mode="eval").body
        except (SyntaxError, ValueError) as err:
            raise self.syntax_error(err) from None

    def syntax_error(self, err):
        """Explain text that is not even an expression."""
        mangled = re.search(r"\(([^()=]*,)?\s*[A-Za-z_]\w* [^()=,]+", self.spec)
        if mangled:
            return self.error(
                "SpeechBrain's command line splits values at '=' and leaves this; write the "
                "options by position, as in PoM(3, 2), or start the recipe with "
                "'python -m speechbrain_pom run', which keeps values as they are"
            )
        column = getattr(err, "offset", None) or 1
        return self.error(f"cannot read it from column {column} on ({getattr(err, 'msg', err)})")

    def terms(self, node):
        """Sums, left to right."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return self.terms(node.left) + self.terms(node.right)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            mixer, count = node.left, node.right
            if isinstance(mixer, ast.Constant):
                mixer, count = count, mixer
            return [(self.layer(mixer), self.count(count))]
        return [(self.layer(node), None)]

    def count(self, node):
        """A number of layers."""
        value = node.value if isinstance(node, ast.Constant) else None
        if type(value) is not int or value < 1:
            raise self.error(
                f"{self.part(node)!r} is not a number of layers (a whole number of at least 1)",
                node,
            )
        return value

    def layer(self, node):
        """A name, or a name with options."""
        call = node if isinstance(node, ast.Call) else None
        name = node.func if call else node
        if not isinstance(name, ast.Name):
            raise self.error(
                f"{self.part(node)!r} is neither a name, a name with options, NAME*COUNT, "
                "nor a sum of those",
                node,
            )
        if name.id not in attention_types():
            raise self.error(f"unknown type {name.id!r}" + self.at(name, name.id))
        return LayerSpec(name.id, self.options(name.id, call) if call else ())

    def at(self, node, wrong, known=None):
        """Column of a misspelt word and the closest one that exists."""
        closest = difflib.get_close_matches(wrong, attention_types() if known is None else known, 1)
        hint = f" (closest: {closest[0]})" if closest else ""
        return f" at column {node.col_offset + 1}{hint}"

    def options(self, name, call):
        """The options of a call as sorted (name, value) pairs."""
        if name in BUILTIN_TYPES:
            if call.args or call.keywords:
                raise self.error(f"{name} is SpeechBrain's own and takes no options here", call)
            return ()
        known = get_type(name).option_names
        takes = f"{name} takes {', '.join(known) if known else 'no options'}"
        if len(call.args) > len(known):
            raise self.error(
                f"{len(call.args)} options by position at column {call.col_offset + 1}; {takes}"
            )
        options = dict(zip(known, (self.value(arg) for arg in call.args), strict=False))
        for keyword in call.keywords:
            if keyword.arg not in known:
                wrong = keyword.arg or "**"
                raise self.error(
                    f"unknown option {wrong!r}{self.at(keyword, wrong, known)}; {takes}"
                )
            if keyword.arg in options:
                raise self.error(f"option {keyword.arg!r} is given twice", keyword)
            options[keyword.arg] = self.value(keyword.value)
        return tuple(options.items())

    def value(self, node):
        """A literal: number, text, True, False, None, or a list of those."""
        if isinstance(node, ast.Name):  # PoM(variant=selective): a bare word is a text
            return node.id
        try:
            value = ast.literal_eval(node)
        except (ValueError, TypeError):
            raise self.error(f"{self.part(node)!r} is not a plain value", node) from None
        return tuple(value) if isinstance(value, list) else value
