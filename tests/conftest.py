"""What all tests share: folders of runs, programs, and the check of the errors that they reach."""

import pytest
import torch

from tests.helpers import error_sites
from tests.helpers.programs import programs
from tests.helpers.saved_runs import finetuned_run, make_run, pretrained_run

__all__ = ["finetuned_run", "make_run", "pretrained_run", "programs"]  # fixtures


def pytest_configure(config):
    """Let all processes of a run of the whole suite note which errors are raised."""
    if not hasattr(config, "workerinput") and error_sites.is_whole_suite(config):
        config.raised_errors = error_sites.new_record()
    error_sites.watch()


def pytest_sessionstart():
    """Let autograd begin without threads, as processes that are forked from this one train.

    The first backward pass of a process starts a thread for each device that PyTorch knows of.
    Without a GPU there is none, but exporting and compiling make it know some (PyTorch 2.11), and
    what is forked from a process with such threads refuses to train.
    """
    torch.ones(1, requires_grad=True).sum().backward()


def pytest_sessionfinish(session, exitstatus):
    """The whole suite fails if there is an error that no test reached."""
    record = getattr(session.config, "raised_errors", None)
    if record is not None and exitstatus == pytest.ExitCode.OK:
        session.config.unreached_errors = error_sites.unreached(error_sites.read(record))
        if session.config.unreached_errors:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Name the errors that no test reached."""
    sites = getattr(config, "unreached_errors", ())
    if sites:
        terminalreporter.section("errors that no test reached")
        terminalreporter.write_line(error_sites.HINT)
    for site in sites:
        terminalreporter.write_line(str(site))
