"""What the commands that read many audio files share: finding, naming and working on them.

One bad file never ends a command: it is named at the end, and the exit code tells.
"""

import fcntl
import logging
import os
import sys
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from speechbrain_pom.data.audio_folder import describe_unread, scan_folder
from speechbrain_pom.inference.job_processes import (
    attempt,
    cpu_threads,
    ended_by_signals,
    in_processes,
)
from speechbrain_pom.utils.errors import UserError, one_line

logger = logging.getLogger(__name__)


def add_job_arguments(parser):
    """Add --jobs and --device.

    Arguments
    ---------
    parser : argparse.ArgumentParser
    """
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with the model and one CPU thread, or as many as the environment "
        "variable OMP_NUM_THREADS says (default: %(default)s)",
    )
    parser.add_argument("--device", help="such as cuda:1 (default: cuda if there is one, or cpu)")


def choose_device(name):
    """The device that --device means.

    Arguments
    ---------
    name : str or None

    Returns
    -------
    str

    Raises
    ------
    UserError
        If there is no such device.

    Example
    -------
    >>> choose_device("cpu")
    'cpu'
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # of torch built without CUDA
        raise UserError(f"--device {name} cannot be used: {one_line(error)}") from error
    return name


def find_audio(paths):
    """The audio files that a command line names.

    Arguments
    ---------
    paths : list of str or pathlib.Path
        Files are taken as given, whatever their names; folders are searched at any depth, for
        files whose names end as those of audio files do. The log names others that hold audio.

    Returns
    -------
    list of pathlib.Path
        In the order of `paths`, a folder's files sorted; each once.

    Raises
    ------
    ValueError
        If a path does not exist, or a folder holds no audio.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "b.wav").touch(), (folder / "a.flac").touch(), (folder / "notes.txt").touch()
    (None, None, None)
    >>> [path.name for path in find_audio([folder / "b.wav", folder])]
    ['b.wav', 'a.flac']
    """
    found = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"no such file or folder: '{path}'")
        for file in _search(path) if path.is_dir() else [path]:
            found.setdefault(os.path.abspath(file), file)
    return list(found.values())


def _search(folder):
    """The audio files in a folder; what is left out is named on stderr."""
    scan = scan_folder(folder)
    if scan.unread:
        logger.warning("%s: %s", folder, describe_unread(scan.unread))
    return [folder / file for file in scan.files]


def run_jobs(files, make_worker, num_jobs, description, show_progress=True, on_result=None):
    """Work on files, in several processes if wanted; bad ones do not stop the rest.

    Ctrl-C and SIGTERM end all processes. Each has as many CPU threads as OMP_NUM_THREADS says, one
    by default, and never a share of the cores: results would depend on `num_jobs` in their last
    bits.

    Arguments
    ---------
    files : list of pathlib.Path
    make_worker : callable
        Called once in each process, where it loads the model; returns `work(file)`. With several
        processes it can be pickled, and so can what `work` returns.
    num_jobs : int
        Processes; with 1, or one file, everything happens in this one.
    description : str
        Of the progress bar.
    show_progress : bool
        Whether there is a progress bar, on stderr.
    on_result : callable, optional
        Called in this process as `on_result(file, result)` with what `work(file)` returned, as
        soon as it did.

    Returns
    -------
    list of (pathlib.Path, str)
        The files that failed and why, in the order of `files`.

    Raises
    ------
    UserError
        If `num_jobs` is below 1, or `make_worker` refuses.
    SystemExit
        With code 130 after Ctrl-C, 143 after SIGTERM.

    Example
    -------
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


def report_failures(failures):
    """Name each failure on stderr.

    Arguments
    ---------
    failures : list of (pathlib.Path, str)
        From `run_jobs`.

    Returns
    -------
    int
        The exit code: 1 if there are any, else 0.

    Example
    -------
    >>> report_failures([])
    0
    """
    for file, error in failures:
        print(f"failed: {file}: {error}", file=sys.stderr)
    return 1 if failures else 0


@contextmanager
def own_folder(out):
    """Make a folder, and let no other process of these commands write to it meanwhile.

    Arguments
    ---------
    out : pathlib.Path

    Raises
    ------
    UserError
        If it cannot be used, or another process uses it.

    Example
    -------
    >>> with own_folder(getfixture("tmp_path") / "frames"), own_folder(getfixture("tmp_path")):
    ...     pass
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        folder = os.open(out, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(
            f"--out '{out}' cannot be used ({error.strerror}): give another folder"
        ) from error
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out '{out}': another process is writing to it: wait, or give another folder"
            ) from None
        except OSError:  # a network file system without locks
            pass
        yield
    finally:
        os.close(folder)
