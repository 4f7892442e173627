"""States of modules and optimizers in checkpoints, also of those whose weights are in shards.

A module is always one file, with the names and values that it has without shards: whoever loads a
checkpoint (`load_encoder`, fine-tuning, exports, SpeechBrain) need not know how it was trained. An
optimizer, the largest part of a checkpoint, is a folder to which each process writes its shards by
`torch.distributed.checkpoint`, as safetensors; it is read by any number of processes. Both are also
read where nothing is in shards, and files that were written so where something is.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    DEFAULT_SAVE_HOOKS,
    get_default_hook,
    hook_on_loading_state_dict_checkpoint,
    torch_recovery,
)
from speechbrain.utils.distributed import if_main_process
from torch import nn
from torch.optim import Optimizer

from speechbrain_pom.utils.errors import UserError

VALUES_FILE = "values.ckpt"
"""Of an optimizer's folder: what is no tensor of the shape of its weights."""


def keeps_weights(obj: object) -> bool:
    """Whether `save_state` and `load_state` are for an object of a checkpoint.

    They are for the modules and optimizers that SpeechBrain would save by `torch.save`; those
    with hooks of their own keep them.

    Example
    -------
    >>> keeps_weights(torch.nn.Linear(2, 2)), keeps_weights({})
    (True, False)
    """
    is_ours = isinstance(obj, (nn.Module, Optimizer))
    return is_ours and get_default_hook(obj, DEFAULT_LOAD_HOOKS) is torch_recovery


def save_state(obj: nn.Module | Optimizer, path: str | Path) -> None:
    """Save the state of a module or an optimizer; a collective call if it is in shards.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
    path : str or pathlib.Path
        A file, or of an optimizer in shards a folder.
    """
    if isinstance(obj, Optimizer) and _in_shards(_weights_of(obj)):
        _save_shards(obj, Path(path))
        return
    state = obj.state_dict() if isinstance(obj, nn.Module) else {}
    if not _in_shards(state.values()):
        get_default_hook(obj, DEFAULT_SAVE_HOOKS)(obj, path)
        return
    for name, value in state.items():
        if _is_shard(value):
            whole = value.full_tensor()
            state[name] = whole.cpu() if if_main_process() else None
    if if_main_process():
        torch.save(state, path)


def load_state(obj: nn.Module | Optimizer, path: str | Path, end_of_epoch: bool = True) -> None:
    """Load what `save_state` saved, with any number of processes, into shards or not.

    Each process reads its own shards, and no other waits for it.

    Arguments
    ---------
    obj : torch.nn.Module or torch.optim.Optimizer
    path : str or pathlib.Path
    end_of_epoch : bool
        Without effect; SpeechBrain tells it to all that load.
    """
    path = Path(path)
    is_optimizer = isinstance(obj, Optimizer)
    own = dict(enumerate(_weights_of(obj))) if is_optimizer else obj.state_dict()
    if not path.is_dir() and not _in_shards(own.values()):
        get_default_hook(obj, DEFAULT_LOAD_HOOKS)(obj, path, end_of_epoch)
        return
    if is_optimizer:
        state = _read_shards(own, path) if path.is_dir() else _read(path)
        for number, values in state["state"].items():
            state["state"][number] = {key: _as(own[number], v) for key, v in values.items()}
        obj.load_state_dict(state)
        return
    state = hook_on_loading_state_dict_checkpoint(_read(path))
    obj.load_state_dict({name: _as(own.get(name), value) for name, value in state.items()})


def _weights_of(optimizer):
    """In the order in which the state of an optimizer numbers them."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def _is_shard(value):
    return hasattr(value, "full_tensor")  # a DTensor


def _in_shards(values):
    return any(map(_is_shard, values))


def _read(path):
    # Mapped, so that of large files only this process's shards are read.
    return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _as(own, value):
    """This process's shard of a whole tensor, if the one that it is for is in shards."""
    if not _is_shard(own) or _is_shard(value) or own.shape != getattr(value, "shape", None):
        return value
    from torch.distributed.tensor import distribute_tensor

    whole = value.to(own.device)
    return distribute_tensor(whole, own.device_mesh, own.placements, src_data_rank=None)


def _save_shards(optimizer, path):
    from torch.distributed import checkpoint as dcp

    state = optimizer.state_dict()
    shards, values = {}, {}
    for number, of_weight in state["state"].items():
        in_shards = {key for key, value in of_weight.items() if _is_shard(value)}
        shards |= {f"{number}.{key}": of_weight[key] for key in in_shards}
        values[number] = {key: v for key, v in of_weight.items() if key not in in_shards}
    _check_shapes(optimizer, shards)
    if if_main_process():
        path.mkdir(exist_ok=True)  # the writer of another process makes it too
        torch.save({**state, "state": values}, path / VALUES_FILE)
    if not shards:  # no step was taken yet
        return
    try:
        writer = dcp.HuggingFaceStorageWriter(str(path), save_distributed=True)
        dcp.save(dict(sorted(shards.items())), storage_writer=writer)
    except dcp.CheckpointException as failed:  # which is no Exception
        error, _ = next(iter(failed.failures.values()))
        raise (error if isinstance(error, OSError) else RuntimeError(str(error))) from failed


def _check_shapes(optimizer, shards):
    weights = _weights_of(optimizer)
    for name, shard in shards.items():
        weight = weights[int(name.partition(".")[0])]
        if shard.shape != weight.shape or shard.placements != weight.placements:
            raise UserError(
                f"fsdp: {type(optimizer).__name__} keeps {name.partition('.')[2]} in another shape "
                "than its weights, which no checkpoint of shards can hold: choose an optimizer "
                "such as AdamW"
            )


def _read_shards(weights, path):
    from torch.distributed import checkpoint as dcp

    state = _read(path / VALUES_FILE)
    reader = dcp.HuggingFaceStorageReader(str(path))
    found = reader.read_metadata().state_dict_metadata
    shards = {}
    for name, tensor in found.items():
        weight = weights[int(name.partition(".")[0])].detach()
        shards[name] = torch.empty_like(weight, dtype=tensor.properties.dtype)
    if shards:
        with warnings.catch_warnings():  # that it reads without the others, as it is told to
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp.load(shards, storage_reader=reader, no_dist=True)
    for name, shard in shards.items():
        number, _, key = name.partition(".")
        state["state"].setdefault(int(number), {})[key] = shard
    return state
