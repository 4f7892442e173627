"""The architecture of an encoder, from an hparams file, without running what is in there.

A YAML for HyperPyYAML can call any function. Of a saved one, only the sections of the model are
taken, and these may only name the modules that models are made of.
"""

from __future__ import annotations

import io
import pydoc
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.tag import Tag
from torch import nn

from speechbrain_pom.attention.hosts import arguments_of
from speechbrain_pom.encoder.chunks import TRAINED, trained_chunks
from speechbrain_pom.encoder.hidden_states import Layers
from speechbrain_pom.runs.keys import located, unknown_key_message
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.overlay import overlay
from speechbrain_pom.runs.sections import nested_overrides
from speechbrain_pom.runs.values import node_tag
from speechbrain_pom.utils.errors import UserError, one_line

ENCODER_TAG = "!new:speechbrain_pom.encoder.SpeechEncoder"
# The arguments of a SpeechEncoder that are its architecture, and where they stand in files without
# a section `encoder`: those of SpeechBrain's BEST-RQ recipe, and of version 0.1.
PARTS = {
    "compute_features": "compute_features",
    "normalize": "normalize",
    "front_end": "CNN",
    "transformer": "Transformer",
}
OPTIONAL_SECTIONS = ("head", "weighted_sum")
# Not all of speechbrain: some of its classes download and unpickle what their arguments name.
ALLOWED = (
    "torch.nn.",
    "speechbrain.lobes.features.",
    "speechbrain.lobes.models.convolution.",
    "speechbrain.lobes.models.transformer.",
    "speechbrain.nnet.",
    "speechbrain.processing.features.",
    "speechbrain_pom.encoder.",
    "speechbrain_pom.nnet.",
)
# Of functions only the one that the recipe's head needs: arithmetic.
ALLOWED_CALL = "!apply:speechbrain_pom.ctc.tokenizer_store.num_outputs"
_YAML_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "seq", "map", "merge")
# Names of version 0.1, in the files of its runs and exports: read for one version more.
FORMER_NAMES = {
    "!apply:speechbrain_pom.ctc.unit_store.num_outputs": ALLOWED_CALL,
    "!new:speechbrain_pom.inference.encoder.SpeechEncoder": ENCODER_TAG,
    "!new:speechbrain_pom.encoder.encoder.SpeechEncoder": ENCODER_TAG,
}
# What other sections may ask of the encoder, and the argument of its Transformer that says it.
ENCODER_SIZES = {"d_model": "d_model", "num_layers": "num_encoder_layers"}


def read_architecture(hparams_file: str | Path, overrides: Mapping | None = None) -> str:
    """The sections of an hparams file that describe the model.

    Arguments
    ---------
    hparams_file : str or pathlib.Path
        With a section `encoder` as in hparams/pom.yaml, or the keys CNN, Transformer,
        compute_features and normalize as SpeechBrain's BEST-RQ recipe and version 0.1; perhaps
        with head and weighted_sum.
    overrides : dict, optional
        Other values for keys of the file, as on a command line.

    Returns
    -------
    str
        YAML with these keys alone, the encoder as one section, all references resolved. For a
        model that was trained with dynamic chunks also `trained_with_chunks`.

    Raises
    ------
    UserError
        If the file cannot be read, a key is missing, an override changes nothing, or a section
        names anything but modules of torch.nn, SpeechBrain's layers and this package.

    Example
    -------
    >>> text = read_architecture("hparams/pom.yaml", {"d_model": 96, "attention_type": "Mamba"})
    >>> section = YAML().load(text)["encoder"]
    >>> list(section)[3:], section["transformer"]["d_model"]
    (['transformer', 'padding', 'feature_floor'], 96)
    """
    text = _architecture(Path(hparams_file), overrides or {})
    for key, value in (overrides or {}).items():
        rest = {other: overrides[other] for other in overrides if other != key}
        if text != _architecture(Path(hparams_file), rest):
            continue
        if "." in key or _resolved(Path(hparams_file), rest)[key] != value:
            raise UserError(
                f"{hparams_file}: {key} = {value} changes nothing of the encoder. In the "
                "hyperparams.yaml of a run no value stands for another: give the hparams file that "
                "it was started with, or a path in the section, as encoder.transformer.dropout"
            )
    return checked_architecture(text, hparams_file)


