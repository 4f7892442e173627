"""Encoders compiled by `torch.compile`, in the two passes of which they consist."""

from __future__ import annotations

import torch

from speechbrain_pom.encoder.encoder import SpeechEncoder


def compile_encoder(encoder: SpeechEncoder, *args, **kwargs) -> None:
    """Compile `embed` and `contextualise` of an encoder in place, as `torch.compile` does.

    Features belong in no graph. Passes with dynamic chunks are not compiled: each chunk size and
    left context would be another graph.

    Arguments
    ---------
    encoder : SpeechEncoder
    *args, **kwargs
        As for `torch.compile`.
    """
    encoder.embed = torch.compile(encoder.embed, *args, **kwargs)
    plain = encoder.contextualise
    encoder.contextualise = _without_chunks(torch.compile(plain, *args, **kwargs), plain)


def _without_chunks(compiled, plain):
    """A pass over the Transformer that is compiled where it has no chunks."""

    def contextualise(*args, chunks=None, **kwargs):
        if chunks is None:
            return compiled(*args, **kwargs)
        return plain(*args, chunks=chunks, **kwargs)

    return contextualise
