"""Runs of several gloo processes, forked from the tests."""

import importlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import time

import torch

from tests.helpers.pretraining import Pretraining

_PATIENCE_S = 5
# Imported before the processes are forked, and not in each of them.
_OF_SHARDS = ("torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor")


def train_together(
    pretraining,
    folder,
    tmp_path,
    world_size,
    stop_after=None,
    kill_after=None,
    kill_in_save=None,
    **options,
):
    """Pretrain with several processes of this machine.

    After `stop_after` optimizer steps the first process is sent SIGUSR1; after `kill_after` steps
    the last one is killed, and the others follow; so it is with `kill_in_save` in that save, when
    its shards are written.

    Returns
    -------
    tuple of (list of int, str)
        Exit codes (negative: signals), and what the first process printed.
    """
    for name in _OF_SHARDS if options.get("fsdp") else ():
        importlib.import_module(name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    group = {"WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    group |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    if world_size > 1:
        options["distributed_backend"] = "gloo"
    pids, runs = [], []
    for rank in range(world_size):
        runs.append(Pretraining(pretraining.data_folder, tmp_path / f"printed-{rank}"))
        of_rank = {**group, "RANK": rank, "LOCAL_RANK": rank} if world_size > 1 else {}
        number = signal.SIGUSR1 if stop_after is not None and rank == 0 else None
        if kill_after is not None and rank == world_size - 1:
            number = signal.SIGKILL
        pids.append(os.fork())
        if pids[-1] == 0:
            prepare = _preparation(of_rank, stop_after or kill_after, number)
            if kill_in_save is not None and rank == world_size - 1:
                _kill_in_save(kill_in_save)
            runs[-1]._become(folder, prepare, dict(options))
    return _codes(pids), runs[0].log_path.read_text(encoding="utf-8")


def run_in_two(function, folder):
    """What `function(rank, folder)` returns, as JSON takes it, in each of two gloo processes."""
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_as_rank, args=(i, function, folder)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def _as_rank(rank, function, folder):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    place = f"file://{folder}/group"
    torch.distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    result = function(rank, folder)
    (folder / f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def _preparation(environment, last_step, number):
    def prepare():
        from speechbrain_pom.objectives.pretraining import PretrainingBrain

        os.environ.update({key: str(value) for key, value in environment.items()})

        def follow(brain):
            brain.objective.on_optimizer_step_end()
            if brain.optimizer_step == last_step:
                os.kill(os.getpid(), number)

        if number is not None:
            PretrainingBrain.on_optimizer_step_end = follow

    return prepare


def _kill_in_save(number):
    from torch.distributed.checkpoint import HuggingFaceStorageWriter

    write, count = HuggingFaceStorageWriter.write_data, itertools.count(1)

    def write_and_die(writer, *args):
        written = write(writer, *args)
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return written

    HuggingFaceStorageWriter.write_data = write_and_die


def _codes(pids):
    """Exit codes; when a process was killed, the others end some seconds later, as by torchrun."""
    codes, end_at = {}, float("inf")
    while len(codes) < len(pids):
        for pid in set(pids) - codes.keys():
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                if codes[pid] == -signal.SIGKILL:
                    end_at = min(end_at, time.time() + _PATIENCE_S)
            elif time.time() > end_at:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return [codes[pid] for pid in pids]
