"""A stream's state as tensors: what is saved, moved to another process, and resumed to the bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from speechbrain_pom.encoder.streaming.engine import ChunkEngine, StreamState
from speechbrain_pom.encoder.streaming.geometry import Chunks
from speechbrain_pom.encoder.streaming.samples import Waiting
from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.utils.errors import UserError

VERSION = 1
_FADING = 2  # the version of states with a half-life
_ALL = -1  # in place of a number of chunks: all of the past


def fingerprint(engine: ChunkEngine) -> Tensor:
    """What a state must share with an engine besides its chunks: (32,) bytes.

    Weights, their dtype, and what is made of samples and feature frames.
    """
    bank = engine.encoder.features.compute_features.compute_fbanks
    features = (bank.n_mels, bank.f_min, bank.f_max, bank.top_db)
    facts = f"{hash_of_tensors(engine.encoder)} {engine.inputs.geometry} {features}"
    return torch.tensor(list(hashlib.sha256(facts.encode()).digest()), dtype=torch.uint8)


def to_tensors(state: StreamState, chunks: Chunks, of_model: Tensor) -> dict[str, Tensor]:
    """A state as tensors on the CPU, each with memory of its own.

    Arguments
    ---------
    state : StreamState
    chunks : Chunks
    of_model : torch.Tensor
        The `fingerprint`.

    Returns
    -------
    dict of str to torch.Tensor
        As `safetensors` stores them.
    """
    left = _ALL if chunks.left is None else chunks.left
    version = VERSION if chunks.half_life is None else _FADING
    tensors = {
        "fingerprint": of_model,
        "chunks": torch.tensor([version, chunks.size, left]),
        "counts": torch.tensor([state.num_samples, state.num_frames]),
        "samples": state.waiting.all(),
        **dict(named_tensors(state.inputs, "inputs")),
    }
    if chunks.half_life is not None:
        tensors["half_life"] = torch.tensor([chunks.half_life], dtype=torch.float64)
    for number, layer in enumerate(state.layers):
        tensors |= dict(named_tensors(layer, f"layers.{number}"))
    return {
        name: one.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, one in tensors.items()
    }


def from_tensors(
    tensors: Mapping[str, Tensor], engine: ChunkEngine, of_model: Tensor
) -> StreamState:
    """The state that `to_tensors` gave, on the device of an engine.

    Arguments
    ---------
    tensors : dict of str to torch.Tensor
        More than these may be in it.
    engine : ChunkEngine
    of_model : torch.Tensor
        Its `fingerprint`.

    Returns
    -------
    StreamState

    Raises
    ------
    UserError
        If it is not a state, or one of another model.
    """
    check_chunks(tensors, engine.chunks)
    if not torch.equal(tensors.get("fingerprint", of_model[:0]), of_model):
        raise UserError(
            "the state is of another model: go on with the very weights that it was saved with"
        )
    state = engine.first_state()
    num_samples, num_frames = _get(tensors, "counts", (2,), torch.int64).tolist()
    samples = _get(tensors, "samples", (None,), torch.float32)
    expected = num_samples - engine.inputs.geometry.first_sample(num_frames)
    if len(samples) != expected:
        raise UserError(
            f"the state is damaged: it has {len(samples)} samples in place of {expected}"
        )
    device = engine.encoder.device
    inputs = _refilled(state.inputs, "inputs", tensors, device, free=1)
    layers = [
        _refilled(layer, f"layers.{number}", tensors, device)
        for number, layer in enumerate(state.layers)
    ]
    return StreamState(Waiting(samples.clone()), inputs, layers, num_samples, num_frames)


def chunks_in(tensors: Mapping[str, Tensor]) -> Chunks:
    """The chunks of a saved state.

    Arguments
    ---------
    tensors : dict of str to torch.Tensor

    Returns
    -------
    Chunks

    Raises
    ------
    UserError
        If it is not the state of a stream.
    """
    stored = tensors.get("chunks") if isinstance(tensors, Mapping) else None
    is_known = isinstance(stored, Tensor) and stored.shape == (3,)
    if not is_known or int(stored[0]) not in (VERSION, _FADING):
        raise UserError(
            "the state is not one of a stream of this version: give what stream.state() returned"
        )
    version, size, left = stored.tolist()
    half_life = None
    if version == _FADING:
        half_life = _get(tensors, "half_life", (1,), torch.float64).item()
    return Chunks(size, None if left == _ALL else left, half_life)


def check_chunks(tensors: Mapping[str, Tensor], chunks: Chunks) -> None:
    """Refuse a state of a stream in other chunks."""
    stored = chunks_in(tensors)
    if stored != chunks:
        raise UserError(
            f"the state is of a stream with chunks of {_words(stored)}, not {_words(chunks)}: "
            "leave chunk_s, left_s and half_life_s out to go on as it was"
        )


def _words(chunks):
    left = "all" if chunks.left is None else chunks.left
    fading = "" if chunks.half_life is None else f" with a half-life of {chunks.half_life:g} chunks"
    return f"{chunks.size} frames that see {left} chunks before{fading}"


def named_tensors(state: tuple, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a nested NamedTuple by the names of their fields.

    >>> from speechbrain_pom.ops.common.sums import TimeSums
    >>> [name for name, _ in named_tensors(TimeSums(torch.zeros(1), torch.zeros(1)), "mixed")]
    ['mixed.sums', 'mixed.counts']
    """
    for field, part in zip(state._fields, state, strict=True):
        name = f"{prefix}.{field}"
        if isinstance(part, Tensor):
            yield name, part
        else:
            yield from named_tensors(part, name)


def _refilled(state, prefix, tensors, device, free=None):
    """A nested NamedTuple with the saved tensors in place of its own; dimension `free` may vary."""
    parts = []
    for field, part in zip(state._fields, state, strict=True):
        name = f"{prefix}.{field}"
        if isinstance(part, Tensor):
            varies = free is not None and part.shape[free] == 0
            shape = [None if varies and i == free else size for i, size in enumerate(part.shape)]
            parts.append(_get(tensors, name, shape, part.dtype).to(device, copy=True))
        else:
            parts.append(_refilled(part, name, tensors, device, free))
    return type(state)(*parts)


def _get(tensors, name, shape, dtype):
    found = tensors.get(name)
    fits = isinstance(found, Tensor) and found.dtype == dtype and found.dim() == len(shape)
    if not fits or any(
        want not in (None, is_) for want, is_ in zip(shape, found.shape, strict=True)
    ):
        raise UserError(f"the state is damaged: {name} is missing or of another shape")
    return found
