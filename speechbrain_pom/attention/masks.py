"""Causal and chunk masks on their way through a TransformerASR: compact, honoured, or refused."""

import functools
import inspect
import threading
from collections.abc import Callable

from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
from speechbrain.nnet.hypermixing import HyperMixing
from speechbrain.utils.logger import get_logger
from torch import nn

from speechbrain_pom.attention.calls import MaskedChunks
from speechbrain_pom.attention.contexts import obstacle_to_streaming
from speechbrain_pom.attention.layers import mixer_of
from speechbrain_pom.attention.registry import is_builtin
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)


class _Compact(threading.local):
    """Whether this thread is in a model that needs no (T, T) masks."""

    on = False  # not a ContextVar: torch.compile cannot follow those


_compact_masks = _Compact()


def takes_chunk_masks(encoder: nn.Module) -> bool:
    """Whether all mixers of an encoder accept a `ChunkMask` in place of a (T, T) tensor."""
    return all(getattr(mixer_of(layer), "accepts_chunk_mask", False) for layer in encoder.layers)


@functools.cache
def _say_once(message):
    logger.warning(message)


def _warn_of_hypermixing(masked):
    """SpeechBrain's own type is not changed, but its masks are not ignored silently."""
    if masked:
        _say_once(
            "attention_type hypermixing ignores causal and chunk masks (SpeechBrain's own): this "
            "model sees the future; choose another type for streaming"
        )


def with_compact_masks(original: Callable) -> Callable:
    """TransformerASR.encode and .forward: no (T, T) tensor where no layer needs one."""
    names = list(inspect.signature(original).parameters)[1:]

    @functools.wraps(original)
    def method(self, *args, **kwargs):
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        chunks = given.get("dynchunktrain_config")
        if self.attention_type == "hypermixing":
            _warn_of_hypermixing(self.causal or chunks)
        if chunks and self.training:  # before the training, and not after it
            obstacle = obstacle_to_streaming(self)
            if obstacle:
                raise UserError(f"dynamic chunks train a model to stream, and {obstacle}")
        compact = (
            not is_builtin(self.attention_type)
            and hasattr(self, "encoder")
            and takes_chunk_masks(self.encoder)
        )
        if not compact:
            return original(self, *args, **kwargs)
        outside, _compact_masks.on = _compact_masks.on, True
        try:
            return original(self, *args, **kwargs)
        finally:
            _compact_masks.on = outside

    return method


def compact_src_mask(original: Callable) -> Callable:
    """make_transformer_src_mask: two numbers instead of a (T, T) tensor, where that is enough."""

    @functools.wraps(original)
    def make_transformer_src_mask(src, causal=False, dynchunktrain_config=None):
        if not _compact_masks.on or not (causal or dynchunktrain_config):
            return original(src, causal=causal, dynchunktrain_config=dynchunktrain_config)
        if not dynchunktrain_config:
            return ChunkMask(1)
        if causal:
            raise UserError("causal: True excludes dynamic chunks: set causal: False")
        if isinstance(dynchunktrain_config, MaskedChunks):
            return dynchunktrain_config.mask
        return ChunkMask(dynchunktrain_config.chunk_size, dynchunktrain_config.left_context_size)

    return make_transformer_src_mask


def obstacle_to_chunks(encoder: nn.Module, left_context_chunks: int | None = None) -> str | None:
    """Why an encoder does not learn to stream from dynamic chunks.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder of a `TransformerASR`.
    left_context_chunks : int, optional
        Chunks that a frame sees to the left of its own; None: all.

    Returns
    -------
    str or None
        One line; None: it does.

    Example
    -------
    >>> encoder = ConformerEncoder(1, d_model=8, d_ffn=16, nhead=2, attention_type="hypermixing")
    >>> obstacle_to_chunks(encoder)
    'hypermixing ignores chunk masks and sees the future: choose another attention_type'
    """
    if not isinstance(encoder, ConformerEncoder):
        return f"{type(encoder).__name__} knows no chunks: choose encoder_module: conformer"
    for layer in encoder.layers:
        if layer.convolution_module.causal:
            return "causal: True excludes dynamic chunks: set causal: False"
        obstacle = _obstacle_of(mixer_of(layer), left_context_chunks)
        if obstacle:
            return obstacle
    return None


def _obstacle_of(mixer, left_context_chunks):
    if isinstance(mixer, HyperMixing):
        return "hypermixing ignores chunk masks and sees the future: choose another attention_type"
    if getattr(mixer, "can_stream", True):
        return None
    if hasattr(mixer, "obstacle_to_steps"):
        return mixer.obstacle_to_steps(left_context_chunks)
    return _needs_more(mixer)


def _needs_more(mixer):
    return (
        f"{type(mixer).__name__} cannot stream: a chunk and its left context do not determine its "
        "output; choose another attention_type"
    )
