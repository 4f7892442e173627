"""What SpeechBrain's functions do otherwise while a graph of any batch and length is exported."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.nnet import attention
from speechbrain.processing.features import STFT
from torch import nn

from speechbrain_pom.ops.common.graphs import is_exporting
from speechbrain_pom.ops.common.stft import fourier_kernels, stft_by_convolution


def free_length_mask(original: Callable) -> Callable:
    """length_to_mask: `len` of the lengths would fix the batch size of an exported graph."""

    @functools.wraps(original)
    def length_to_mask(
        length: torch.Tensor,
        max_len: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> torch.Tensor:
        if max_len is None or not is_exporting():
            return original(length, max_len, dtype, device)
        frames = torch.arange(max_len, device=length.device, dtype=length.dtype)
        return (frames < length.unsqueeze(1)).to(device, dtype or length.dtype)

    return length_to_mask


def plain_stft(original: Callable) -> Callable:
    """STFT.forward: a convolution, which every runtime has, in place of a transform."""

    @functools.wraps(original)
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if not hasattr(self, "fourier_kernels") or not is_exporting():
            return original(self, x)
        return stft_by_convolution(x, self.fourier_kernels, self.hop_length, self.center)

    return forward


def plain_feed_forward(original: Callable) -> Callable:
    """PositionalwiseFeedForward.forward: without its transpositions, which fix the batch size."""

    @functools.wraps(original)
    def forward(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return self.ffn(x) if is_exporting() else original(self, x)

    return forward


def unstored_sinusoids(original: Callable) -> Callable:
    """_get_precomputed_values of RoPEMHA: its memory is for numbers, not for sizes of a graph."""

    def get_precomputed_values(length: int, *args: object) -> nn.Module:
        if not is_exporting():
            return original(length, *args)
        return attention.PrecomputedRoPESinusoids(length, *args)

    return get_precomputed_values


# As PATCHES of patches.py, but for the time of an export.
EXPORT_PATCHES = (
    (asr, "length_to_mask", free_length_mask),
    (STFT, "forward", plain_stft),
    (attention.PositionalwiseFeedForward, "forward", plain_feed_forward),
    (attention, "_get_precomputed_values", unstored_sinusoids),
)


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Context manager: SpeechBrain's functions fix no size of a graph; put back afterwards.

    What is not being exported gets SpeechBrain's own inside of it too.

    Arguments
    ---------
    model : torch.nn.Module
        What is exported.

    Example
    -------
    >>> with exportable(nn.Identity()):
    ...     asr.length_to_mask(torch.tensor([2.0]), 3)
    tensor([[1., 1., 0.]])
    """
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in EXPORT_PATCHES]
    transforms = [part for part in model.modules() if isinstance(part, STFT) and _is_usual(part)]
    try:
        for part in transforms:  # computed here, they are one constant of the graph
            part.fourier_kernels = fourier_kernels(part.window, part.n_fft)
        for owner, name, wrap in EXPORT_PATCHES:
            setattr(owner, name, wrap(getattr(owner, name)))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
        for part in transforms:
            del part.fourier_kernels


def _is_usual(transform):
    """Whether an STFT is what `stft_by_convolution` computes, as in any Fbank."""
    return transform.onesided and not transform.normalized_stft and transform.pad_mode == "constant"
