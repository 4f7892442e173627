"""Parts of a command as jobs: of Slurm, or of this machine, through submitit."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.parts import Part, parse_part

CLUSTERS = ("slurm", "local")

_OWN = {"--on": 1, "--parts": 1, "--job_option": 1}  # options of the launch, with their values


def add_part_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --part, --on, --parts and --job_option."""
    add = parser.add_argument
    add("--part", default="1/1", metavar="I/N", help="of the work; auto, auto/N in a job array")
    add("--on", choices=CLUSTERS, help="submit --parts jobs by submitit in place of working here")
    add("--parts", type=int, metavar="N", help="jobs of --on")
    add_job_option(parser)


def add_job_option(parser: argparse.ArgumentParser) -> None:
    """Add --job_option."""
    parser.add_argument(
        "--job_option",
        action="append",
        default=[],
        metavar="K=V",
        help="of the jobs, as submitit calls it: timeout_min=60, slurm_partition=gpu; repeatable",
    )


def part_of(args: argparse.Namespace) -> Part:
    """The part that a command line asks for."""
    return parse_part(args.part)


def submit(args: argparse.Namespace, folder: str | Path, program: str = "speechbrain_pom") -> int:
    """Start the command in parts; the exit code, of all parts where they run on this machine.

    Arguments
    ---------
    args : argparse.Namespace
        With `argv`, the words of the command line.
    folder : str or pathlib.Path
        Logs of the jobs go to `jobs` in it.
    program : str
        The module whose command line it is.

    Raises
    ------
    UserError
        If submitit is not installed, or the options of the launch do not go together.
    """
    if args.parts is None or args.parts < 1 or args.part != "1/1":
        raise UserError(
            f"--on {args.on} needs --parts N, at least 1, and no --part (it has --parts "
            f"{args.parts}, --part {args.part})"
        )
    executor = make_executor(args.on, Path(folder) / "jobs", args.job_option)
    command = [sys.executable, "-m", program, *without_launch(args.argv)]
    parts = [Part(number, args.parts) for number in range(1, args.parts + 1)]
    jobs = executor.map_array(run_part, [[*command, "--part", str(part)] for part in parts])
    print(f"{len(jobs)} parts on {args.on}, logs in '{Path(folder) / 'jobs'}': {_numbers(jobs)}")
    if args.on == "slurm":
        return 0
    codes = [job.result() for job in jobs]
    for part, code in zip(parts, codes, strict=True):
        if code:
            print(f"part {part} ended with code {code}", file=sys.stderr)
    return max(codes)


def run_part(command: Sequence[str]) -> int:
    """Run a command; its exit code."""
    return subprocess.run(command, check=False).returncode


def without_launch(words: Sequence[str]) -> list[str]:
    """The words of a command line without the options of the launch.

    >>> without_launch(["encode", "m", "--on", "local", "--parts=4", "--out", "x"])
    ['encode', 'm', '--out', 'x']
    """
    kept, skipped = [], 0
    for word in words:
        name, equals, _ = word.partition("=")
        if skipped:
            skipped -= 1
        elif name in _OWN:
            skipped = 0 if equals else _OWN[name]
        else:
            kept.append(word)
    return kept


def make_executor(cluster: str, folder: Path, job_options: Sequence[str], **parameters: Any) -> Any:
    """submitit's executor, whose logs go to a folder.

    Arguments
    ---------
    cluster : str
        One of `CLUSTERS`.
    folder : pathlib.Path
    job_options : sequence of str
        NAME=VALUE, as a command line gives them.
    **parameters
        More of them; `job_options` come first.

    Returns
    -------
    submitit.AutoExecutor

    Raises
    ------
    UserError
        If submitit is not installed, or knows no such cluster or option.
    """
    try:
        import submitit
    except ImportError:
        raise UserError(
            f"--on {cluster} needs submitit: pip install 'speechbrain-pom[cluster]'"
        ) from None
    parameters |= dict(map(_option, job_options))
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(**parameters)
    except (RuntimeError, NameError, TypeError) as error:  # no sbatch, or no such option
        raise UserError(f"--on {cluster}: {error}") from None
    return executor


def _option(text):
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise UserError(f"--job_option {text}: give NAME=VALUE, such as timeout_min=60")
    return name, int(value) if value.isdecimal() else value


def _numbers(jobs):
    ids = [job.job_id for job in jobs]
    return ", ".join(ids[:3]) + (" ..." if len(ids) > 3 else "")
