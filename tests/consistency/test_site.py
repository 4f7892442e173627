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
from tests.helpers.browser import Browser, find_chromium

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


@pytest.fixture
def browser(tmp_path):
    pytest.importorskip("websockets.sync.client", reason="the extra serve")
    if find_chromium() is None:
        pytest.skip("no Chromium is installed")
    with Browser(tmp_path / "profile") as browser:
        yield browser


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


# Right of the window, other than in a box that scrolls.
BEYOND = """
[...document.querySelectorAll(".md-content *")].filter((one) => {
  for (let box = one.parentElement; box !== document.body; box = box.parentElement)
    if (getComputedStyle(box).overflowX !== "visible") return false;
  return one.getBoundingClientRect().right > innerWidth + 1;
}).map((one) => one.textContent.trim())
"""
# What the button of a block copies: its text while it is marked so.
COPIED = """
[...document.querySelectorAll("pre > code")].map((one) => {
  one.setAttribute("data-md-copying", "");
  const text = one.innerText.trimEnd();
  one.removeAttribute("data-md-copying");
  return text;
})
"""


def test_on_a_telephone_in_the_dark(browser, site):
    scheme = "document.body.getAttribute('data-md-color-scheme')"
    for width, preferred, expected in [(390, "dark", "slate"), (1400, "light", "default")]:
        browser.look(width, preferred)
        for page in ("index", "streaming", "replica", "reference/mixers", "reference/commands"):
            browser.open((site / f"{page}.html").as_uri())
            browser.wait_for(f"{scheme} === '{expected}'")
            assert browser.evaluate("innerWidth") == width
            assert browser.evaluate(BEYOND) == []
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            pictures = "[...document.images].every((one) => one.naturalWidth)"
            assert browser.evaluate(pictures)


def test_what_is_copied_can_be_pasted(browser, site):
    browser.open((site / "index.html").as_uri())
    copied = browser.evaluate(COPIED)
    assert copied[0] == "make demo\nmake test"
    session = next(text for text in copied if "load_encoder" in text)
    assert session.startswith("import torch, speechbrain_pom\nfrom speechbrain_pom.inference")
    assert "torch.Size" not in session
    compile(session, "session", "exec")


def test_pictures_open_in_their_full_size(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    assert re.search(r'<a href="(benchmarks/[\w/]+\.svg)"><img [^>]*src="\1"', home)


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
