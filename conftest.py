"""What every test and every doctest of the package may rely on."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory):
    """The demo corpus goes to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHBRAIN_POM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    """Doctests use torch without importing it."""
    doctest_namespace["torch"] = torch
    torch.manual_seed(0)
