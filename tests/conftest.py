"""What all tests share: folders of runs, programs, and the check of the errors that they reach."""

import pytest

from tests.helpers import error_sites
from tests.helpers.programs import programs
from tests.helpers.saved_runs import finetuned_run, make_run, pretrained_run

__all__ = ["finetuned_run", "make_run", "pretrained_run", "programs"]  # fixtures


def pytest_configure(config):
    """Let all processes of a run of the whole suite note which errors are raised."""
    if not hasattr(config, "workerinput") and error_sites.is_whole_suite(config):
        config.raised_errors = error_sites.new_record()
    error_sites.watch()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Files whose recipes are forked from this process come first.

    Once autograd has threads, as some test makes it have, what is forked cannot train any more.
    Without a GPU it starts one where more than 60 backward passes are nested (measured with
    PyTorch 2.11): those of attention, compiled mixers and the encoder are not what does it.
    """
    forking = {item.path for item in items if "pretraining" in getattr(item, "fixturenames", ())}
    items.sort(key=lambda item: item.path not in forking)


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
