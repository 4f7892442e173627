"""Checks of what an encoder is called with: waveforms, lengths, layers."""

import numbers
from collections.abc import Sequence

import torch
from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder

from speechbrain_pom.attention.masks import obstacle_to_chunks
from speechbrain_pom.attention.streaming import obstacle_to_fading
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError


def checked_layers(
    layers: str | int | Sequence[int], num_layers: int, has_sum: bool
) -> str | int | list[int]:
    """Layers as `SpeechEncoder` takes them, with plain integers.

    Raises
    ------
    UserError
        For layers that the encoder does not have.
    """
    if layers == "last" or (layers == "sum" and has_sum):
        return layers
    if layers == "sum":
        raise UserError("layers is 'sum', but its weights were not made: load with layers='sum'")
    several = isinstance(layers, Sequence) and not isinstance(layers, str)
    numbers_ = list(layers) if several else [layers]
    for number in numbers_:
        whole = isinstance(number, numbers.Integral) and not isinstance(number, bool)
        if not whole or not 0 <= number <= num_layers:
            raise UserError(
                f"layers is {layers!r}: give 'last', 'sum', or numbers from 0 (the input of "
                f"the first layer) to {num_layers}"
            )
    if not numbers_:
        raise UserError("layers is empty: give 'last', 'sum', or numbers")
    return [int(number) for number in numbers_] if several else int(layers)


def lengths_in_samples(
    wavs: torch.Tensor, lengths: torch.Tensor | None, sample_rate: int
) -> torch.Tensor:
    """Integers (B,) from relative lengths, samples, or None for waveforms without padding.

    Raises
    ------
    UserError
        For waveforms or lengths of another kind, and lengths beyond the batch.
    """
    if wavs.dim() != 2 or wavs.shape[1] == 0 or not wavs.is_floating_point():
        raise UserError(
            f"wavs is {wavs.dtype} {tuple(wavs.shape)}: give floats (batch, samples), at least "
            f"one sample at {sample_rate} Hz"
        )
    if lengths is None:
        return torch.full((wavs.shape[0],), wavs.shape[1], device=wavs.device)
    if lengths.shape != wavs.shape[:1]:
        raise UserError(
            f"lengths is {tuple(lengths.shape)} for {wavs.shape[0]} waveforms: give one for each"
        )
    lengths = lengths.to(wavs.device)
    if lengths.is_floating_point():
        lengths = (lengths.double() * wavs.shape[1]).round().long()
    if not torch.compiler.is_compiling():
        _check_range(lengths, wavs.shape[1])
    return lengths


def _check_range(num_samples: torch.Tensor, longest: int) -> None:
    if not bool(((num_samples >= 1) & (num_samples <= longest)).all()):
        raise UserError(
            f"lengths are {num_samples.tolist()} samples: each must be from 1 to {longest}, or "
            "relative (floats) and at most 1.0"
        )


def check_num_frames(num_frames: torch.Tensor, num_samples: torch.Tensor) -> None:
    """Refuse utterances too short for a frame, which "same" convolutions never are.

    Raises
    ------
    UserError
        With the lengths.
    """
    if not torch.compiler.is_compiling() and bool((num_frames < 1).any()):
        raise UserError(
            f"lengths are {num_samples.tolist()} samples, too few for a frame of the front end: "
            "leave out what is so short"
        )


def checked_chunks(
    chunks: tuple[int, int | None] | ChunkMask | None, encoder: torch.nn.Module
) -> ChunkMask | None:
    """Chunks as `SpeechEncoder.forward` takes them, for the encoder of a `TransformerASR`.

    Raises
    ------
    UserError
        For other values, encoders whose convolutions know no chunks, encoders in training mode that
        would not learn to stream, and weights that the mixers do not know.
    """
    if chunks is None:
        return None
    mask = chunks if isinstance(chunks, ChunkMask) else _pair_as_mask(chunks)
    if not isinstance(encoder, ConformerEncoder):
        raise UserError(
            f"chunks is {chunks!r}, and {type(encoder).__name__} knows no chunks: choose "
            "encoder_module: conformer"
        )
    obstacle = encoder.training and obstacle_to_chunks(encoder, mask.left_context_chunks)
    if obstacle:
        raise UserError(f"dynamic chunks train a model to stream, and {obstacle}")
    obstacle = mask.has_weights and obstacle_to_fading(encoder)
    if obstacle:
        raise UserError(obstacle)
    return mask


def _pair_as_mask(chunks):
    if not isinstance(chunks, (tuple, list)) or len(chunks) != 2 or not isinstance(chunks[0], int):
        raise UserError(
            f"chunks is {chunks!r}: give the frames of a chunk and the chunks to its left, such as "
            "(16, 4), or (16, None) for all of the past"
        )
    return ChunkMask(*chunks)
