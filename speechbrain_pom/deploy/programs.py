"""Models as programs of torch.export, with a free batch axis and a free time axis."""

from __future__ import annotations

import inspect

import torch
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config

from speechbrain_pom.attention.exporting import exportable
from speechbrain_pom.deploy.graphs import Graph, Model, WaveformGraph
from speechbrain_pom.utils.errors import UserError, one_line


def export_program(model: Model) -> ExportedProgram:
    """A model as a program of `torch.export`: waveforms and lengths in samples in, of any size.

    Arguments
    ---------
    model : SpeechEncoder or SpeechRecogniser
        In eval mode, in fp32 on the CPU.

    Returns
    -------
    torch.export.ExportedProgram
        Of (B, samples) fp32 and (B,) int64, to (B, T, d_model) frames or (B, T, outputs)
        log-probabilities and (B,) lengths. Any batch size and any length hold, one sample too. It
        can be saved by `torch.export.save`, compiled ahead of time, or converted further.

    Raises
    ------
    UserError
        If the model cannot be exported.

    Example
    -------
    >>> program = export_program(getfixture("tiny_encoder"))
    >>> frames, num_frames = program.module()(torch.randn(5, 2000), torch.tensor([2000] * 5))
    >>> frames.shape
    torch.Size([5, 4, 16])
    """
    return trace(WaveformGraph(model))


def trace(graph: Graph) -> ExportedProgram:
    """A graph as a program, all free axes of which are of any size.

    Raises
    ------
    UserError
        If it cannot be traced, with its mixers.
    """
    shapes = [dict.fromkeys(one.free, Dim.DYNAMIC) for one in graph.inputs]
    shapes = inspect.signature(graph.forward).bind(*shapes).arguments  # *state is one of them
    try:
        # "Oblivious": a size that is a variable counts as neither 0 nor 1 while shapes are
        # compared, so that graphs hold for a single utterance and a single frame too.
        with torch.no_grad(), exportable(graph), _config.patch(backed_size_oblivious=True):
            return torch.export.export(graph, graph.examples(), dynamic_shapes=shapes)
    except UserError:
        raise
    except Exception as error:  # whatever tracing meets in a mixer
        raise UserError(
            f"an encoder with {graph.mixers} cannot be exported: {one_line(error)[:200]}"
        ) from error
