"""Programs that tests run, without the seconds of their imports."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT


class Programs:
    """Starts Python programs by `program_server.py`, which saves them the imports."""

    def __init__(self, folder):
        self._folder, self._numbers = folder, itertools.count()
        self._pipe, there = multiprocessing.Pipe()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("TRITON_INTERPRET", None)  # read at the import of Triton, for its tests
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("program_server.py"), str(there.fileno())],
            pass_fds=[there.fileno()],
            env=environment,
        )
        there.close()

    def run(self, arguments, *, cwd=ROOT, env=None, stdin="", timeout_s=600, curves=False):
        """Run what stands after `python` in a command line, to its end.

        A recipe draws its curves only if asked: each epoch's picture takes longer than its steps.

        Returns
        -------
        subprocess.CompletedProcess
            With stdout and stderr as text.
        """
        paths = [self._folder / f"{next(self._numbers)}" for _ in range(3)]
        paths[0].write_text(stdin, encoding="utf-8")
        writing = os.O_WRONLY | os.O_CREAT
        request = {
            "arguments": [str(part) for part in arguments],
            "environment": dict(os.environ if env is None else env),
            "folder": str(cwd),
            "curves": curves,
            "files": list(zip(map(str, paths), (os.O_RDONLY, writing, writing), strict=True)),
        }
        self._pipe.send(request)
        pid = self._pipe.recv()
        if not self._pipe.poll(timeout_s):
            os.kill(pid, signal.SIGKILL)
            self._pipe.recv()
            raise subprocess.TimeoutExpired(arguments, timeout_s)
        code = self._pipe.recv()
        stdout, stderr = (path.read_text(encoding="utf-8") for path in paths[1:])
        return subprocess.CompletedProcess(arguments, code, stdout, stderr)

    def stop(self):
        """End the server."""
        self._pipe.close()
        self._server.terminate()  # a loader's worker that is left over may hold the pipe open
        self._server.wait()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """`Programs`: `programs.run(["script.py", "--option"])` instead of a new `python`."""
    server = Programs(tmp_path_factory.mktemp("programs"))
    yield server
    server.stop()
