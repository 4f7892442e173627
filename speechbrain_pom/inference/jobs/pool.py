"""Finds audio files and works on them, in several processes if wanted.

A bad file never stops the others: it is named at the end, and the exit code is 1.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from speechbrain_pom.data.audio_folder import describe_unread, scan_folder
from speechbrain_pom.inference.jobs.processes import (
    attempt,
    cpu_threads,
    ended_by_signals,
    in_processes,
)
from speechbrain_pom.utils.errors import UserError, one_line

logger = logging.getLogger(__name__)

Worker: TypeAlias = Callable[[Path], Any]
"""Works on one file, with a model that is loaded."""


def choose_device(name: str | None) -> str:
    """The device that --device means: CUDA if there is any by default."""
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # of torch built without CUDA
        raise UserError(f"--device {name} cannot be used: {one_line(error)}") from error
    return name


def find_audio(paths: Iterable[str | Path]) -> list[Path]:
    """The audio files that a command line names, each once.

    Files are taken as given, whatever their names; folders are searched at any depth, in sorted
    order, for files whose names end as those of audio files do. The log names others that hold
    audio.
    """
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no such file or folder: '{path}'")
        for file in _search(path) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _search(folder):
    """The audio files in a folder; the log names what is left out."""
    scan = scan_folder(folder)
    if scan.unread:
        logger.warning("%s: %s", folder, describe_unread(scan.unread))
    return [folder / file for file in scan.files]


def run_jobs(
    files: list[Path],
    make_worker: Callable[[], Worker],
    num_jobs: int,
    description: str,
    show_progress: bool = True,
    on_result: Callable[[Path, Any], None] | None = None,
) -> list[tuple[Path, str]]:
    """Work on files, in several processes if wanted; return those that failed, and why.

    `make_worker` is called once in each process, where it loads the model; it returns
    `work(file)`. With several processes it can be pickled, and so can what `work` returns, which
    is handed to `on_result(file, result)` in this process as soon as it is there. With one job,
    or one file, everything happens in this process.

    Ctrl-C and SIGTERM end all processes, with exit code 130 or 143. Each process has as many CPU
    threads as OMP_NUM_THREADS says, one by default, and never a share of the cores: results would
    depend on `num_jobs` in their last bits.

    >>> run_jobs([Path("a"), Path("b")], lambda: lambda file: file.stat(), 1, "size", False)[0]
    (PosixPath('a'), "[Errno 2] No such file or directory: 'a'")
    """
    if num_jobs < 1:
        raise UserError(f"--jobs is {num_jobs}: give at least 1")
    failures = {}

    def note(file, result, error):
        if error is not None:
            failures[file] = error
        elif on_result is not None:
            on_result(file, result)
        bar.update()

    with (
        ended_by_signals(),
        tqdm(total=len(files), desc=description, unit="file", disable=not show_progress) as bar,
    ):
        num_jobs = min(num_jobs, len(files))
        if num_jobs > 1:
            in_processes(files, make_worker, num_jobs, note)
        elif files:
            with cpu_threads():
                work = make_worker()
                for file in files:
                    note(file, *attempt(work, file))
    return [(file, failures[file]) for file in files if file in failures]


def report_failures(failures: list[tuple[Path, str]]) -> int:
    """Name each failure on stderr; return the exit code."""
    for file, error in failures:
        print(f"failed: {file}: {error}", file=sys.stderr)
    return 1 if failures else 0
