"""Finds audio files and works on them, in several processes if wanted.

A bad file never stops the others: it is named at the end, and the exit code is 1.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from tqdm import tqdm

from speechbrain_pom.data.audio_folder import describe_unread, scan_folder
from speechbrain_pom.utils.errors import UserError, one_line
from speechbrain_pom.utils.pool import ended_by_signals, work_in_processes

# Errors whose message says enough: bad files, full disks, too little memory on a device.
_PLAIN_ERRORS = (UserError, OSError, RuntimeError)  # soundfile's are RuntimeErrors

logger = logging.getLogger(__name__)

Worker: TypeAlias = Callable[[Any], Any]
"""Works on one file, or on a group of files, with a model that is loaded."""


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
    group_size: int | None = None,
) -> list[tuple[Path, str]]:
    """Work on files, in several processes if wanted; return those that failed, and why.

    `make_worker` is called once in each process, where it loads the model; it returns
    `work(file)`. With several processes it can be pickled, and so can what `work` returns, which
    is handed to `on_result(file, result)` in this process as soon as it is there. With one job,
    or one file, everything happens in this process. With `group_size` a worker gets so many files
    at a time, and returns (file, result, error in words or None) of each.

    Ctrl-C and SIGTERM end all processes, with exit code 130 or 143. Each process has as many CPU
    threads as OMP_NUM_THREADS says, one by default, and never a share of the cores: results would
    depend on `num_jobs` in their last bits.

    >>> run_jobs([Path("a"), Path("b")], lambda: lambda file: file.stat(), 1, "size", False)[0]
    (PosixPath('a'), "[Errno 2] No such file or directory: 'a'")
    """
    if num_jobs < 1:
        raise UserError(f"--jobs is {num_jobs}: give at least 1")
    failures = {}
    items = files
    if group_size is not None:
        items = [files[i : i + group_size] for i in range(0, len(files), group_size)]
    num_jobs = min(num_jobs, len(items))
    work = _in_processes if num_jobs > 1 else _in_this_process
    with (
        ended_by_signals(),
        tqdm(total=len(files), desc=description, unit="file", disable=not show_progress) as bar,
        closing(work(items, make_worker, num_jobs)) as outcomes,
    ):
        for file, result, error in outcomes if group_size is None else _of_groups(outcomes):
            if error is not None:
                failures[file] = error if isinstance(error, str) else in_words(error)
            elif on_result is not None:
                on_result(file, result)
            bar.update()
    return [(file, failures[file]) for file in files if file in failures]


def _of_groups(outcomes):
    """What became of each file of groups; what ends a group is an error of all its files."""
    for files, results, error in outcomes:
        yield from results if error is None else [(file, None, error) for file in files]


def _in_processes(files, make_worker, num_jobs):
    loading = partial(_load, make_worker)
    made_by = getattr(make_worker, "func", make_worker)  # of a partial
    imports = [__name__, made_by.__module__]
    with closing(work_in_processes(files, loading, num_jobs, imports=imports)) as outcomes:
        for index, result, error in outcomes:
            yield files[index], result, error


def _in_this_process(files, make_worker, _num_jobs):
    former = torch.get_num_threads()
    try:
        work = _load(make_worker) if files else None
        for file in files:
            try:
                yield file, work(file), None
            except Exception as error:
                yield file, None, error
    finally:
        torch.set_num_threads(former)


def _load(make_worker):
    """The worker of a process, which has as many CPU threads as OMP_NUM_THREADS says, or one."""
    value = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(value) if value.isdecimal() and int(value) else 1)
    return make_worker()


def in_words(error: Exception) -> str:
    """An error as a line, with its kind where the message alone would not say enough.

    >>> in_words(KeyError("wav")), in_words(UserError("no such file"))
    ('KeyError: wav', 'no such file')
    """
    kind = "" if isinstance(error, _PLAIN_ERRORS) else f"{type(error).__name__}: "
    return kind + one_line(error)


def report_failures(failures: list[tuple[Path, str]]) -> int:
    """Name each failure on stderr; return the exit code."""
    for file, error in failures:
        print(f"failed: {file}: {error}", file=sys.stderr)
    return 1 if failures else 0
