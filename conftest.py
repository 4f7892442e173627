"""What every test and every doctest of the package may rely on."""

import importlib.util
import os
import signal
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent
if not torch.cuda.is_available():  # the kernels are interpreted; before anything imports triton
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Files of kernels cannot be imported without Triton, so they have no doctests either.
KERNELS = [
    f"speechbrain_pom/ops/polynomial/kernels_{name}.py" for name in ("common", "select", "sums")
]
collect_ignore = [] if importlib.util.find_spec("triton") else KERNELS
# Doctests of what reads Parquet, without pyarrow.
PARQUET = [f"speechbrain_pom/data/{name}.py" for name in ("index", "packing", "shards")]
collect_ignore += [] if importlib.util.find_spec("pyarrow") else PARQUET
if not importlib.util.find_spec("transformers"):  # the extra [hf]
    collect_ignore += [str(path) for path in ROOT.glob("speechbrain_pom/hf/*.py")]
collect_ignore.append("tests/helpers/program_server.py")  # a program, with imports of one


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_session(tmp_path_factory):
    """The demo corpus goes to a temporary folder, not to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEECHBRAIN_POM_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c_ends_programs():
    """A shell that starts the tests in the background has told all its programs to ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    """Doctests use torch without importing it."""
    doctest_namespace["torch"] = torch
    torch.manual_seed(0)


@pytest.fixture
def tiny_encoder():
    """For doctests: an encoder of two layers of PoM."""
    from tests.helpers.encoders import build_encoder

    return build_encoder()


@pytest.fixture
def tiny_recogniser(tiny_encoder):
    """For doctests: that encoder with a head on characters."""
    from speechbrain_pom.ctc.tokenizers import CharacterUnits
    from speechbrain_pom.inference.recogniser import SpeechRecogniser

    units = CharacterUnits()
    return SpeechRecogniser(tiny_encoder, torch.nn.Linear(16, units.size), units).eval()
