"""Runs Python programs in processes that are forked from this one, which has the imports.

Loading PyTorch and SpeechBrain takes longer than most of what the tests run. A program begins as
`python PROGRAM` would begin it, in a process of its own, with its own arguments, environment and
working directory; and it ends as it would: with its exit code, or killed by a signal. The fixture
`programs` in programs.py starts this server, and sends it requests over a pipe.
"""

import gc
import importlib
import os
import runpy
import sys
from multiprocessing.connection import Connection

import error_sites  # beside this file

# What the recipes and the command line load at some time or other.
PRELOADED = (
    "torch._dynamo",  # by the first optimizer
    "matplotlib.backends.backend_agg",
    "speechbrain_pom.__main__",
    "speechbrain_pom.objectives.bestrq",
    "speechbrain_pom.ctc.decoding",
    "speechbrain_pom.ctc.language_model",
    "speechbrain_pom.ctc.scoring",
    "speechbrain_pom.cli.mini_corpus",
    "speechbrain_pom.data.mini_corpus.audio",
    "speechbrain_pom.probe",
    "speechbrain_pom.training.brain",
    "speechbrain_pom.runs.logs",
    "speechbrain_pom.training.dataset",
    "speechbrain_pom.runs.start",
)


def serve(connection):
    """Fork for each request; return it in the new process."""
    while True:
        try:
            request = connection.recv()
        except EOFError:
            sys.exit()
        pid = os.fork()
        if pid == 0:
            connection.close()
            return request
        connection.send(pid)
        status = os.waitpid(pid, 0)[1]
        connection.send(os.waitstatus_to_exitcode(status))


def become(arguments, environment, folder, curves, files):
    """Run what stands after `python` in a command line: SCRIPT, -m MODULE or -c CODE, and more."""
    if not curves:
        sys.modules["speechbrain_pom.runs.logs"].draw_curves = lambda *_: None
    for number, (path, flags) in enumerate(files):
        file = os.open(path, flags, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    first, *rest = arguments
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path[0] = os.path.dirname(first)
        sys.argv = arguments
        runpy.run_path(first, run_name="__main__")


def preload():
    """Import, and leave no trace of it but the time that it saves."""
    for name in PRELOADED:
        importlib.import_module(name)
    error_sites.watch()
    del sys.modules["speechbrain_pom.__main__"]  # each program runs it anew
    if os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) > 1:
        raise RuntimeError("a module of PRELOADED starts threads, which a forked process has not")
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    preload()
    become(**serve(Connection(int(sys.argv[1]))))
