"""`submit`: a training as a job, of Slurm or of this machine, that goes on when its time ends."""

import argparse
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from speechbrain_pom.cli.cluster import CLUSTERS, add_job_option, make_executor
from speechbrain_pom.utils.errors import UserError

EPILOG = """\
  python -m speechbrain_pom submit --on slurm --job_option slurm_partition=gpu --job_option \\
      gpus_per_node=8 --nproc 8 --nodes 2 -- \\
      recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --data_folder /data/LibriSpeech

What follows -- is what `python` would run here: a recipe with its hparams file and options, or -m
and a module, such as `-m experiments run ...`. With --nproc or --nodes it runs under torchrun.

Shortly before the time of a job ends (--job_option timeout_min=240), or when it is to make room,
the recipe is asked to save and end (SIGUSR1), and the job is queued again: it goes on in mid-epoch.

Exit code 0: it is submitted, or on this machine finished; else that of the job."""

SAVED = 138  # the exit code of a recipe after SIGUSR1
_POLL_S = 0.2
_FIRST_PORT, _NUM_PORTS = 29500, 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `submit`."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("--on", choices=CLUSTERS, required=True, help="where")
    add("--nodes", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    add(
        "--nproc",
        type=int,
        metavar="N",
        help="processes of torchrun on each (default: no torchrun)",
    )
    add("--logs", default="jobs", metavar="DIR", help="of the jobs (default: %(default)s)")
    add_job_option(parser)
    add("words", nargs="+", metavar="COMMAND", help="what python runs, after --")


def run(args: argparse.Namespace) -> int:
    """Submit the job; on this machine, wait for its end."""
    for name in ("nodes", "nproc"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: give at least 1")
    if args.on == "local" and args.nodes > 1:
        raise UserError(f"--nodes is {args.nodes}: this machine is one: leave it out")
    script = args.words[0]
    if script != "-m" and not Path(script).is_file():
        raise UserError(f"no such recipe: '{script}'; give it after --, as for python")
    num_processes = args.nproc if args.nproc or args.nodes == 1 else 1
    sizes = {"nodes": args.nodes, "tasks_per_node": 1} if args.on == "slurm" else {}
    executor = make_executor(args.on, Path(args.logs), args.job_option, **sizes)
    job = executor.submit(TrainingJob(args.words, args.nodes, num_processes))
    print(f"job {job.job_id} on {args.on}, logs in '{args.logs}'", flush=True)
    return 0 if args.on == "slurm" else job.result()


class TrainingJob:
    """A training on one node of a job; called there by submitit.

    Arguments
    ---------
    command : list of str
        What `python` runs.
    num_nodes : int
    num_processes : int or None
        On each node, under torchrun; None: without it.

    Example
    -------
    >>> TrainingJob(["-c", "raise SystemExit(3)"])()
    3
    """

    def __init__(
        self, command: list[str], num_nodes: int = 1, num_processes: int | None = None
    ) -> None:
        self.command = list(command)
        self.num_nodes, self.num_processes = num_nodes, num_processes
        self._process: subprocess.Popen | None = None
        self._codes: list[int] = []  # of the process that has ended

    def __call__(self) -> int:
        """Run it to its end; its exit code."""
        words = [sys.executable, *self._launcher(), *self.command]
        # Slurm sends submitit's signal to all processes of a job: it is not meant for this one.
        self._process = process = subprocess.Popen(words, preexec_fn=_ignore_warning)
        threading.Thread(target=lambda: self._codes.append(process.wait()), daemon=True).start()
        return self._code()

    def _code(self):
        # `checkpoint` is called in the middle of this, so no lock may be held here.
        while not self._codes:
            time.sleep(_POLL_S)
        return self._codes[0]

    def checkpoint(self) -> Any:
        """What submitit calls when the time is over: the job that goes on, or None if it failed.

        Returns
        -------
        submitit.helpers.DelayedSubmission or None
        """
        from submitit.helpers import DelayedSubmission

        assert self._process is not None
        self._process.send_signal(signal.SIGUSR1)
        code = self._code()
        print(f"ended with code {code} after SIGUSR1", flush=True)
        # torchrun has codes of its own; a run that is resumed in vain says why.
        is_resumed = code in (SAVED, -signal.SIGUSR1) or self.num_processes is not None
        again = TrainingJob(self.command, self.num_nodes, self.num_processes)
        return DelayedSubmission(again) if is_resumed else None

    def _launcher(self):
        if self.num_processes is None:
            return []
        words = ["-m", "torch.distributed.run", f"--nproc-per-node={self.num_processes}"]
        words += ["--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"]
        if self.num_nodes == 1:
            return [*words, "--standalone"]
        from submitit import JobEnvironment

        job = JobEnvironment()
        port = _FIRST_PORT + int(job.raw_job_id) % _NUM_PORTS  # jobs of one node do not collide
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={job.hostnames[0]}:{port}"]
        return [*words, f"--nnodes={self.num_nodes}", f"--rdzv-id={job.raw_job_id}", *meeting]


def _ignore_warning():
    """SIGUSR2 ends a Python that does not know it."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
