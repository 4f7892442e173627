"""Builds the torch modules of an hparams file, and as little else as possible."""

import inspect
import os
import pydoc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML
from torch import nn

from speechbrain_pom.runs.keys import located
from speechbrain_pom.runs.options import node_tag, read_tree
from speechbrain_pom.utils.errors import UserError, one_line


def build_models(yaml_path: str | Path, overrides: dict) -> tuple[dict, dict[str, str]]:
    """Build the torch modules of an hparams file, and as little else as possible.

    Returns what was built, and what was not with the reason.

    Objects of other classes (checkpointers, loggers, tokenizers) and what is only named (metrics,
    optimizers) are built only where a module needs them, in a temporary current folder, so that
    nothing is left behind. Keys that are `!PLACEHOLDER` and not overridden get a text in their
    place. What needs a package that is not installed is left out.
    """
    unset = {
        key: f"unset_{key}"
        for key, node in read_tree(yaml_path).items()
        if node_tag(node) == "!PLACEHOLDER" and key not in overrides
    }
    needed = []
    try:
        with open(yaml_path, encoding="utf-8") as stream:
            resolved = resolve_references(stream, {**unset, **overrides})
        tree = YAML().load(resolved)
        _keep_models(tree)
        needed = [f"--{key}" for key, text in unset.items() if _builds_with(tree, text)]
        with _temporary_folder(), redirect_stdout(sys.stderr):
            return _build_what_can_be(tree)
    except Exception as error:  # whatever the constructors of the file's classes raise
        cause = f"its models need {', '.join(needed)}" if needed else "cannot build it"
        raise UserError(f"{yaml_path}: {cause}: {one_line(error)}") from error


def _places(node, path=()):
    """(container, key, path) of what stands at the top of a file, and in its plain containers."""
    for key in list(node) if isinstance(node, dict) else reversed(range(len(node))):
        yield node, key, (*path, str(key))
        if isinstance(node[key], (dict, list)) and not node_tag(node[key]):
            yield from _places(node[key], (*path, str(key)))


def _keep_models(tree):
    """Take what is no torch module out of a resolved hparams file."""
    for container, key, _ in list(_places(tree)):
        if _is_other_object(container[key]):
            del container[key]  # what it shares with others is written where they use it


def _builds_with(tree, text):
    """Whether a text is among the arguments of anything that is built."""
    return any(node_tag(node) and text in repr(node) for node in tree.values())


def _build_what_can_be(tree):
    """Build a tree; where a package is missing, without the parts that need it."""
    try:
        return load_hyperpyyaml(_dump(tree)), {}
    except Exception as error:
        if missing_package(error) is None:
            raise
        first = error
    left_out = {}
    for container, key, path in list(_places(tree)):
        if not node_tag(container[key]):
            continue
        try:
            load_hyperpyyaml(_dump({"part": container[key]}))
        except Exception as error:
            package = missing_package(error)
            if package is None:
                raise
            left_out[".".join(path)] = f"needs {package}"
            del container[key]
    hparams = load_hyperpyyaml(_dump(tree))
    if not any(True for _ in named_modules(hparams)):
        raise first
    return hparams, left_out


def missing_package(error: BaseException) -> str | None:
    """What an error says about a package that is not installed; None if it has another cause.

    >>> missing_package(ModuleNotFoundError("No module named 'flair'", name="flair"))
    'the package flair'
    >>> missing_package(ImportError("There is no such class as torch.nn.Linaer"))
    """
    if isinstance(error, pydoc.ErrorDuringImport):
        error = error.value
    if not isinstance(error, ImportError):
        return None
    # Wrappers tell what to install, and came from the import that failed.
    causes = [error, error.__cause__, error.__context__]
    names = [cause.name for cause in causes if isinstance(cause, ModuleNotFoundError)]
    names += re.findall(r"There is no such \w+ as (\S+)", str(error))
    if not names:
        return f"what is not installed: {one_line(error)}"
    package = names[0].partition(".")[0]
    return None if find_spec(package) else f"the package {package}"


def _dump(tree):
    stream = StringIO()
    YAML().dump(tree, stream)
    stream.seek(0)
    return stream


def _is_other_object(node):
    """Whether a node is only named, or builds something that is known to be no torch module."""
    kind = node_tag(node).partition(":")[0]
    target = located(node) if kind == "!new" else None
    is_other = inspect.isclass(target) and not issubclass(target, nn.Module)
    return kind in ("!name", "!module") or is_other


@contextmanager
def _temporary_folder():
    before = os.getcwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)


def named_modules(hparams: dict) -> Iterator[tuple[str, nn.Module]]:
    """Modules of the file: its own keys first, then those inside of mappings such as `modules`.

    >>> [name for name, _ in named_modules({"modules": {"head": nn.Identity()}, "lr": 0.1})]
    ['modules.head']
    """
    for name, value in hparams.items():
        if isinstance(value, nn.Module):
            yield name, value
    for key, value in hparams.items():
        for name, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, nn.Module):
                yield f"{key}.{name}", item
