"""The sections of an hparams file that build models with an attention type.

In some files of SpeechBrain `attention_type` is a key at the top that the models refer to; in most
it stands inside of the section of a model, or is left to the default of the model's class. As an
option it reaches every encoder, wherever it stands.
"""

import inspect
import re
from dataclasses import dataclass

from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.hosts import arguments_of, is_language_model, takes_spec
from speechbrain_pom.runs.keys import check_apart, find_path, located, put, referred_key
from speechbrain_pom.runs.values import node_tag
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)
ATTENTION = "attention_type"
NUM_LAYERS = "num_encoder_layers"
_ABSENT = object()


@dataclass(frozen=True)
class Section:
    """A part of an hparams file that builds, or names, a model with an attention type.

    Arguments
    ---------
    path : tuple
        Keys and positions from the top of the file.
    node : dict or list
        The model's arguments.
    target : type or callable
    """

    path: tuple
    node: object
    target: object

    @property
    def name(self) -> str:
        """How the command line and messages call it."""
        return ".".join(map(str, self.path))

    @property
    def option(self) -> str:
        """The key of the command line for its attention type alone."""
        return f"{self.name}.{ATTENTION}"

    def place(self, name: str = ATTENTION) -> tuple:
        """Where an argument stands, or would stand."""
        by_name = isinstance(self.node, dict)
        arguments = list(arguments_of(self.target)[0])
        return (*self.path, name if by_name else arguments.index(name))

    def value(self, name: str = ATTENTION) -> object:
        """An argument as the file writes it, or else the default of the class."""
        default, key = arguments_of(self.target)[0][name].default, self.place(name)[-1]
        if isinstance(self.node, dict):
            return self.node.get(key, default)
        return self.node[key] if key < len(self.node) else default


def _walk(node, path=(), seen=None):
    """(path, node) of all containers, each once, where it is first."""
    seen = set() if seen is None else seen
    if not isinstance(node, (dict, list)) or id(node) in seen:
        return
    seen.add(id(node))
    yield path, node
    for key, child in node.items() if isinstance(node, dict) else enumerate(node):
        yield from _walk(child, (*path, key), seen)


def _models(tree):
    """The models with an attention type, and the language models beside them."""
    sections = [Section(path, node, located(node)) for path, node in _walk(tree)]
    sections = [section for section in sections if takes_spec(section.target)]
    models = [section for section in sections if not is_language_model(section.target)] or sections
    return models, [section for section in sections if section not in models]


def _has_encoder(section, tree, given):
    """Whether it builds encoder layers: some models are decoders alone, behind another encoder."""
    if NUM_LAYERS not in arguments_of(section.target)[0]:
        return True
    value = _given(section.place(NUM_LAYERS), given, section.value(NUM_LAYERS))
    for _ in tree:  # no more steps than keys: one may refer to itself
        key = referred_key(value)
        value = given.get((key,), tree[key]) if key in tree else value
    return value != 0


def encoder_sections(tree: dict, given: dict | None = None) -> tuple[list[Section], list[Section]]:
    """The sections whose encoder a spec is for, and the language models beside them.

    `given` is what the command line sets, by path. A language model that is not beside another
    model counts as an encoder.

    Example
    -------
    >>> from ruamel.yaml import YAML
    >>> name = "speechbrain.lobes.models.transformer.Transformer.TransformerEncoder"
    >>> tree = YAML().load(f"model: !new:{name} {{num_layers: 2, d_model: 8, nhead: 2, d_ffn: 8}}")
    >>> [(section.option, section.value()) for section in encoder_sections(tree)[0]]
    [('model.attention_type', 'regularMHA')]
    """
    given = given or {}
    return tuple([x for x in part if _has_encoder(x, tree, given)] for part in _models(tree))


def nested_overrides(tree: dict, values: dict) -> dict:
    """What a command line gives, as overrides for HyperPyYAML.

    The values are by key: of the top, of a section (`Transformer.d_ffn`), or `attention_type`,
    which reaches every encoder that no other key sets. A key that leads nowhere, an
    `attention_type` that no model can take, and one at the top of the file that no model uses are
    refused.

    Example
    -------
    >>> nested_overrides({"model": {"size": 1}, "lr": 2}, {"model.size": 3, "lr": 4})
    {'model': {'size': 3}, 'lr': 4}
    """
    check_apart(values)
    places = {find_path(key, tree): value for key, value in values.items() if key != ATTENTION}
    if ATTENTION in values:
        places.update(_places_of_attention(tree, places, values[ATTENTION]))
    elif ATTENTION in tree:
        _check_top_key(tree, places)
    overrides = {}
    for path, value in places.items():
        put(overrides, tree, path, value)
    return overrides


