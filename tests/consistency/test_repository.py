"""Version, licence and size of what is in the repository."""

import configparser
import re
import shutil
import subprocess
from importlib.metadata import version

import pytest
from ruamel.yaml import YAML

import speechbrain_pom
from tests.helpers import ROOT

MAX_BYTES = 2**20


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read_string(read("setup.cfg"))
    return parser


def test_one_version(config):
    expected = config["metadata"]["version"]
    assert speechbrain_pom.__version__ == expected
    assert version("speechbrain-pom") == expected
    assert YAML().load(read("CITATION.cff"))["version"] == expected
    sections = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)
    assert next(name for name in sections if name != "Unreleased") == expected


def test_licence(config):
    assert config["metadata"]["license"] == "Apache-2.0"
    assert YAML().load(read("CITATION.cff"))["license"] == "Apache-2.0"
    text = read("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert text.count("\n") > 190


def test_citation():
    citation = YAML().load(read("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    for entry in [citation, *citation["references"]]:
        assert entry["title"]
        assert all("name" in person or "family-names" in person for person in entry["authors"])
    urls = {reference["url"].rpartition("/")[2] for reference in citation["references"]}
    assert {"2603.00683", "2202.01855", "2307.07421", "2106.04624"} == urls


def test_tools_of_the_makefile_are_installed_by_it(config):
    makefile = read("Makefile")
    extras = re.search(r'-e "\.\[(.*?)\]"', makefile)[1].split(",")
    requirements = " ".join(config["options.extras_require"][extra] for extra in extras)
    assert {"demo", "dev"} == set(extras)
    for package in ("pytest", "pytest-xdist", "ruff", "espeakng-loader"):
        assert re.search(rf"(?<![\w-]){package}(?![\w-])", requirements), package
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert "make test" in read(".ci/run")


def test_no_large_files_are_tracked():
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listing = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    paths = [ROOT / name for name in listing.split("\0") if name]
    assert len(paths) > 50
    large = [str(path) for path in paths if path.is_file() and path.stat().st_size > MAX_BYTES]
    assert large == []


def test_the_dockerfile_installs_what_the_package_asks_for(config):
    text = read("Dockerfile")
    assert len([line for line in text.splitlines() if line and not line.startswith("#")]) <= 12
    python = re.search(r"^FROM python:(\d+)\.(\d+)", text, re.MULTILINE)
    assert (3, 10) <= tuple(map(int, python.groups())) <= (3, 12)
    required = config["options"]["install_requires"]
    assert "torch>=2.11,<2.12" in required
    assert "torchaudio==2.11.0" in required
    assert re.search(r"torch==2\.11\.\d+ torchaudio==2\.11\.0", text)
    extras = re.search(r'"/src\[(.*?)\]"', text)[1].split(",")
    assert set(extras) <= set(config["options.extras_require"])
    assert 'ENTRYPOINT ["speechbrain-pom"]' in text
    assert "speechbrain-pom =" in config["options.entry_points"]["console_scripts"]
