"""What the documents show exists and does what they say."""

import doctest
import importlib.util
import re
import subprocess

import pytest
import soundfile
import torch
from ruamel.yaml import YAML

from speechbrain_pom.__main__ import COMMANDS, main
from speechbrain_pom.attention import parse_spec
from tests.helpers import ROOT

TRANSFORMERS = importlib.util.find_spec("transformers")  # the extra [hf]
ONNX = importlib.util.find_spec("onnxruntime")  # the extra [onnx]
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "recipes/LibriSpeech/README.md"]
DOCUMENTS += ["speechbrain_pom/ops/README.md", "tests/data/golden/README.md"]
DOCUMENTS += ["recipes/Probe/README.md", "recipes/MP3S/README.md"]
DOCUMENTS += [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def fences(name, language):
    """The fenced blocks of a language."""
    text = read(name)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(name):
    return [line for block in fences(name, "bash") for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name in DOCUMENTS for line in commands(name)]
)
def test_commands_exist(name, line, check_command):
    check_command(line)


@pytest.mark.parametrize("target", ["demo", "demo-streaming", "bench"])
def test_commands_of_the_makefile_exist(target, check_command):
    """Those that take too long to be run here; the notebook runs a small demo."""
    command = ["make", "--dry-run", "--always-make", "VENV=env", target]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    lines = [line for line in printed.splitlines() if line.startswith("env/bin/python ")]
    lines = [line for line in lines if " -m pip " not in line]
    assert len(lines) > 2
    for line in lines:
        check_command(line)


def test_the_readme_names_all_commands():
    table = read("README.md").partition("\n## Commands\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|.]*`) \|", table, re.MULTILINE)
    assert sorted(", ".join(rows).replace("`", "").split(", ")) == sorted(COMMANDS)


@pytest.mark.parametrize(
    "line",
    [
        "make demos",
        "python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --d_modle 16",
        "python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --attention_type PaM",
        "python recipes/LibriSpeech/train.py hparams/pom.yaml",
        "torchrun --nprocs-per-node=2 recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml",
        "python recipes/LibriSpeech/librispeech_prepare.py DATA OUT --split dev-clean",
        'python -m pip install -e ".[demos]"',
        "python -m speechbrain_pom inf",
        "python -m speechbrain_pom info hparams/pom.yaml --attention PoM",
        "python -m speechbrain_pom mini-corpus out --hours 1",
        'python -m speechbrain_pom run train.py hparams/conformer.yaml --attention_type "PoM*8"',
        "python -m speechbrain_pom run train.py hparams/conformer_large.yaml --attention_type PaM",
        "python -m speechbrain_pom run train.py hparams/conformer_large.yaml --lr_adan 1",
        "python -m speechbrain_pom run train.py hparams/branchformer_large.yaml --d_ffn 64",
        "python -m speechbrain_pom info hparams/conformer_large.yaml --Transformer.attention PoM",
        "python -m pytest tests/nothing.py",
    ],
)
def test_wrong_commands_are_found(line, check_command):
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        check_command(line)


@pytest.fixture
def demo(request, tmp_path, monkeypatch, make_run):
    """A current folder with the runs of `make demo` (random weights) and an audio file.

    Graphs are traced layer by layer, and one layer shows it.
    """
    num_layers = 1 if request.node.callspec.params["name"] == "docs/deploy.md" else 4
    size = {"d_model": 144, "d_ffn": 576, "nhead": 4, "cnn_channels": 32}
    size["num_encoder_layers"] = num_layers
    make_run(tmp_path / "results/demo/bestrq_pom", **size)
    make_run(tmp_path / "results/demo/ctc_pom", "ctc", dnn_neurons=256, **size)
    main(["export", str(tmp_path / "results/demo/ctc_pom"), str(tmp_path / "exported/ctc_pom")])
    if TRANSFORMERS:
        out = str(tmp_path / "exported/ctc_pom_hf")
        main(["export", str(tmp_path / "results/demo/ctc_pom"), out, "--format", "transformers"])
    noise = 0.1 * torch.randn(2 * 44100, 2)
    soundfile.write(tmp_path / "speech.flac", noise.numpy(), 44100)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("name", [name for name in DOCUMENTS if fences(name, "python")])
def test_python_examples_run(name):
    blocks = fences(name, "python")
    assert blocks
    for block in blocks:
        if ("speechbrain_pom.hf" in block and not TRANSFORMERS) or ("onnx" in block and not ONNX):
            continue
        example = doctest.DocTestParser().get_doctest(block, {}, name, name, 0)
        assert example.examples
        report = []
        result = doctest.DocTestRunner().run(example, out=report.append)
        assert result.failed == 0, "".join(report)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_yaml_examples_are_yaml(name):
    for block in fences(name, "yaml"):
        loaded = YAML().load(block)
        parse_spec(loaded.get("attention_type", "PoM"), 12)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_are_named_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose)
    missing = [
        link
        for link in links
        if not link.startswith("http") and not ((ROOT / name).parent / link).exists()
    ]
    top = [path.name for path in ROOT.iterdir() if path.is_dir() and path.name != "results"]
    paths = re.findall(rf"`((?:{'|'.join(map(re.escape, top))})/[\w./-]+)`", prose)
    missing += [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_anchors_exist():
    """Links to a heading, of the same document or of another one."""
    for name in DOCUMENTS:
        for link, anchor in re.findall(r"\]\(([^)#]*)#([\w-]+)\)", read(name)):
            if not link.startswith("http"):
                target = (ROOT / name).parent / link if link else ROOT / name
                assert anchor in anchors_of(target.read_text(encoding="utf-8")), (name, anchor)
    assert "links" not in anchors_of("# No links here")


def anchors_of(text):
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}


def test_the_readme_is_short():
    """The front page: one sentence per line, and the rest in docs/."""
    assert len(read("README.md").splitlines()) <= 170
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} <= set(
        re.findall(r"\]\((docs/[\w.]+)\)", read("README.md"))
    )


def test_the_tree_that_is_shown_is_the_tree():
    tree = fences("CONTRIBUTING.md", "text")[-1]
    names = re.findall(r"^(  )?([\w.]+/?\w*/?)  *", tree, re.MULTILINE)
    parents = ("", "speechbrain_pom/")
    missing = [name for deep, name in names if not (ROOT / parents[bool(deep)] / name).exists()]
    assert not missing
    packages = {path.parent.name for path in (ROOT / "speechbrain_pom").glob("*/__init__.py")}
    assert packages <= {name.strip("/") for _, name in names}


def test_output_files_of_a_run():
    """Each file that the documents list is written by name somewhere in the code."""
    listing = next(text for text in fences("docs/runs.md", "text") if "train_log.txt" in text)
    names = re.findall(r"([\w]+\.(?:yaml|txt|log|json|jsonl|png))\b", listing)
    sources = [*ROOT.glob("speechbrain_pom/**/*.py"), *ROOT.glob("recipes/*/*.py")]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    assert len(names) > 8
    assert [name for name in names if name not in code] == []