def _places_of_attention(tree, given, spec):
    """By place, what makes a spec that of all encoders; that of the top included."""
    encoders, language_models = encoder_sections(tree, given)
    sections = [section for part in _models(tree) for section in part]
    decoders = [section for section in sections if not _has_encoder(section, tree, given)]
    decoders = [section for section in decoders if not _is_given(section, given)]
    followers = [section for section in decoders if _follows_top_key(section, tree)]
    if not encoders and (followers or ATTENTION not in tree):
        raise UserError(_why_none(decoders))
    places = {section.place(): tree[ATTENTION] for section in followers}  # they keep theirs
    if ATTENTION in tree:
        places[ATTENTION,] = spec
    for section in encoders:
        if not _is_given(section, given) and not _follows_top_key(section, tree):
            places[find_path(section.option, tree)] = spec
    for section in language_models:
        if not _is_given(section, given) and not _follows_top_key(section, tree):
            logger.warning(
                "--attention_type is for the encoders: the language model %s keeps %s, which "
                "--%s changes",
                section.name,
                _text(section.value()),
                section.option,
            )
    return places


def _why_none(decoders):
    if decoders:
        return (
            f"--{ATTENTION}: {_names(decoders)} has no encoder layers ({NUM_LAYERS}: 0), and "
            "decoders have attention: it is for encoders"
        )
    return (
        f"--{ATTENTION}: no section of the file builds a model that takes one (a model that the "
        "recipe itself builds needs a key of the file)"
    )


def _is_given(section, given):
    """Whether the command line sets the attention type of a section, by itself or in a mapping."""
    return _given(section.place(), given, _ABSENT) is not _ABSENT


def _given(place, given, default):
    """What the command line sets for a place, by itself or in a mapping; None for what it hides."""
    for path, value in given.items():
        if place[: len(path)] == path:
            for step in place[len(path) :]:
                if isinstance(value, dict) and not node_tag(value) and step not in value:
                    return default
                value = value[step] if isinstance(value, dict) and step in value else None
            return value
    return default


def _follows_top_key(section, tree):
    return ATTENTION in tree and referred_key(section.value()) == ATTENTION


def _check_top_key(tree, given):
    """Refuse an `attention_type` at the top of a file that its models do not look at."""
    if _is_used(tree):
        return
    idle = [
        section
        for section in encoder_sections(tree, given)[0] or _models(tree)[0]
        if section.value() != tree[ATTENTION] and not _is_given(section, given)
    ]
    if idle:
        raise UserError(
            f"{ATTENTION}: {_text(tree[ATTENTION])} stands at the top of the file, but no model "
            f"uses it: write `{ATTENTION}: !ref <{ATTENTION}>` into {_names(idle)}, or give "
            f"--{ATTENTION} for all, --{idle[0].option} for one"
        )


def _names(sections):
    return " and ".join(f"{section.name} ({section.target.__name__})" for section in sections)


def _text(value):
    """A value as the file writes it."""
    return f"{node_tag(value)} {value.value}" if node_tag(value) else str(value)


def _is_used(tree):
    """Whether a model, or a mapping for the recipe, refers to the top-level key."""
    aliases = {ATTENTION}
    while more := {key for key in tree if referred_key(tree[key]) in aliases} - aliases:
        aliases |= more
    return any(path and _mentions(node, aliases) for path, node in _walk(tree))


def _mentions(node, aliases):
    """Whether arguments of a model, or values of a plain container, refer to one of some keys."""
    values = node.values() if isinstance(node, dict) else node
    names = {referred_key(value) for value in values}
    if node_tag(node):  # a model may also get a text with a reference in it
        texts = [value.value for value in values if node_tag(value) == "!ref"]
        names.update(name for text in texts for name in re.findall(r"<([^<>]+)>", text))
    return bool(names & aliases) and not _is_no_model(node)


def _is_no_model(node):
    target = located(node)
    return inspect.isclass(target) and not issubclass(target, nn.Module)
