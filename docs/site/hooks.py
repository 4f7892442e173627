"""The documents of the repository as pages of the site: `make docs`.

Documents stay where they are and go on working there. The pages of docs/ are pages of the site;
README.md and other documents outside of docs/ become pages at their own paths, and so does each
file that a document links to. Links are those between files of the repository; here they are
turned into links between pages, and one that leads nowhere is a warning, which ends a strict build.
"""

import logging
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File
from pymdownx.slugs import slugify
from reference import reference_pages

ROOT = Path(__file__).parents[2]
LOG = logging.getLogger("mkdocs.plugins.site")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "recipes/LibriSpeech/README.md",
    "recipes/MP3S/README.md",
    "recipes/Probe/README.md",
    "speechbrain_pom/ops/README.md",
    "speechbrain_pom/objectives/wav2vec2/README.md",
)
CONFIGURATIONS = [f"hparams/{path.name}" for path in sorted((ROOT / "hparams").glob("*.yaml"))]
PICTURES = (".png", ".svg")
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:)([^)#\s]*)(#[\w-]+)?(?=\))")
PICTURE = re.compile(r"^(!\[[^\]]*\]\(([^)\s]+)\))$", re.M)
FENCE = re.compile(r"^(```.*?^```$)", re.M | re.S)
SESSION = re.compile(r"^```python\n(?=>>> )", re.M)


def on_config(config):
    """Anchors as on GitHub; pages of docs/ that the navigation does not name come last there."""
    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    named = set(re.findall(r"[\w/]+\.md", repr(config.nav)))
    guides = next(part["Guides"] for part in config.nav if "Guides" in part)
    guides += sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    return config


def on_files(files, config):
    """Add what lies outside of docs/, and the reference."""
    paths = {*DOCUMENTS, *CONFIGURATIONS}
    for document in [*DOCUMENTS, *(f"docs/{file.src_uri}" for file in files.documentation_pages())]:
        paths |= {path for path in targets(document) if (ROOT / path).is_file()}
    for path in sorted(paths):
        if not path.startswith("docs/"):
            files.append(page_of(path, config))
    for uri, text in reference_pages():
        files.append(File.generated(config, uri, content=text))
    style = ROOT / "docs/site/style.css"
    files.append(File.generated(config, "assets/style.css", abs_src_path=str(style)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between files become links between pages; pictures open alone, in their full size.

    Sessions are marked as such.
    """
    if page.file.src_uri.startswith("reference/"):
        return markdown
    document = repository_path(page.file.src_uri)
    parts = FENCE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: relink(link, document, files), part) for part in parts[::2]]
    parts[::2] = [PICTURE.sub(r"[\1](\2)", part) for part in parts[::2]]
    return SESSION.sub("```pycon\n", "".join(parts))


def relink(link, document, files):
    """A link of a document, seen from its page."""
    path, anchor = link[1], link[2] or ""
    if not path:
        return anchor
    uri = site_path(resolve(path, document))
    if files.get_file_from_path(uri) is None:
        LOG.warning("%s links to %s, which does not exist", document, path)
        return path
    return posixpath.relpath(uri, posixpath.dirname(site_path(document)) or ".") + anchor


def page_of(path, config):
    """A file of the repository as a file of the site: a document, a picture, or its text."""
    if path.endswith((".md", *PICTURES)):
        return File.generated(config, site_path(path), abs_src_path=str(ROOT / path))
    language = {".py": "python", ".yaml": "yaml", ".json": "json"}.get(Path(path).suffix, "text")
    text = f"# {path}\n\n````{language}\n{(ROOT / path).read_text('utf-8')}````\n"
    return File.generated(config, site_path(path), content=text)


def targets(document):
    """The files of the repository that a document links to."""
    text = "".join(FENCE.split((ROOT / document).read_text("utf-8"))[::2])
    return {resolve(path, document) for path, _ in LINK.findall(text) if path}


def resolve(path, document):
    """The repository's path of a link in a document."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(document), path))


def site_path(path):
    """Where a file of the repository is in the site's sources.

    A README.md outside of docs/ gets the name of its folder, as it is no index of a section there.
    """
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path in DOCUMENTS and path != "README.md":
        return path.replace("/README.md", ".md")
    return path if path.endswith((".md", *PICTURES)) else f"files/{path}.md"


PLACES = {site_path(path): path for path in DOCUMENTS}


def repository_path(uri):
    """The inverse of `site_path` for documents."""
    return PLACES.get(uri, uri if uri.startswith("files/") else f"docs/{uri}")
