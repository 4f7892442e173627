"""The process group of a run under torchrun."""

import atexit
import gc
import os
import sys
from typing import NamedTuple

import torch
from speechbrain.utils.distributed import ddp_init_group

from speechbrain_pom.runs.options import RunRequest, read_tree
from speechbrain_pom.runs.values import typed_run_option
from speechbrain_pom.utils.errors import UserError


class Launch(NamedTuple):
    """This process among those of the run.

    Arguments
    ---------
    rank : int
        0 is the main process.
    world_size : int
        Number of processes, on all nodes.
    run_options : dict
        What SpeechBrain's `Brain` needs to know: `device` and `distributed_backend`; empty
        for a single process without torchrun.
    """

    rank: int
    world_size: int
    run_options: dict


def init_distributed(request: RunRequest) -> Launch:
    """Join the process group when torchrun started this process.

    With GPUs the backend is nccl and each process takes the GPU of its local rank; without
    (or with `--device cpu`) it is gloo, without asking. `device` and `distributed_backend` of
    the command line or the YAML are honoured, or refused.

    Example
    -------
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("seed: 1")
    >>> init_distributed(RunRequest(file))
    Launch(rank=0, world_size=1, run_options={})
    """
    # SpeechBrain's `Brain` takes these two variables as the sign of torchrun.
    if "RANK" not in os.environ or "LOCAL_RANK" not in os.environ:
        return Launch(0, 1, {})
    device, backend = _wanted(request, "device"), _wanted(request, "distributed_backend")
    local_rank = int(os.environ["LOCAL_RANK"])
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank + 1))
    num_gpus = 0 if device == "cpu" else torch.cuda.device_count()
    # Every process of the machine comes to the same verdict, so that the first one can print it.
    if num_gpus and num_local > num_gpus:
        raise UserError(
            f"{num_local} processes on this machine, but it has {num_gpus} GPUs: start torchrun "
            f"with --nproc-per-node={num_gpus}, or give --device cpu"
        )
    if backend == "nccl" and not num_gpus:
        raise UserError("--distributed_backend nccl needs GPUs: leave it out, gloo is then used")
    own_device = f"cuda:{local_rank}" if num_gpus else "cpu"
    if device not in (None, own_device.split(":")[0], own_device if num_local == 1 else None):
        raise UserError(
            f"--device {device} does not work under torchrun on this machine, where this process "
            f"runs on {own_device}: leave it out"
        )
    backend = backend or ("nccl" if num_gpus else "gloo")
    options = {"device": own_device, "distributed_backend": backend}
    ddp_init_group(options)
    atexit.register(leave_group)
    return Launch(torch.distributed.get_rank(), torch.distributed.get_world_size(), options)


def leave_group() -> None:
    """Leave the process group in good order, at the end of a program that has not failed.

    A thread of gloo that is not done with the last barrier when the interpreter goes down aborts
    the process ("terminate called without an active exception"), now and then. The group joins its
    threads when nothing holds it any more, wrapped models included. After an error it is left to
    the launcher, since other processes may be waiting in it.
    """
    if torch.distributed.is_initialized() and getattr(sys, "last_value", None) is None:
        gc.collect()
        torch.distributed.destroy_process_group()


def _wanted(request, name):
    value = request.run_options.get(name, read_tree(request.yaml_path).get(name))
    return None if value is None else typed_run_option(name, value)
