"""What modules are made of: their parameters, and the mixer of each layer."""

from itertools import groupby

from speechbrain.nnet.attention import MultiheadAttention, RelPosMHAXL, RoPEMHA
from speechbrain.nnet.hypermixing import HyperMixing
from torch import nn

from speechbrain_pom.attention import LayerSpec, attention_types, mixer_of
from speechbrain_pom.attention.patches import ENCODERS
from speechbrain_pom.attention.registry import BUILTIN_TYPES, get_type
from speechbrain_pom.attention.streaming import obstacle_to_steps
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.streaming.inputs import obstacle_to_stream
from speechbrain_pom.runs.building import named_modules

BUILTIN_CLASSES = {
    MultiheadAttention: "regularMHA",
    RelPosMHAXL: "RelPosMHAXL",
    HyperMixing: "hypermixing",
    RoPEMHA: "RoPEMHA",
}
GROUPS = ("mixer", "convolution", "feed-forward", "norms", "other")


def describe_models(hparams: dict) -> dict:
    """Count the parameters of all modules, and describe the layers of all encoders.

    The result has parts (list of name, class, parameters, trainable), encoders (see
    `describe_layers`, with a name and `streaming`), parameters, trainable and frozen. A parameter
    counts once, in the first part that has it; parts without any of their own are left out.

    >>> summary = describe_models({"head": torch.nn.Linear(3, 2), "lr": 0.1})
    >>> summary["parts"], summary["frozen"]
    ([{'name': 'head', 'class': 'Linear', 'parameters': 8, 'trainable': 8}], 0)
    """
    parts, encoders, counted, described = [], [], set(), set()
    owners = {
        id(module.transformer.encoder): module
        for _, value in named_modules(hparams)
        for module in value.modules()
        if isinstance(module, SpeechEncoder)
    }
    for name, module in named_modules(hparams):
        own = [weight for weight in module.parameters() if id(weight) not in counted]
        counted.update(map(id, own))
        if own:
            parts.append({"name": name, "class": type(module).__name__, **_count(own)})
        for path, child in module.named_modules(prefix=name):
            if isinstance(child, ENCODERS) and id(child) not in described:
                described.add(id(child))
                about = {"name": path, **describe_layers(child)}
                about["streaming"] = describe_streaming(child, owners.get(id(child)))
                encoders.append(about)
    parameters = sum(part["parameters"] for part in parts)
    trainable = sum(part["trainable"] for part in parts)
    return {
        "parts": parts,
        "encoders": encoders,
        "parameters": parameters,
        "trainable": trainable,
        "frozen": parameters - trainable,
    }


def _count(weights):
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trainable": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


def describe_layers(encoder: nn.Module) -> dict:
    """The mixer and the parameters of each layer of one of SpeechBrain's encoders.

    The result has class, attention_type (the spec of the mixers), and layers (bottom first): mixer,
    and parameters by `GROUPS`.

    >>> from speechbrain.lobes.models.transformer.Transformer import TransformerEncoder
    >>> encoder = TransformerEncoder(2, 4, 16, d_model=8, attention_type="regularMHA + PoM(3)")
    >>> describe_layers(encoder)["layers"][1]["mixer"]
    "PoM(degree=3, expand=2, variant='base', recompute=False, backend='auto')"
    """
    layers = [
        {"mixer": mixer_name(mixer_of(layer)), "parameters": _by_group(layer)}
        for layer in encoder.layers
    ]
    spec = _as_spec([layer["mixer"] for layer in layers])
    return {"class": type(encoder).__name__, "attention_type": spec, "layers": layers}


def describe_streaming(encoder: nn.Module, owner: SpeechEncoder | None = None) -> str:
    """Whether one of SpeechBrain's encoders can encode a stream, in one line.

    `owner` is the `SpeechEncoder` that it belongs to: its features and front end count too.

    >>> from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
    >>> describe_streaming(ConformerEncoder(1, 8, 16, 2, attention_type="RoPEMHA"))
    'with a finite left context'
    """
    reasons = [
        obstacle_to_steps(encoder, left) if owner is None else obstacle_to_stream(owner, left)
        for left in (None, 1)
    ]
    if all(reasons):
        return f"no: {reasons[0]}"
    how = "a finite left context" if reasons[0] else "all of the past"
    how = "a finite left context or all of the past" if not any(reasons) else how
    if owner is not None and owner.features.floor == "utterance":
        return f"with {how}, and the features of feature_floor: running"
    return f"with {how}"


def _as_spec(mixers):
    counts = [(mixer, len(list(group))) for mixer, group in groupby(mixers)]
    if len(counts) == 1:
        return mixers[0]
    return " + ".join(f"{mixer}*{count}" for mixer, count in counts)


def mixer_name(mixer: nn.Module) -> str:
    """The attention type of a mixer with its options, as in an attention spec.

    It is the name of its class, if that belongs to no attention type.

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
