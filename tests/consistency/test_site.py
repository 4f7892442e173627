"""The documentation as a site: it builds without a warning, and describes all public names."""

import html
import importlib
import importlib.util
import os
import re
import subprocess
import sys

import pytest

import speechbrain_pom
from tests.helpers import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None, reason="needs the extra [docs]"
)
# Packages whose exported names are public.
PUBLIC = ["speechbrain_pom", "ops", "inference", "objectives", "downstream", "downstream.heads"]
PUBLIC = [PUBLIC[0], *(f"speechbrain_pom.{name}" for name in PUBLIC[1:])]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def hooks(monkeypatch):
    """The module of the site's hooks, with those beside it."""
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    return importlib.import_module("hooks")


def text_of(page):
    return html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_every_document_is_a_page(site):
    pages = {path.relative_to(site).as_posix() for path in site.rglob("*.html")}
    documents = [path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")]
    expected = {str(path.with_suffix(".html")).replace("README", "index") for path in documents}
    assert expected | {"index.html", "CONTRIBUTING.html", "CHANGELOG.html"} <= pages
    assert "recipes/LibriSpeech.html" in pages
    assert "files/hparams/pom.yaml.html" in pages
    navigation = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}"' in navigation for page in expected if "/" not in page)


def test_public_names_are_described(site):
    reference = "\n".join(path.read_text("utf-8") for path in (site / "reference").glob("*.html"))
    described = set(re.findall(r'id="(speechbrain_pom[\w.]+)"', reference))
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            thing = getattr(module, name)
            if not isinstance(thing, (str, type(speechbrain_pom))):
                places = {f"{package}.{name}", f"{thing.__module__}.{thing.__qualname__}"}
                places.add(f"speechbrain_pom.{name}")
                assert places & described, f"{package}.{name}"


def test_arguments_are_tables_and_links_lead_to_names(site):
    page = (site / "reference/operators.html").read_text(encoding="utf-8")
    text = text_of(site / "reference/operators.html")
    assert "Parameters:" in text
    assert "The products and the means over time are in fp32 or better" in " ".join(text.split())
    for path in (site / "reference").glob("*.html"):
        assert not re.search(r"^(Arguments|Example|-{4,})$", text_of(path), re.M), path
    assert re.search(r'<a class="autorefs[^>]*href="[^"]*#speechbrain_pom.ops.parse_attn', page)


def test_commands_are_those_of_the_program(site):
    text = text_of(site / "reference/commands.html")
    assert "usage: speechbrain-pom transcribe" in text
    assert "--pause_s S" in text


def test_links_between_files_are_links_between_pages(site):
    readme = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="benchmarks.html"' in readme
    assert 'src="benchmarks/results/mixer_scaling_cpu_infer.svg"' in readme
    assert (site / "benchmarks/results/mixer_scaling_cpu_infer.svg").is_file()
    ops = (site / "speechbrain_pom/objectives/wav2vec2.html").read_text(encoding="utf-8")
    assert 'href="../../wav2vec2.html"' in ops
    assert not [
        path for path in site.rglob("*.html") if re.search(r'="[^":]*\.md"', path.read_text())
    ]


def test_a_link_that_leads_nowhere_is_a_warning(hooks, caplog):
    class Files:
        known = ("data.md", "files/hparams/pom.yaml.md")

        def get_file_from_path(self, path):
            return path if path in self.known else None

    def relink(text, document):
        return hooks.LINK.sub(lambda link: hooks.relink(link, document, Files()), text)

    assert relink("[a](docs/data.md#csv-files)", "README.md") == "[a](data.md#csv-files)"
    assert relink("[a](../data.md)", "docs/tutorials/a.md") == "[a](../data.md)"
    assert relink("[a](../hparams/pom.yaml)", "docs/a.md") == "[a](files/hparams/pom.yaml.md)"
    assert (
        relink("[a](https://x.org/b.md) [b](#c)", "README.md") == "[a](https://x.org/b.md) [b](#c)"
    )
    assert caplog.records == []
    relink("[a](datas.md)", "docs/a.md")
    assert "docs/a.md links to datas.md, which does not exist" in caplog.text
    assert caplog.records[0].name.startswith("mkdocs.")  # counted by a strict build


def test_headings_of_docstrings(hooks):
    docstrings = importlib.import_module("docstrings")
    text = "Scale.\n\nArguments\n---------\nx : float\n\nExample\n-------\n>>> 1\n1\n"
    changed = docstrings.to_numpy(text)
    assert "Parameters\n----------\nx" in changed
    assert "Examples\n--------\n>>> 1" in changed
    assert docstrings.to_numpy("Scale.\n\n>>> 1\n1") == "Scale.\n\nExamples\n--------\n>>> 1\n1"
    text = docstrings.to_numpy("See `speechbrain_pom.ops.f` and `g`.")
    assert re.fullmatch(r'See <autoref identifier="speechbrain_pom.ops.f".*> and `g`.', text)
