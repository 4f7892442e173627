"""Weights that are read as tensors, and loaded in full or refused in one line that says why."""

import hashlib
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from speechbrain_pom.utils.errors import UserError, one_line

WEIGHTS_SUFFIX = ".safetensors"
SHARED_FILE = "model" + WEIGHTS_SUFFIX  # of an export for transformers: all parts in one
FORMAT_KEY = "speechbrain_pom_export"
FORMAT_VERSION = "1"
_LAYER_SUM = "layer_sum."
_MISSING = re.compile(r"Missing key\(s\) in state_dict: (.*?)\. ?$", re.MULTILINE)
_UNEXPECTED = re.compile(r"Unexpected key\(s\) in state_dict: (.*?)\. ?$", re.MULTILINE)
_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\((\[.*?\])\) from "
    r"checkpoint, the shape in current model is torch\.Size\((\[.*?\])\)"
)
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_MIXER = re.compile(r"\.(mha_layer|self_att)\.")
_NUM_SHOWN = 3


def read_tensors(path: Path) -> dict:
    """A dict of tensors from a checkpoint; nothing else in the file is ever executed.

    Raises
    ------
    UserError
        If the file is damaged or holds more than tensors and plain numbers.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        problem = None if isinstance(state, dict) else f"it holds a {type(state).__name__}"
    except Exception as error:  # bytes that are no pickle fail in the unpickler in any way
        problem = one_line(error)
    if problem is not None:
        raise UserError(
            f"{path} is damaged or no file of tensors ({problem[:200]}): choose another checkpoint"
        )
    return state


def strict_load(module: nn.Module, state: dict, what: str) -> None:
    """Load a state dict: every tensor, none left over, all shapes equal.

    Arguments
    ---------
    module : torch.nn.Module
        Its own hooks (published parameter names) apply.
    state : dict of str to torch.Tensor
        The weights.
    what : str
        Beginning of the message: which file.

    Raises
    ------
    UserError
        Names the keys, both shapes and the likely cause.

    Example
    -------
    >>> strict_load(torch.nn.Linear(2, 1), {"weight": torch.zeros(1, 3)}, "a.ckpt")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: a.ckpt does not fit its hparams file, another width \
(d_model, d_ffn, channels)? weight is [1, 3], the model's [1, 2]; missing: bias
    """
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        text = str(error)
        missing, unexpected = (_keys(pattern, text) for pattern in (_MISSING, _UNEXPECTED))
        mismatched = _MISMATCH.findall(text)
        if not (missing or unexpected or mismatched):
            raise UserError(f"{what} cannot be loaded: {one_line(error)}") from error
        facts = [f"{key} is {found}, the model's {wanted}" for key, found, wanted in mismatched]
        problems = [
            _shown("", facts, "; "),
            _shown("missing: ", missing, ", "),
            _shown("left over: ", unexpected, ", "),
        ]
        cause = _likely_cause(missing, unexpected, [key for key, *_ in mismatched], module)
        raise UserError(
            f"{what} does not fit its hparams file, {cause}? {'; '.join(filter(None, problems))}"
        ) from error


def _keys(pattern, text):
    found = pattern.search(text)
    return [key.strip('"') for key in found[1].split(", ")] if found else []


def _shown(head, texts, separator):
    if not texts:
        return ""
    more = f" and {len(texts) - _NUM_SHOWN} more" if len(texts) > _NUM_SHOWN else ""
    return head + separator.join(texts[:_NUM_SHOWN]) + more


def _likely_cause(missing, unexpected, mismatched, module):
    if len(missing) == len(module.state_dict()):
        return "or is no file of such a model"
    layers = [
        {int(number) for key in keys for number in _LAYER.findall(key)}
        for keys in (missing, unexpected)
    ]
    # Of a layer that only one side has, everything is missing, not the mixer alone.
    whole = [
        [key for key in keys if _LAYER.search(key) and not _MIXER.search(key)]
        for keys in (missing, unexpected)
    ]
    if any(whole) and not mismatched:
        more, fewer = ("fewer", layers[0]) if whole[0] else ("more", layers[1])
        return f"another number of layers (saved with {len(fewer)} {more})"
    odd = [*missing, *unexpected]
    if odd and all(map(_MIXER.search, odd)):
        return "another attention_type"
    if mismatched and all(map(_MIXER.search, [*mismatched, *odd])):
        return "other options of attention_type (degree, expand, ...)"
    if mismatched:
        return "another width (d_model, d_ffn, channels)"
    return "another architecture"


def file_of_part(folder: str | Path, part: str) -> Path:
    """The file of an export with the weights of a part, encoder or head.

    >>> file_of_part("exported", "head").as_posix()
    'exported/head.safetensors'
    """
    own, shared = Path(folder, part + WEIGHTS_SUFFIX), Path(folder, SHARED_FILE)
    return shared if shared.is_file() and not own.is_file() else own


def load_part(module: nn.Module, part: str, path: str | Path) -> None:
    """Load a part of an export, encoder or head, from `file_of_part`, as `load_weights` does."""
    load_weights(module, path, f"{part}." if Path(path).name == SHARED_FILE else "")


def load_weights(module: nn.Module, path: str | Path, prefix: str = "") -> None:
    """Load a safetensors file of an export into a module: every tensor, none left over.

    The weights of a sum of layers are the exception, since every user of an encoder chooses what
    it returns: they are left out where there is no sum, and stay as they are if the file has none.

    Arguments
    ---------
    module : torch.nn.Module
    path : str or pathlib.Path
    prefix : str
        Of the names of the module's tensors in the file; others are not the module's.

    Raises
    ------
    UserError
        If the file is damaged, of another format, or does not fit.

    Example
    -------
    >>> from safetensors.torch import save_file
    >>> path = getfixture("tmp_path") / "head.safetensors"
    >>> save_file({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, path)
    >>> head = torch.nn.Linear(2, 1)
    >>> load_weights(head, path)
    >>> head.weight.data
    tensor([[1., 1.]])
    """
    found, _ = read_weights(path)
    state = {key[len(prefix) :]: found[key] for key in found if key.startswith(prefix)}
    own = {key: value for key, value in module.state_dict().items() if key.startswith(_LAYER_SUM)}
    if own:
        state = {**own, **state}
    else:
        state = {key: value for key, value in state.items() if not key.startswith(_LAYER_SUM)}
    strict_load(module, state, str(path))


def read_weights(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file of an export.

    A `UserError` if it is damaged, something else (a pickle, for example), or of a newer format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"'{path}' is missing, damaged or no safetensors file ({one_line(error)[:200]}): "
            "export the model again"
        ) from error
    version = metadata.get(FORMAT_KEY, FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise UserError(
            f"'{path}' is an export of format {version}, this version reads {FORMAT_VERSION}: "
            "install the speechbrain-pom that wrote it"
        )
    return state, metadata


def hash_of_tensors(module: torch.nn.Module) -> str:
    """SHA-256 of a module's names, shapes and values.

    Arguments
    ---------
    module : torch.nn.Module

    Returns
    -------
    str
        Hexadecimal.

    Example
    -------
    >>> hash_of_tensors(torch.nn.Identity())[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        # Quantised modules pack tensors, and have values besides.
        for part in value if isinstance(value, tuple) else (value,):
            if not isinstance(part, torch.Tensor):
                digest.update(f"{name} {part!r}\n".encode())
                continue
            digest.update(f"{name} {part.dtype} {tuple(part.shape)}\n".encode())
            part = part.int_repr() if part.is_quantized else part
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