def _architecture(hparams_file: Path, overrides: Mapping) -> str:
    tree = _resolved(hparams_file, overrides)
    sections = {"encoder": _encoder_section(tree, hparams_file)}
    sections |= {key: tree[key] for key in OPTIONAL_SECTIONS if key in tree}
    for key, node in sections.items():
        sections[key] = _with_sizes(node, sections["encoder"])
    chunks = trained_chunks(tree)
    return as_text(sections if chunks is None else {TRAINED: chunks, **sections})


def as_text(tree: Mapping) -> str:
    """A YAML tree as text, without its comments, which may say anything of where it comes from."""
    stream = io.StringIO()
    YAML().dump(tree, stream)
    return _serialised(yaml.compose(stream.getvalue(), Loader=yaml.SafeLoader))


def _serialised(node):
    return yaml.serialize(node, Dumper=yaml.SafeDumper, width=4096, allow_unicode=True)


def _resolved(hparams_file: Path, overrides: Mapping) -> dict:
    tree = read_tree(hparams_file)
    _refuse_early_calls(tree, hparams_file)
    for key in overrides:
        if key.split(".")[0] not in tree:
            raise UserError(f"{hparams_file}: {unknown_key_message(key, tree, prefix='')}")
    unset = {key: f"unset_{key}" for key, node in tree.items() if node_tag(node) == "!PLACEHOLDER"}
    try:
        given = nested_overrides(tree, dict(overrides)) if overrides else {}
        return YAML().load(resolve_references(*overlay(hparams_file, {**unset, **given})))
    except Exception as error:  # whatever HyperPyYAML meets in resolving references
        raise UserError(f"{hparams_file} cannot be resolved: {one_line(error)}") from error


def _refuse_early_calls(tree: dict, hparams_file: Path) -> None:
    """HyperPyYAML runs these where it resolves references, before anything could be looked at."""
    for node in _nodes(tree):
        kind = node_tag(node).partition(":")[0]
        if kind in ("!applyref", "!include"):
            raise UserError(
                f"{hparams_file} has {node_tag(node)}, which runs in reading: give the "
                "hyperparams.yaml of the run, in which it is resolved"
            )


def _encoder_section(tree: dict, hparams_file: str | Path) -> CommentedMap:
    """The node of a SpeechEncoder, made of the four older keys where there is none."""
    tag = node_tag(tree.get("encoder"))
    is_new = FORMER_NAMES.get(tag, tag) == ENCODER_TAG
    found = tree["encoder"] if is_new else {new: tree.get(old) for new, old in PARTS.items()}
    names = {part: f"encoder.{part}" if is_new else old for part, old in PARTS.items()}
    missing = [names[part] for part in PARTS if found.get(part) is None and part != "normalize"]
    if not is_new and "normalize" not in tree:
        missing.append("normalize")
    if missing:
        raise UserError(
            f"{hparams_file} has no {', '.join(missing)}: an encoder's hparams file has a section "
            f"encoder, as hparams/pom.yaml, or the keys {', '.join(PARTS.values())}, as "
            "SpeechBrain's BEST-RQ recipe"
        )
    section = CommentedMap((part, _as_mapping(found[part])) for part in PARTS)
    for key in ("padding", "feature_floor"):
        value = (found if is_new else tree).get(key)
        if value is not None:
            section[key] = value
    section.yaml_set_ctag(Tag(suffix=ENCODER_TAG))
    return section


