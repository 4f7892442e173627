"""ONNX files of models, and of a step of their streams, checked by onnxruntime beforehand."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch._ops import OpOverload
from torch.export import ExportedProgram
from torch.fx import GraphModule

from speechbrain_pom._version import __version__
from speechbrain_pom.deploy.graphs import Graph, Model, WaveformGraph
from speechbrain_pom.deploy.onnx_runs import check_agreement
from speechbrain_pom.deploy.programs import trace
from speechbrain_pom.deploy.stream_graphs import StreamGraph
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.utils.disks import check_name, why_not_written
from speechbrain_pom.utils.errors import UserError, one_line
from speechbrain_pom.utils.files import publish_file, temporary_beside
from speechbrain_pom.utils.quiet import without_warnings_of

SUFFIX = ".onnx"
OPSET = 20
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_onnx(
    model: Model,
    path: str | Path,
    overwrite: bool = False,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write a model as an ONNX file: waveforms and lengths in, of any batch size and length.

    Before the file gets its name, onnxruntime computes with it what the model computes, on several
    batch sizes, lengths and padded batches: within 1e-4 (of the largest value, where that is larger
    than 1).

    Arguments
    ---------
    model : SpeechEncoder or SpeechRecogniser
        In eval mode, in fp32 on the CPU.
    path : str or pathlib.Path
        NAME.onnx.
    overwrite : bool
        Replace a file.
    facts : dict of str to str, optional
        More for the file's metadata.

    Returns
    -------
    pathlib.Path
        The file. Its inputs are `wavs` (batch, samples) fp32 and `num_samples` (batch,) int64; its
        outputs `frames` or `log_probs` (batch, frames, width) and `num_frames` (batch,). Metadata:
        sample_rate, frame_s, min_samples, and of a recogniser labels (JSON) and blank_index.

    Raises
    ------
    UserError
        If the extra [onnx] is not installed, the model cannot be exported, the file does not agree
        with it, or it cannot be written.

    Example
    -------
    >>> write_onnx(getfixture("tiny_encoder"), "encoder.pt")
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: 'encoder.pt' is to be an ONNX file: give a name that \
ends in .onnx
    """
    path = check_target(path, overwrite)
    return _write(WaveformGraph(model), path, facts)


def write_onnx_stream(
    model: Model,
    path: str | Path,
    chunk_s: float = DEFAULT_CHUNK_S,
    left_s: float | None = None,
    overwrite: bool = False,
    facts: Mapping[str, str] | None = None,
) -> Path:
    """Write one step of a model's streams as an ONNX file: a chunk and a state in and out.

    It is checked as by `write_onnx`, against `SpeechEncoder.stream`, over many chunks of several
    streams that begin at different times.

    Arguments
    ---------
    model : SpeechEncoder or SpeechRecogniser
        In eval mode, in fp32 on the CPU.
    path : str or pathlib.Path
        NAME.onnx.
    chunk_s, left_s : float
        As for `SpeechEncoder.stream`.
    overwrite : bool
        Replace a file.
    facts : dict of str to str, optional
        More for the file's metadata.

    Returns
    -------
    pathlib.Path
        The file. Its inputs are `samples` (batch, window) and the state, which begins with zeros;
        its outputs `frames` or `log_probs` (batch, C, width) and the next state, in the same order.
        Metadata besides that of `write_onnx`: window_samples, hop_samples (from one window to the
        next), zeros_before (the first sample of a stream), chunk_s and left_s.

    Raises
    ------
    UserError
        As `write_onnx`, or if the encoder cannot stream so.

    Example
    -------
    >>> write_onnx_stream(getfixture("tiny_encoder"), "stream.onnx", chunk_s=0.3)
    Traceback (most recent call last):
    speechbrain_pom.utils.errors.UserError: chunk_s is 0.3: give a multiple of 0.04 s, which is a \
frame
    """
    path = check_target(path, overwrite)
    return _write(StreamGraph(model, chunk_s, left_s), path, facts)


