"""Every public name has a docstring; exported functions and classes say what they take and give."""

import ast
import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import speechbrain_pom
from tests.helpers import ROOT

KERNELS = {
    f"speechbrain_pom.ops.polynomial.kernels_{name}" for name in ("common", "select", "sums")
}
WITHOUT_TRITON = set() if importlib.util.find_spec("triton") else KERNELS
WITHOUT_TRANSFORMERS = importlib.util.find_spec("transformers") is None
MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(speechbrain_pom.__path__, "speechbrain_pom.")
    if not info.name.endswith("__main__")
    and info.name not in WITHOUT_TRITON
    and not (WITHOUT_TRANSFORMERS and info.name.startswith("speechbrain_pom.hf"))
)
PACKAGES = [
    "speechbrain_pom",
    *(name for name in MODULES if hasattr(importlib.import_module(name), "__all__")),
]


def public_functions(module_name):
    """(qualified name, syntax node) of the public functions and methods of a module."""
    path = inspect.getsourcefile(importlib.import_module(module_name))
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            yield node.name, node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for item in node.body:
                if isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                    yield f"{node.name}.{item.name}", item


def own_nodes(node):
    """The nodes of a function, without those of functions inside of it."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            yield child
            yield from own_nodes(child)


def missing_sections(node, text=None):
    """Sections that a function's docstring (or another text) lacks, by signature and body."""
    text = text or ast.get_docstring(node) or ""
    arguments = [*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    arguments = [a for a in arguments if a is not None and a.arg not in ("self", "cls")]
    returns = any(isinstance(n, ast.Return) and n.value is not None for n in own_nodes(node))
    yields = any(isinstance(n, (ast.Yield, ast.YieldFrom)) for n in own_nodes(node))
    sections = ["Arguments"] if arguments else []
    sections += ["Returns"] if returns and not yields else []
    return [name for name in sections if f"{name}\n{'-' * len(name)}" not in text]


def short(node):
    """One line may say all of a property, or of a small function of one argument."""
    arguments = [a for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"]
    return len(arguments) <= 1 and len(node.body) <= 4


def overrides(module_name, name):
    """Whether a method is documented in a base class: torch's, SpeechBrain's or ours."""
    owner, _, method = name.rpartition(".")
    if not owner:
        return False
    bases = getattr(importlib.import_module(module_name), owner).__mro__[1:]
    return any(method in vars(base) for base in bases)


def refers(node):
    """Whether a docstring says whose arguments it takes, as in "As `polynomial_mix`"."""
    return re.search(r"\b([Ss]ee|[Aa]s) [`:]", ast.get_docstring(node) or "")


def test_every_public_name_has_a_docstring():
    missing = [
        f"{module}.{name}"
        for module in MODULES
        for name, node in public_functions(module)
        if not ast.get_docstring(node)
    ]
    assert not missing, "\n".join(missing)


def exported_objects():
    """The functions and classes that a package exports, by where they are defined."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        for thing in (getattr(module, name) for name in module.__all__):
            if inspect.isclass(thing) or inspect.isfunction(thing):
                yield thing.__module__, thing.__qualname__


EXPORTED = set(exported_objects())


def is_exported(module, name):
    """Whether a function is exported, or is a method of a class that is."""
    return (module, name) in EXPORTED or (module, name.rpartition(".")[0]) in EXPORTED


def initialiser(node):
    """The `__init__` of a class, if it has one of its own."""
    found = [item for item in node.body if getattr(item, "name", None) == "__init__"]
    return found[0] if found else None


def test_exported_functions_have_arguments_and_returns():
    missing = [
        f"{module}.{name}: {', '.join(sections)}"
        for module in MODULES
        for name, node in public_functions(module)
        if isinstance(node, ast.FunctionDef) and is_exported(module, name)
        if not (short(node) or refers(node) or overrides(module, name))
        if (sections := missing_sections(node))
    ]
    assert not missing, "\n".join(missing)


def test_classes_say_what_they_are_made_of():
    missing = [
        f"{module}.{name}"
        for module in MODULES
        for name, node in public_functions(module)
        if isinstance(node, ast.ClassDef) and initialiser(node) and not refers(node)
        if "Arguments" in missing_sections(initialiser(node), ast.get_docstring(node))
    ]
    assert not missing, "\n".join(missing)


# Public functions without annotations, by folder of the package: a number that may only fall.
NOT_YET_ANNOTATED = {"ops": 17}


def is_annotated(node):
    """Whether a function says the types of its arguments and of what it returns."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    named = [argument for argument in arguments if argument.arg not in ("self", "cls")]
    return node.returns is not None and all(argument.annotation for argument in named)


def test_public_functions_are_annotated():
    bare = {}
    for module in MODULES:
        for name, node in public_functions(module):
            if isinstance(node, ast.FunctionDef) and not is_annotated(node):
                bare.setdefault(module.split(".")[1], []).append(f"{module}.{name}")
    too_many = [
        name
        for folder, names in bare.items()
        if len(names) > NOT_YET_ANNOTATED.get(folder, 0)
        for name in names
    ]
    assert not too_many, "\n".join(too_many)


def test_a_missing_annotation_is_found():
    for source in ("def f(x) -> int: ...", "def f(x: int): ...", "def f(*, x) -> int: ..."):
        assert not is_annotated(ast.parse(source).body[0])
    assert is_annotated(ast.parse("def f(self, x: int, *rest) -> int: ...").body[0])


def test_missing_sections_are_found():
    source = 'def scale(x, factor, shift):\n    """Scale."""\n    return x * factor + shift\n'
    assert missing_sections(ast.parse(source).body[0]) == ["Arguments", "Returns"]


@pytest.mark.parametrize("package", PACKAGES)
def test_exported_names_have_examples(package):
    module = importlib.import_module(package)
    objects = {name: getattr(module, name) for name in module.__all__}
    described = {
        name: thing
        for name, thing in objects.items()
        if inspect.isclass(thing) or inspect.isfunction(thing)
    }
    lacking = [name for name, thing in described.items() if ">>> " not in (thing.__doc__ or "")]
    assert not lacking, "\n".join(lacking)


def test_every_module_says_what_it_is():
    folders = ("speechbrain_pom", "recipes", "benchmarks", "tests")
    sources = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(sources) > 50
    undescribed = [
        str(path.relative_to(ROOT))
        for path in sources
        if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not undescribed, "\n".join(undescribed)
