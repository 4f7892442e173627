"""What every doctest of the package may use without importing it."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    doctest_namespace["torch"] = torch
    torch.manual_seed(0)
