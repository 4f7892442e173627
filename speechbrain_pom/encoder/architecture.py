"""The architecture of a saved model, from its hparams file, without running what is in there.

A YAML for HyperPyYAML can call any function. Of a saved one, only the sections of the model are
taken, and these may only name the modules that models are made of.
"""

import io
import pydoc

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.tag import Tag
from torch import nn

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.runs.options import read_tree
from speechbrain_pom.runs.values import node_tag
from speechbrain_pom.utils.errors import UserError, one_line

SECTIONS = ("CNN", "Transformer", "compute_features", "normalize")
OPTIONAL_SECTIONS = ("head", "weighted_sum", "padding")
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
# Names of version 0.1, in the files of its runs: read for one version more.
FORMER_NAMES = {
    "!apply:speechbrain_pom.ctc.unit_store.num_outputs": ALLOWED_CALL,
}


def read_architecture(hparams_file):
    """The sections of an hparams file that describe the model.

    Arguments
    ---------
    hparams_file : str or pathlib.Path
        Of a run of these recipes or of SpeechBrain's BEST-RQ recipe: with the keys CNN,
        Transformer, compute_features and normalize, and perhaps head, weighted_sum and padding.

    Returns
    -------
    str
        YAML with these keys alone, all references resolved.

    Raises
    ------
    UserError
        If the file cannot be read, a key is missing, or a section names anything but modules of
        torch.nn, SpeechBrain's layers and this package.

    Example
    -------
    >>> text = read_architecture("hparams/pom.yaml")
    >>> sorted(line.partition(":")[0] for line in text.splitlines() if line[:1].isalpha())
    ['CNN', 'Transformer', 'compute_features', 'normalize', 'padding']
    """
    tree = read_tree(hparams_file)
    _refuse_early_calls(tree, hparams_file)
    unset = {key: f"unset_{key}" for key, node in tree.items() if node_tag(node) == "!PLACEHOLDER"}
    try:
        with open(hparams_file, encoding="utf-8") as stream:
            tree = YAML().load(resolve_references(stream, unset))
    except Exception as error:  # whatever HyperPyYAML meets in resolving references
        raise UserError(f"{hparams_file} cannot be resolved: {one_line(error)}") from error
    missing = [key for key in SECTIONS if key not in tree]
    if missing:
        raise UserError(
            f"{hparams_file} has no {', '.join(missing)}: an encoder's hparams file has the keys "
            f"{', '.join(SECTIONS)}, as SpeechBrain's BEST-RQ recipe"
        )
    sections = {key: tree[key] for key in SECTIONS + OPTIONAL_SECTIONS if key in tree}
    for key, node in sections.items():
        _check(node, f"{hparams_file}: {key}")
    stream = io.StringIO()
    YAML().dump(sections, stream)
    return stream.getvalue()


def _refuse_early_calls(tree, hparams_file):
    """HyperPyYAML runs these where it resolves references, before anything could be looked at."""
    for node in _nodes(tree):
        kind = node_tag(node).partition(":")[0]
        if kind in ("!applyref", "!include"):
            raise UserError(
                f"{hparams_file} has {node_tag(node)}, which runs in reading: give the "
                "hyperparams.yaml of the run, in which it is resolved"
            )


def _check(section, where):
    """Refuse a section that names anything but what is allowed."""
    for node in _nodes(section):
        tag = node_tag(node)
        if tag in FORMER_NAMES:
            node.yaml_set_ctag(Tag(suffix=FORMER_NAMES[tag]))
            continue
        if not tag.startswith("!") or tag in ("!tuple", ALLOWED_CALL):
            continue
        kind, _, name = tag.partition(":")
        if kind not in ("!new", "!name") or not _is_module_class(name):
            raise UserError(
                f"{where} has {tag}: from a saved model only torch modules are made, of "
                f"{', '.join(prefix.rstrip('.') for prefix in ALLOWED)}"
            )


def _nodes(node):
    """A part of a YAML tree and all that is in it."""
    yield node
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    for child in children:
        yield from _nodes(child)


def _is_module_class(name):
    found = pydoc.locate(name) if name.startswith(ALLOWED) else None
    return isinstance(found, type) and issubclass(found, nn.Module)


def build_parts(text, where):
    """Build the modules that `read_architecture` has read, with random weights.

    Arguments
    ---------
    text : str
        From `read_architecture`.
    where : str or pathlib.Path
        Its file, for messages.

    Returns
    -------
    dict
        The sections by key. The state of the random generator is as before.

    Raises
    ------
    UserError
        If a constructor refuses its arguments.
    """
    try:
        with torch.random.fork_rng():
            return load_hyperpyyaml(text)
    except Exception as error:  # whatever the constructors raise
        raise UserError(f"{where}: the model cannot be built: {one_line(error)}") from error


def encoder_of(parts, layers="last"):
    """The encoder that parts make.

    Arguments
    ---------
    parts : dict
        From `build_parts`.
    layers : str, int or sequence of int
        As for `SpeechEncoder`.

    Returns
    -------
    SpeechEncoder
        Padding-exact, unless the parts say otherwise.

    """
    modules = (parts[name] for name in ("compute_features", "normalize", "CNN", "Transformer"))
    return SpeechEncoder(*modules, layers, parts.get("padding", "exact"))
