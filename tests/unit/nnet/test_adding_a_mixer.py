"""The two files of docs/adding_a_mixer.md are a mixer: in a copy of the package, it works."""

import os
import re
import shutil
import subprocess
import sys

import pytest

import speechbrain_pom
from tests.helpers import ROOT

SHARED = ("tests", "experiments", "recipes", "hparams", "conftest.py", "pyproject.toml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The package with the new mixer, and the tests as they are."""
    folder = tmp_path_factory.mktemp("checkout")
    package = ROOT / "speechbrain_pom"
    shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in SHARED:
        (folder / name).symlink_to(ROOT / name)
    text = (ROOT / "docs/adding_a_mixer.md").read_text(encoding="utf-8")
    files = re.findall(r"^```py\n# (speechbrain_pom/\S+)\n(.*?)^```$", text, re.M | re.S)
    assert [path for path, _ in files] == [
        "speechbrain_pom/ops/mean/__init__.py",
        "speechbrain_pom/nnet/mean.py",
    ]
    for path, source in files:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(source, encoding="utf-8")
    return folder


def run_tests(folder):
    """The tests of every mixer, those of the new one alone."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    tests = "tests/unit/attention/test_every_mixer.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", tests, "-x", "-k", "Mean"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_the_tests_of_every_mixer_find_it_and_pass(checkout):
    assert "Mean" not in speechbrain_pom.attention_types()
    code, output = run_tests(checkout)
    assert code == 0, output
    assert int(re.search(r"(\d+) passed", output)[1]) > 10


def test_a_mixer_that_forgets_its_padding_fails_them(checkout):
    file = checkout / "speechbrain_pom/nnet/mean.py"
    source = file.read_text(encoding="utf-8")
    broken = source.replace("key_padding_mask=key_padding_mask)", "key_padding_mask=None)")
    assert broken != source
    file.write_text(broken, encoding="utf-8")
    code, output = run_tests(checkout)
    assert code == 1
    assert "FAILED" in output
