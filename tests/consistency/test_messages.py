"""The check that every `UserError` is raised by some test, which the whole suite ends with."""

import copy
import multiprocessing
from types import SimpleNamespace

import pytest

from speechbrain_pom.utils.errors import UserError
from tests.helpers import ROOT, error_sites

SOURCE = """
def check(size):
    if size < 1:
        raise UserError(
            f"size is {size}: give a whole number "
            "of at least 1"
        )
    raise ValueError("zebras")
"""


def test_places_are_found_with_their_messages():
    (site,) = error_sites.sites_of("module.py", SOURCE)
    assert site.text == "size is {}: give a whole number of at least 1"
    assert [line for line in range(1, 10) if site.is_at("module.py", line)] == [4, 5, 6, 7]
    assert not site.is_at("other.py", 4)
    assert len(error_sites.all_sites()) > 200


def test_every_excuse_is_of_a_message():
    sites = error_sites.all_sites()
    for path, messages in error_sites.EXCUSED.items():
        for part, reason in messages.items():
            assert any(site.path == path and part in site.text for site in sites), (path, part)
            assert reason


@pytest.fixture
def watched(monkeypatch, tmp_path):
    """The notes of this process, from now on."""
    monkeypatch.setenv(error_sites.RECORD, str(tmp_path / "raised"))
    (tmp_path / "raised").touch()
    monkeypatch.setattr(UserError, "__init__", UserError.__init__)
    error_sites.watch()
    return tmp_path / "raised"


def raise_from(folder):
    """Raise the error of `SOURCE`, as from a file of the package."""
    code = compile(SOURCE, str(folder / "speechbrain_pom" / "made_up.py"), "exec")
    names = {"UserError": UserError}
    exec(code, names)
    with pytest.raises(UserError, match="size is 0"):
        names["check"](0)


def test_what_is_raised_is_noted_in_forked_processes_too(watched):
    raise_from(ROOT)
    process = multiprocessing.get_context("fork").Process(target=raise_from, args=[ROOT / "x"])
    process.start()
    process.join()
    raised = sorted(error_sites.read(watched))
    here = "speechbrain_pom/made_up.py"
    assert [path for path, _ in raised] == [here, f"x/{here}"]
    (site,) = error_sites.sites_of("speechbrain_pom/made_up.py", SOURCE)
    assert site.is_at(*raised[0])


def test_a_place_that_no_test_reaches_is_named(monkeypatch):
    here = list(error_sites.sites_of("speechbrain_pom/made_up.py", SOURCE))
    monkeypatch.setattr(error_sites, "all_sites", lambda: here)
    assert error_sites.unreached({("speechbrain_pom/made_up.py", 5)}) == []
    assert error_sites.unreached({("speechbrain_pom/made_up.py", 9)}) == here
    assert str(here[0]).startswith("speechbrain_pom/made_up.py:4: size is {}: give")
    excuse = {"speechbrain_pom/made_up.py": {"give a whole number": "no sizes here"}}
    monkeypatch.setattr(error_sites, "EXCUSED", excuse)
    assert error_sites.unreached(set()) == []


WHOLE = {"markexpr": "not slow", "doctestmodules": True, "keyword": "", "deselect": None}
WHOLE |= {"ignore": None, "ignore_glob": None, "collectonly": False, "lf": False}


@pytest.mark.parametrize(
    ("change", "is_whole"),
    [
        ({}, True),
        ({"markexpr": ""}, True),
        ({"markexpr": "slow"}, False),
        ({"doctestmodules": False}, False),
        ({"keyword": "padding"}, False),
        ({"deselect": ["tests/unit/runs"]}, False),
        ({"ignore": ["tests/recipes"]}, False),
        ({"collectonly": True}, False),
        ({"lf": True}, False),
        ("tests/unit", False),
    ],
)
def test_only_the_whole_suite_is_judged(pytestconfig, change, is_whole):
    option, source = copy.copy(pytestconfig.option), pytestconfig.ArgsSource.TESTPATHS
    if isinstance(change, str):  # named on the command line
        source, change = pytestconfig.ArgsSource.ARGS, {}
    for name, value in {**WHOLE, **change}.items():
        assert hasattr(option, name)
        setattr(option, name, value)
    config = SimpleNamespace(option=option, args_source=source, ArgsSource=pytestconfig.ArgsSource)
    assert bool(error_sites.is_whole_suite(config)) is is_whole