def _check_packages():
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'ONNX needs {", ".join(missing)}: pip install "speechbrain-pom[onnx]"')


def check_target(path: str | Path, overwrite: bool) -> Path:
    """Refuse a file that is not an ONNX file, or would replace another.

    Raises
    ------
    UserError
    """
    path = Path(path).resolve()
    check_name(path)
    if path.suffix != SUFFIX:
        raise UserError(f"'{path.name}' is to be an ONNX file: give a name that ends in {SUFFIX}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"'{path}' exists: replace it with --overwrite, or give another name")
    return path


def _write(graph, path, facts):
    _check_packages()
    with _explained(path):  # before minutes of work
        path.parent.mkdir(parents=True, exist_ok=True)
    converted = _converted(trace(graph), graph)
    _describe(converted.model, graph, facts or {})
    hidden = temporary_beside(path, f"{os.getpid()}.tmp")
    try:
        with _explained(path):
            converted.save(hidden)
            check_agreement(graph, hidden)
            publish_file(hidden, path)
    finally:
        hidden.unlink(missing_ok=True)
    return path


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What keeps a file from being written is a `UserError`."""
    try:
        yield
    except OSError as error:
        why = why_not_written(error, path.parent)
        sentence = f"cannot write '{path}' ({why}): give another place or make room"
        raise UserError(sentence) from error


def _converted(program: ExportedProgram, graph: Graph) -> Any:
    """A program as one of ONNX."""
    _refuse_operators(program, graph)
    _drop_idle_squeezes(program)
    names = {
        "input_names": [one.name for one in graph.inputs],
        "output_names": [one.name for one in graph.outputs],
    }
    try:
        with without_warnings_of("torch.onnx._internal.exporter._registration"):  # torchvision
            return torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, verbose=False, **names
            )
    except Exception as error:  # whatever the converter does not know
        raise UserError(
            f"an encoder with {graph.mixers} cannot become ONNX: {_cause_of(error)}"
        ) from error


def _refuse_operators(program, graph):
    """Operators that are neither PyTorch's nor ONNX's, found before minutes of conversion."""
    parts = [part for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    targets = {node.target for part in parts for node in part.graph.nodes}
    operators = {target for target in targets if isinstance(target, OpOverload)}
    own = sorted({one.name() for one in operators if one.namespace not in ("aten", "prims")})
    if own:
        raise UserError(
            f"an encoder with {graph.mixers} cannot become ONNX, which has no operator like "
            f"{', '.join(own)}: choose another attention_type"
        )


def _cause_of(error):
    """The innermost reason: what the converter wraps around it is pages long."""
    while error.__cause__ is not None:
        error = error.__cause__
    return one_line(error)[:200]


def _drop_idle_squeezes(program):
    """`squeeze` of a dimension that is not 1 does nothing in PyTorch, and is an error in ONNX."""
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.squeeze.dim:
            size = node.args[0].meta["val"].shape[node.args[1]]
            if isinstance(size, int) and size != 1:
                node.replace_all_uses_with(node.args[0])
                program.graph.erase_node(node)


def _describe(model: Any, graph: Graph, facts: Mapping[str, str]) -> None:
    """Names of axes, and metadata; no paths of this machine, which the converter notes down."""
    import onnx_ir

    for values, described in (
        (model.graph.inputs, graph.inputs),
        (model.graph.outputs, graph.outputs),
    ):
        for value, one in zip(values, described, strict=True):
            sizes = enumerate(value.shape)
            value.shape = onnx_ir.Shape([one.free.get(i, size) for i, size in sizes])
    parts = [model.graph, *model.functions.values()]
    for part in parts:
        part.metadata_props.clear()
        for node in part.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()
        for value in part.initializers.values() if part is model.graph else ():
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update({"speechbrain_pom": __version__, **graph.facts, **facts})
