"""ONNX files in onnxruntime: what they compute, and what they take and give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from speechbrain_pom.deploy.graphs import NEXT, Graph, Run
from speechbrain_pom.utils.errors import UserError, one_line

TOLERANCE = 1e-4


def check_agreement(graph: Graph, path: str | Path) -> None:
    """Refuse a file with which onnxruntime does not compute what the model computes.

    Arguments
    ---------
    graph : Graph
    path : str or pathlib.Path

    Raises
    ------
    UserError
        With the mixers, and the difference.
    """
    try:
        found = graph.disagreement(run_of(path))
    except UserError:
        raise
    except Exception as error:  # whatever onnxruntime does not know, or cannot do with a size
        raise UserError(
            f"onnxruntime cannot run an encoder with {graph.mixers}: {one_line(error)[:200]}"
        ) from error
    if not found <= TOLERANCE:
        raise UserError(
            f"onnxruntime does not agree with an encoder with {graph.mixers}: a difference of "
            f"{found:.1e} where {TOLERANCE:g} is allowed; no file was written"
        )


def run_of(path: str | Path) -> Run:
    """An ONNX file as a function of its inputs in their order, by onnxruntime on the CPU."""
    session = _session(path)
    names = [one.name for one in session.get_inputs()]

    def run(feeds):
        return session.run(None, dict(zip(names, feeds, strict=True)))

    return run


def described(path: str | Path) -> str:
    """Inputs, outputs and metadata of an ONNX file, a line for each; a state in one line.

    Arguments
    ---------
    path : str or pathlib.Path

    Returns
    -------
    str
    """
    session = _session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    state = {one.name for one in outputs if one.name.startswith(NEXT)}
    inputs = [one for one in inputs if f"{NEXT}{one.name}" not in state]
    lines = [f"in   {_line(one)}" for one in inputs]
    lines += [f"out  {_line(one)}" for one in outputs if one.name not in state]
    if state:
        lines.append(f"     and a state of {len(state)} tensors, in and out; it begins with zeros")
    facts = session.get_modelmeta().custom_metadata_map
    return "\n".join([*lines, *(f"     {name}: {facts[name]}" for name in sorted(facts))])


def _line(one):
    sizes = ", ".join(map(str, one.shape))
    return f"{one.name} ({sizes}) {one.type.removeprefix('tensor(').removesuffix(')')}"


def _session(path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