def _as_mapping(node: object) -> object:
    """A part whose arguments stand in a list, with their names."""
    if not isinstance(node, list) or located(node) is None:
        return node
    named = CommentedMap(zip(arguments_of(located(node))[0], node, strict=False))
    named.yaml_set_ctag(Tag(suffix=node_tag(node)))
    return named


def _with_sizes(node: object, section: CommentedMap) -> object:
    """A node in which what is asked of the encoder stands as a number, and former names as new."""
    tag = node_tag(node)
    if tag == "!apply:getattr" and isinstance(node, list) and node[-1] in ENCODER_SIZES:
        return _argument(section["transformer"], ENCODER_SIZES[node[-1]])
    if tag in FORMER_NAMES:
        node.yaml_set_ctag(Tag(suffix=FORMER_NAMES[tag]))
    if isinstance(node, (dict, list)):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            node[key] = _with_sizes(child, section)
    return node


def _argument(node: CommentedMap, name: str) -> object:
    """An argument of a part, or else the default of its class."""
    return node[name] if name in node else arguments_of(located(node))[0][name].default


def checked_architecture(text: str, where: str | Path) -> str:
    """Text that `read_architecture` wrote at another time, if it still names only what is allowed.

    Every node is looked at, as a YAML parser without any types sees it, keys and all. A `UserError`
    that begins with `where` if there is anything else in it.

    >>> text = read_architecture("hparams/pom.yaml")
    >>> checked_architecture(text, "a") == text
    True
    >>> checked_architecture("head: !!python/name:os.system", "a")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: a: head has !!python/name:os.system: from a saved ...
    """
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{where}: the architecture is no YAML: {one_line(error)}") from error
    if not isinstance(tree, yaml.MappingNode):
        raise UserError(f"{where}: the architecture has no sections, such as encoder")
    for key, section in tree.value:
        for node in (key, *_composed(section)):
            _check_tag(node.tag, f"{where}: {key.value}")
    return _serialised(tree)


def _composed(node):
    """A node of PyYAML and all that is in it, the keys of mappings too."""
    yield node
    if isinstance(node, yaml.ScalarNode):
        return
    for child in node.value:
        for part in child if isinstance(child, tuple) else (child,):
            yield from _composed(part)


def _check_tag(tag, where):
    """Refuse a node that is neither plain nor allowed."""
    name = tag.removeprefix(_YAML_TAG)
    if tag in ("!tuple", ALLOWED_CALL) or (name != tag and name in _PLAIN_TAGS):
        return
    kind, _, path = tag.partition(":")
    if kind not in ("!new", "!name") or not _is_module_class(path):
        shown = tag if name == tag else f"!!{name}"
        raise UserError(
            f"{where} has {shown}: from a saved model only torch modules are made, of "
            f"{', '.join(prefix.rstrip('.') for prefix in ALLOWED)}"
        )


def _nodes(node: object) -> Iterator[object]:
    """A part of a YAML tree and all that is in it."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _nodes(child)


def _is_module_class(name: str) -> bool:
    found = pydoc.locate(name) if name.startswith(ALLOWED) else None
    return isinstance(found, type) and issubclass(found, nn.Module)


def build_parts(text: str, where: str | Path, layers: Layers | None = None) -> dict:
    """Build what `read_architecture` has read, with random weights.

    The state of the random generator is as before. `layers` is what the encoder returns; by
    default its last layer, or a weighted sum if the model was fine-tuned with one. Whatever the
    constructors raise comes as a `UserError` that begins with `where`.
    """
    if layers is None:
        layers = "sum" if YAML().load(text).get("weighted_sum") else "last"
    try:
        with torch.random.fork_rng():
            parts = load_hyperpyyaml(text, {"encoder": {"layers": layers}})
    except UserError:
        raise
    except Exception as error:  # whatever the constructors raise
        raise UserError(f"{where}: the model cannot be built: {one_line(error)}") from error
    parts["encoder"].trained_with_chunks = parts.pop(TRAINED, None)
    return parts
