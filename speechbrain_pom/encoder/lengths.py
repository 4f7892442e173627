"""Lengths along the path samples -> feature frames -> encoder frames, in integers.

A relative length (a float, as SpeechBrain's modules take it) is made at the last moment, by
`relative_lengths`, so that nothing is rounded twice.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence

import torch

from speechbrain_pom.ops.common.graphs import is_exporting
from speechbrain_pom.utils.errors import UserError

Length = int | torch.Tensor

# Up to here round(float32(length / max_length) * max_length) is exact: both roundings together
# are wrong by at most length * 2**-23 < 0.5.
MAX_RELATIVE_LENGTH = 2**22


def num_feature_frames(num_samples: Length, sample_rate: int = 16000, hop_ms: float = 10) -> Length:
    """Count the frames of SpeechBrain's centred STFT (and so of `Fbank`) with an even n_fft.

    Arguments
    ---------
    num_samples : int or torch.Tensor
        Lengths in samples; a tensor of integers of any shape.
    sample_rate : int
        Sampling rate in Hz.
    hop_ms : float
        Hop in milliseconds (`hop_length` of SpeechBrain's `Fbank`).

    Returns
    -------
    int or torch.Tensor
        ``1 + num_samples // hop``, of the type of ``num_samples``.

    Raises
    ------
    UserError
        If the lengths are not integers, or the hop is shorter than a sample.

    Example
    -------
    >>> num_feature_frames(16000)
    101
    >>> num_feature_frames(torch.tensor([159, 160, 161]))
    tensor([1, 2, 2])
    """
    _check_integers("num_samples", num_samples)
    hop_samples = round(sample_rate / 1000 * hop_ms)
    if hop_samples < 1:
        raise UserError(
            f"hop_ms = {hop_ms} at sample_rate = {sample_rate} is less than one sample:"
            " give the hop in milliseconds and the rate in Hz"
        )
    return 1 + num_samples // hop_samples


def num_encoder_frames(num_frames: Length, stride: int = 4) -> Length:
    """Count the encoder frames of a front end with "same" padding: ``ceil(num_frames / stride)``.

    Arguments
    ---------
    num_frames : int or torch.Tensor
        Lengths in feature frames; a tensor of integers of any shape.
    stride : int
        Product of the front end's strides (4 for SpeechBrain's `ConvolutionFrontEnd` with 2, 2).

    Returns
    -------
    int or torch.Tensor
        Of the type of ``num_frames``.

    Raises
    ------
    UserError
        If the lengths are not integers.

    Example
    -------
    >>> [num_encoder_frames(n) for n in (1, 4, 5, 101)]
    [1, 1, 2, 26]
    """
    _check_integers("num_frames", num_frames)
    return (num_frames + stride - 1) // stride


def num_whole_blocks(num_frames: Length, stride: int = 4) -> Length:
    """Count the encoder frames made of ``stride`` valid frames: ``floor(num_frames / stride)``.

    Arguments
    ---------
    num_frames : int or torch.Tensor
        Lengths in feature frames; a tensor of integers of any shape.
    stride : int
        Frames in a block.

    Returns
    -------
    int or torch.Tensor
        Of the type of ``num_frames``.

    Raises
    ------
    UserError
        If the lengths are not integers.

    Example
    -------
    >>> [num_whole_blocks(n) for n in (1, 4, 5, 101)]
    [0, 1, 1, 25]
    """
    _check_integers("num_frames", num_frames)
    return num_frames // stride


def pad_to_multiple(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pad with zeros (False) at the end of the time axis, up to a multiple of ``multiple``.

    Arguments
    ---------
    x : torch.Tensor
        Features (B, T, F) or a mask (B, T).
    multiple : int
        The padded number of frames is divisible by this.

    Returns
    -------
    torch.Tensor
        (B, ceil(T / multiple) * multiple, ...); ``x`` itself if there is nothing to pad.

    Example
    -------
    >>> pad_to_multiple(torch.ones(2, 5, 80), 4).shape
    torch.Size([2, 8, 80])
    """
    missing = -x.shape[1] % multiple
    if not is_exporting() and missing == 0:  # a graph is of any length
        return x
    return torch.nn.functional.pad(x, [0, 0] * (x.dim() - 2) + [0, missing])


def relative_lengths(lengths: Sequence[int] | torch.Tensor, max_length: int) -> torch.Tensor:
    """Make the relative lengths that SpeechBrain's modules take.

    ``torch.round(relative * max_length)`` gives back exactly the integers. The encoder needs those
    of its own frames: ``relative_lengths(num_encoder_frames(num_frames), num_encoder_frames(T))``.

    Arguments
    ---------
    lengths : sequence of int or torch.Tensor
        (B,) lengths in frames.
    max_length : int
        Number of frames of the padded batch, at most 2**22.

    Returns
    -------
    torch.Tensor
        (B,) float32, on the device of ``lengths``.

    Raises
    ------
    UserError
        If the lengths are not integers, or ``max_length`` is too large for float32.

    Example
    -------
    >>> relative_lengths([50, 100], 100)
    tensor([0.5000, 1.0000])
    """
    if max_length > MAX_RELATIVE_LENGTH:
        raise UserError(
            f"max_length = {max_length} is beyond what float32 relative lengths can tell apart"
            f" ({MAX_RELATIVE_LENGTH}): give lengths in frames, not in samples"
        )
    lengths = torch.as_tensor(lengths)
    _check_integers("lengths", lengths)
    return lengths.to(torch.float32) / max_length


def padding_mask(lengths: Sequence[int] | torch.Tensor, max_length: int) -> torch.Tensor:
    """Mark the padded positions, as SpeechBrain's ``key_padding_mask`` does.

    Arguments
    ---------
    lengths : sequence of int or torch.Tensor
        (B,) lengths.
    max_length : int
        Length T of the padded batch.

    Returns
    -------
    torch.Tensor
        (B, T) boolean, True = padding, on the device of ``lengths``.

    Raises
    ------
    UserError
        If the lengths are not integers.

    Example
    -------
    >>> padding_mask([1, 3], 3)
    tensor([[False,  True,  True],
            [False, False, False]])
    """
    lengths = torch.as_tensor(lengths)
    _check_integers("lengths", lengths)
    return torch.arange(max_length, device=lengths.device) >= lengths[:, None]


def _check_integers(name: str, lengths: Length) -> None:
    """Refuse relative lengths (floats), which would silently count as 0 or 1 frame."""
    if isinstance(lengths, torch.Tensor):
        found = str(lengths.dtype)
        correct = not (lengths.is_floating_point() or lengths.is_complex())
    else:
        # A length of an exported graph is a symbol.
        found, correct = repr(lengths), isinstance(lengths, (numbers.Integral, torch.SymInt))
    if not correct:
        raise UserError(f"{name} must be integers, not {found}: relative lengths do not fit here")
