"""Training with weights, gradients and optimizer states in shards: FSDP2 in place of DDP."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import speechbrain as sb
import torch
from speechbrain.utils.logger import get_logger
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from speechbrain_pom.attention.layers import ENCODERS
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)

# Options of a run that cannot be honoured, and why.
_REFUSED = {
    "compile": "graphs are not made of layers in shards",
    "compile_module_keys": "graphs are not made of layers in shards",
    "jit": "layers in shards have no TorchScript",
    "jit_module_keys": "layers in shards have no TorchScript",
    "data_parallel_backend": "shards need a process for each device, as torchrun starts them",
    "find_unused_parameters": "all processes reduce the gradients of the same weights",
    "layer_statistics_interval": "no process has the gradient of a whole layer",
    "debug": "it ends epochs within the accumulation of a gradient",
}


class ShardingBrain(sb.Brain):
    """A `speechbrain.Brain` whose modules are in shards if `hparams` have `fsdp: True`.

    Each encoder layer, and the rest of each module, is a group of weights that a process has as a
    whole only while it is computed (FSDP2, `torch.distributed.fsdp.fully_shard`). What is computed
    is what DDP computes: all processes begin with the weights and buffers of the first one, get its
    buffers for each step, and average their gradients once per step. A single process that
    torchrun has not started has nothing to share, and trains as without `fsdp`.

    Validation, where processes need not have equally many batches, gathers all weights once.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.Brain`.

    Raises
    ------
    UserError
        For an option that does not go together with shards, or weights that cannot be shared out.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        #: Modules in shards, once training has begun.
        self.sharded: list[nn.Module] = []
        self._stale_buffers = True
        self._buffers: list[torch.Tensor] = []
        self.fsdp = getattr(self.hparams, "fsdp", False)
        if not isinstance(self.fsdp, bool):
            raise UserError(f"fsdp is {self.fsdp!r}: give True, or False for copies of all weights")
        if self.fsdp:
            self._check_options()
            check_weights(self.modules)

    def _check_options(self):
        for name, reason in _REFUSED.items():
            if getattr(self.hparams, name, None) or getattr(self, name, None):
                raise UserError(f"fsdp: True does not go with --{name}: {reason}. Leave one out")

    def _wrap_distributed(self):
        if not self.fsdp:
            super()._wrap_distributed()
            return
        if not self.distributed_launch:
            logger.info("fsdp: a single process has all weights itself (torchrun starts several)")
            return
        mesh = init_device_mesh(self.device_type, (distributed.get_world_size(),))
        for name, module in self.modules.items():
            if any(weight.requires_grad for weight in module.parameters()):
                self.modules[name] = nn.SyncBatchNorm.convert_sync_batchnorm(module)
                take_first(itertools.chain(module.parameters(), module.buffers()))
                self._buffers += module.buffers()
                self.sharded.append(shard(self.modules[name], mesh))

    @contextmanager
    def no_sync(self, use: bool = True) -> Iterator[None]:
        """A batch of training; with `use` its gradient is not averaged over the processes yet."""
        if not self.sharded:
            with super().no_sync(use):
                yield
            return
        if self._stale_buffers:
            take_first(self._buffers)
        for module in self.sharded:
            module.set_requires_gradient_sync(not use)
        yield
        self._stale_buffers = not use  # as DDP: those of the first process, once per step

    def _fit_valid(self, valid_set, epoch, enable):
        with ExitStack() as stack:
            for module in self.sharded:
                stack.enter_context(gathered(module))
            super()._fit_valid(valid_set, epoch, enable)


def check_weights(modules: nn.Module) -> None:
    """Refuse weights that cannot be shared out among processes.

    Example
    -------
    >>> module = torch.nn.Linear(2, 2)
    >>> check_weights(module)
    >>> module.gain = torch.nn.Parameter(torch.tensor(1.0))
    >>> check_weights(module)
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: fsdp: the weight gain is a single number, which cannot \
be shared out: give it the shape (1,)
    """
    dtypes = {}
    for name, weight in modules.named_parameters():
        if weight.dim() == 0:
            raise UserError(
                f"fsdp: the weight {name} is a single number, which cannot be shared out: give it "
                "the shape (1,)"
            )
        if weight.requires_grad:
            dtypes.setdefault(weight.dtype, name)
    if len(dtypes) > 1:
        listing = ", ".join(f"{name} {dtype}" for dtype, name in dtypes.items())
        raise UserError(f"fsdp: trained weights of several dtypes ({listing}): give all the same")


def shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Share out the weights of a module among processes, in place: each encoder layer, the rest.

    Arguments
    ---------
    module : torch.nn.Module
        With the same weights in all processes.
    mesh : torch.distributed.device_mesh.DeviceMesh
        The processes, in one dimension.

    Returns
    -------
    torch.nn.Module
        The same one; its parameters are `DTensor`s now.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # half a second of imports

    # Weights are gathered and gradients averaged as they are stored, in fp32: `precision` casts
    # what is computed, by autocast, as it does without shards, and the steps are the same.
    policy = MixedPrecisionPolicy(param_dtype=None, reduce_dtype=None, cast_forward_inputs=False)
    for encoder in [part for part in module.modules() if isinstance(part, ENCODERS)]:
        for layer in encoder.layers:
            fully_shard(layer, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    # The rest is used last in the forward pass and first in the backward pass: it stays in between.
    return fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=False)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Context manager: every process has all weights of a module, and calls wait for no other."""
    parts = [part for part in module.modules() if hasattr(part, "unshard")]
    module.set_reshard_after_forward(False)
    for part in parts:
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
        module.set_reshard_after_forward(True)
        module.set_reshard_after_forward(False, recurse=False)


@torch.no_grad()
def take_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give all processes the values of the first one, in place; a collective call."""
    for tensor in tensors:
        values = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        distributed.broadcast(values.detach(), src=0)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a norm over all of them, in shards or not, and give their norm.

    Example
    -------
    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> clip_gradients([weight], 1.0), weight.grad
    (5.0, tensor([0.6000, 0.8000]))
    """
    norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
    return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # a DTensor
