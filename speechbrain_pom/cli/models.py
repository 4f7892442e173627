"""What an hparams file builds: its torch modules, their parameters, the mixer of each layer."""

import os
import pydoc
import sys
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from tempfile import TemporaryDirectory

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from speechbrain.nnet.attention import MultiheadAttention, RelPosMHAXL, RoPEMHA
from speechbrain.nnet.hypermixing import HyperMixing
from torch import nn

from speechbrain_pom.attention import LayerSpec, attention_types, mixer_of
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.attention.seams import ENCODERS
from speechbrain_pom.errors import UserError, one_line
from speechbrain_pom.training.options import node_tag, read_tree

BUILTIN_CLASSES = {
    MultiheadAttention: "regularMHA",
    RelPosMHAXL: "RelPosMHAXL",
    HyperMixing: "hypermixing",
    RoPEMHA: "RoPEMHA",
}
GROUPS = ("mixer", "convolution", "feed-forward", "norms", "other")


def build_models(yaml_path, overrides):
    """Build the torch modules of an hparams file, and as little as possible besides.

    Objects of other classes (checkpointers, loggers, tokenizers) are built only where a module
    needs them, in a temporary current folder, so that nothing is left behind. Keys that are
    `!PLACEHOLDER` and not overridden get a text in their place.

    Arguments
    ---------
    yaml_path : str or Path
        The hparams file.
    overrides : dict
        Typed values for its keys.

    Returns
    -------
    dict
        The hparams that were built.

    Raises
    ------
    UserError
        When the models cannot be built: the cause, and the unset keys that they are built with.
    """
    unset = {
        key: f"unset_{key}"
        for key, node in read_tree(yaml_path).items()
        if node_tag(node) == "!PLACEHOLDER" and key not in overrides
    }
    needed = []
    try:
        with open(yaml_path, encoding="utf-8") as stream:
            resolved = resolve_references(stream, {**unset, **overrides})
        tree = _only_models(YAML().load(resolved))
        needed = [f"--{key}" for key, text in unset.items() if _builds_with(tree, text)]
        with _temporary_folder(), redirect_stdout(sys.stderr):
            return load_hyperpyyaml(_dump(tree))
    except Exception as error:  # whatever the constructors of the file's classes raise
        cause = f"its models need {', '.join(needed)}" if needed else "cannot build it"
        raise UserError(f"{yaml_path}: {cause}: {one_line(error)}") from error


def _only_models(tree):
    """A resolved hparams file without its top-level objects that are no torch modules."""
    for key in [key for key, node in tree.items() if _is_other_object(node)]:
        del tree[key]  # what it shares with others is written where they use it
    return tree


def _builds_with(tree, text):
    """Whether a text is among the arguments of anything that is built."""
    return any(node_tag(node) and text in repr(node) for node in tree.values())


def _dump(tree):
    stream = StringIO()
    YAML().dump(tree, stream)
    stream.seek(0)
    return stream


def _is_other_object(node):
    kind, _, name = node_tag(node).partition(":")
    located = pydoc.locate(name) if kind == "!new" else None
    return isinstance(located, type) and not issubclass(located, nn.Module)


@contextmanager
def _temporary_folder():
    before = os.getcwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def describe_models(hparams):
    """Count the parameters of all modules, and describe the layers of all encoders.

    Arguments
    ---------
    hparams : dict
        From `build_models`.

    Returns
    -------
    dict
        parts (list of name, class, parameters, trainable), encoders (see `describe_encoder`, with
        a name), parameters, trainable, frozen. A parameter counts once, in the first part that
        has it; parts without any of their own are left out.

    Example
    -------
    >>> summary = describe_models({"head": torch.nn.Linear(3, 2), "lr": 0.1})
    >>> summary["parts"], summary["frozen"]
    ([{'name': 'head', 'class': 'Linear', 'parameters': 8, 'trainable': 8}], 0)
    """
    parts, encoders, counted, described = [], [], set(), set()
    for name, module in _named_modules(hparams):
        own = [weight for weight in module.parameters() if id(weight) not in counted]
        counted.update(map(id, own))
        if own:
            parts.append({"name": name, "class": type(module).__name__, **_count(own)})
        for path, child in module.named_modules(prefix=name):
            if isinstance(child, ENCODERS) and id(child) not in described:
                described.add(id(child))
                encoders.append({"name": path, **describe_encoder(child)})
    parameters = sum(part["parameters"] for part in parts)
    trainable = sum(part["trainable"] for part in parts)
    return {
        "parts": parts,
        "encoders": encoders,
        "parameters": parameters,
        "trainable": trainable,
        "frozen": parameters - trainable,
    }


def _named_modules(hparams):
    """Modules of the file: its own keys first, then those inside of mappings such as `modules`."""
    for name, value in hparams.items():
        if isinstance(value, nn.Module):
            yield name, value
    for key, value in hparams.items():
        for name, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, nn.Module):
                yield f"{key}.{name}", item


def _count(weights):
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trainable": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def describe_encoder(encoder):
    """The mixer and the parameters of each layer of one of SpeechBrain's encoders.

    Arguments
    ---------
    encoder : torch.nn.Module
        ConformerEncoder, TransformerEncoder or BranchformerEncoder.

    Returns
    -------
    dict
        class, and layers (bottom first): mixer, and parameters by `GROUPS`.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
    >>> encoder = TransformerEncoder(2, 4, 16, d_model=8, attention_type="regularMHA + PoM(3)")
    >>> describe_encoder(encoder)["layers"][1]["mixer"]
    "PoM(degree=3, expand=2, variant='base', recompute=False, backend='auto')"
    """
    layers = [
        {"mixer": mixer_name(mixer_of(layer)), "parameters": _by_group(layer)}
        for layer in encoder.layers
    ]
    return {"class": type(encoder).__name__, "layers": layers}


def mixer_name(mixer):
    """The attention type of a mixer with its options, as an attention spec writes it.

    Arguments
    ---------
    mixer : torch.nn.Module
        From an encoder layer.

    Returns
    -------
    str
        The name of its class, if that belongs to no attention type.

    Example
    -------
    >>> mixer_name(RoPEMHA(embed_dim=8, num_heads=2, dropout=0.0))
    'RoPEMHA'
    """
    if type(mixer) in BUILTIN_CLASSES:
        return BUILTIN_CLASSES[type(mixer)]
    for name in attention_types():
        if name not in BUILTIN_TYPES and get_type(name).factory is type(mixer):
            known = [key for key in get_type(name).option_names if hasattr(mixer, key)]
            return str(LayerSpec(name, tuple((key, getattr(mixer, key)) for key in known)))
    return type(mixer).__name__


def _by_group(layer):
    totals = dict.fromkeys(GROUPS, 0)
    mixer = mixer_of(layer)
    for name, child in layer.named_children():
        for module in child.modules():
            size = sum(weight.numel() for weight in module.parameters(recurse=False))
            totals[_group(name, module, child is mixer)] += size
    return totals


def _group(child_name, module, in_mixer):
    """Which of `GROUPS` the own parameters of a module inside a layer's child belong to."""
    if in_mixer:
        return "mixer"
    if type(module).__name__.endswith("Norm"):
        return "norms"
    if child_name.startswith("convolution"):
        return "convolution"
    return "feed-forward" if "ffn" in child_name else "other"
