"""An experiment: a YAML, the command line over it, and the demo when there is no data."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from pydoc import ErrorDuringImport

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml.error import YAMLError
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_pom.runs.keys import referred_key, unknown_key_message
from speechbrain_pom.runs.launch import Launch
from speechbrain_pom.runs.options import RunRequest, read_tree
from speechbrain_pom.runs.overlay import overlay
from speechbrain_pom.runs.values import (
    RUN_OPTION_TYPES,
    STREAMING,
    VALUES_OF_CASES,
    node_tag,
    typed_run_option,
)
from speechbrain_pom.utils.errors import UserError, one_line

# Where the data are; if none of them is given, the demo is run.
DATA_KEYS = ("data_folder", "train_csv", "prepare")
# What a YAML can do wrong while its objects are built.
_BUILD_ERRORS = (
    ValueError,
    TypeError,
    AssertionError,
    ImportError,
    LookupError,
    AttributeError,
    ArithmeticError,
    OSError,
    YAMLError,
    ErrorDuringImport,
)


@dataclass(frozen=True)
class Experiment:
    """A loaded experiment.

    Arguments
    ---------
    hparams : dict
        The YAML's keys with effective values and built objects, without `demo`.
    run_opts : dict
        For SpeechBrain's `Brain`: only run options that were given on the command line (or
        follow from torchrun), so that the YAML's, in `hparams`, stand above the defaults.
    overrides : dict
        Everything laid over the YAML: the demo's values and the command line's.
    sources : dict
        For each key of `hparams` and each run option "YAML", "demo", "command line",
        "torchrun" or "default".
    is_demo : bool
    yaml_path : Path
    command : tuple of str
        The program and its arguments.
    """

    hparams: dict
    run_opts: dict
    overrides: dict
    sources: dict
    is_demo: bool
    yaml_path: Path
    command: tuple = field(default=())


def load_experiment(
    request: RunRequest,
    demo_data: Callable[[], str | Path] | None = None,
    launch: Launch | None = None,
) -> Experiment:
    """Build the experiment that a command line asks for.

    The YAML may have a mapping `corpora`, names to mappings of top-level keys: those of the one
    that the key `corpus` names lie over the YAML, but under the command line. So do those of a
    mapping `when_streaming`, where the key `streaming` is True. It may also have a
    plain mapping `demo`: top-level keys with other values. When
    `data_folder` and `train_csv` are null and `demo_data` is given, the demo is run: two lines
    say so, `demo_data` makes the data (on the main process only) and returns their folder, and the
    mapping lies over the YAML, but under the command line. Whatever fails while the YAML's objects
    are built is a `UserError` with the YAML's path.

    Example
    -------
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("seed: 1\\ndata_folder: null\\ndemo: {seed: 2}")
    >>> experiment = load_experiment(RunRequest(file, {"data_folder": "/data"}))
    >>> experiment.hparams, experiment.sources["seed"]
    ({'seed': 1, 'data_folder': '/data'}, 'YAML')
    """
    tree = read_tree(request.yaml_path)
    _check_sections(tree, request.overrides)
    demo = _demo_values(request, tree)
    data = [request.overrides.get(key, tree.get(key)) for key in DATA_KEYS]
    is_demo = bool(demo) and demo_data is not None and data == [None] * len(data)
    cases = _values_of_cases(request, tree, demo if is_demo else {})
    overrides = {**cases["streaming"], **cases["corpus"], **request.overrides}
    if is_demo:
        if if_main_process():
            print(_demo_notice(request), flush=True)
        data_folder = str(run_on_main(demo_data))
        overrides = {**demo, **overrides, "data_folder": data_folder}
    hparams = _build(request.yaml_path, overrides)
    for name in VALUES_OF_CASES:
        hparams.pop(name, None)
    launched = launch.run_options if launch is not None else {}
    demo_keys = {*demo, "data_folder"} if is_demo else ()
    return Experiment(
        hparams,
        {**request.run_options, **launched},
        overrides,
        _sources(request, hparams, cases, demo_keys, launched),
        is_demo,
        request.yaml_path,
        request.command,
    )


def _check_sections(tree, overrides, section=""):
    """Keep to one value where a section refers to a key of the top: records are made of the top."""
    for key, value in overrides.items():
        node = tree.get(key)
        if isinstance(value, dict) and isinstance(node, dict):
            _check_sections(node, value, f"{section}{key}.")
        elif section and referred_key(node) not in (None, referred_key(value)):
            raise UserError(
                f"--{section}{key} stands for {node_tag(node)} {node.value} in the YAML, and other "
                f"parts of the run read that too: give --{referred_key(node)}"
            )


def effective_overrides(request: RunRequest) -> dict:
    """What a command line lays over its YAML, values of its cases (`corpora`, streaming) included.

    Example
    -------
    >>> from speechbrain_pom.runs.options import RunRequest
    >>> file = getfixture("tmp_path") / "toy.yaml"
    >>> _ = file.write_text("streaming: False\\nsize: 1\\nwhen_streaming: {size: 2}")
    >>> effective_overrides(RunRequest(file, {"streaming": True}))
    {'size': 2, 'streaming': True}
    """
    cases = _values_of_cases(request, read_tree(request.yaml_path), {})
    return {**cases["streaming"], **cases["corpus"], **request.overrides}


def _values_of_cases(request, tree, demo):
    """By the name of their source, values of keys that hold in a case of the YAML."""
    return {
        "streaming": _streaming_values(request, tree, demo),
        "corpus": _corpus_values(request, tree),
    }


def _sources(request, hparams, cases, demo_keys, launched):
    sources = dict.fromkeys(RUN_OPTION_TYPES, "default")
    sources.update(dict.fromkeys(hparams, "YAML"))
    sources.update(dict.fromkeys(demo_keys, "demo"))
    for source, values in cases.items():
        sources.update(dict.fromkeys(values.keys() & hparams.keys(), source))
    given = {**request.overrides, **request.run_options}
    if demo_keys:
        # `--data_folder null` asks for the demo, which then sets it.
        given.pop("data_folder", None)
    sources.update(dict.fromkeys(given, "command line"))
    sources.update(dict.fromkeys(launched.keys() - request.run_options.keys(), "torchrun"))
    return sources


def _demo_values(request, tree):
    demo = tree.get("demo")
    if demo is None:
        return {}
    return _checked_values(request, tree, "demo", demo)


def _corpus_values(request, tree):
    """The values of the corpus that is asked for, if the YAML has any."""
    corpora = tree.get("corpora")
    name = request.overrides.get("corpus", tree.get("corpus"))
    if corpora is None:
        return {}
    if name is None:
        return {"corpora": None}  # what those name is then not even imported
    if name not in corpora:
        raise UserError(f"corpus is '{name}': choose {' or '.join(corpora)}, or null for your own")
    values = _checked_values(request, tree, f"corpora.{name}", corpora[name])
    return {**values, "corpora": None}


def _streaming_values(request, tree, demo):
    """What is other where `streaming` is True, if the YAML says so."""
    given = {**tree, **demo, **request.overrides}
    if STREAMING not in tree or given.get("streaming") is not True:
        return {}
    return _checked_values(request, tree, STREAMING, tree[STREAMING])


def _checked_values(request, tree, where, values):
    """A mapping of other values for top-level keys."""
    if not isinstance(values, dict):
        raise UserError(f"{request.yaml_path}: {where} is a mapping of key: value, not '{values}'")
    for key in values:
        if key not in tree or key in (*VALUES_OF_CASES, "data_folder"):
            known = [name for name in tree if name not in (*VALUES_OF_CASES, "data_folder")]
            message = unknown_key_message(key, known, prefix="")
            raise UserError(f"{request.yaml_path}, under {where}: {message}")
    return dict(values)


def _build(yaml_path, overrides):
    """HyperPyYAML's load, with every failure turned into one line."""
    try:
        hparams = dict(load_hyperpyyaml(*overlay(yaml_path, overrides)))
        for name in RUN_OPTION_TYPES.keys() & hparams.keys():
            hparams[name] = typed_run_option(name, hparams[name])
        return hparams
    except _BUILD_ERRORS as error:
        message = one_line(error)
        unset = re.match(r"'([^'\[]+)(\S*)' is a !PLACEHOLDER", message)
        if unset is None:
            raise UserError(f"{yaml_path}: {message}") from error
        key, rest = unset.groups()
        hint = f"set it in the YAML (under {key})" if rest else f"give --{key} VALUE"
        raise UserError(f"{yaml_path}: {key}{rest} is not set: {hint}") from error


def _demo_notice(request):
    """The two lines that open a demo."""
    script = request.command[0] if request.command else "train.py"
    return (
        "no --data_folder: running the demo on the mini corpus (synthetic speech, small model); "
        "its figures say nothing about LibriSpeech\n"
        f"the paper's experiment: python {script} {request.yaml_path} "
        "--data_folder /path/to/LibriSpeech"
    )
