"""The short-time Fourier transform as one convolution, for graphs whose runtimes have no other."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def fourier_kernels(window: Tensor, n_fft: int) -> Tensor:
    """The windowed cosines and sines of all frequencies, for `stft_by_convolution`.

    Arguments
    ---------
    window : torch.Tensor
        (n,) with n up to n_fft: zeros come on both sides.
    n_fft : int
        In samples.

    Returns
    -------
    torch.Tensor
        (2 * (n_fft // 2 + 1), 1, n_fft) of the dtype of the window, computed in float64.

    Example
    -------
    >>> cosines, sines = fourier_kernels(torch.ones(2), 4).round().abs().chunk(2)
    >>> cosines.flatten(1)[1], sines.flatten(1)[1]
    (tensor([0., 0., 1., 0.]), tensor([0., 1., 0., 0.]))
    """
    missing = n_fft - window.shape[0]
    padded = F.pad(window.double(), (missing // 2, missing - missing // 2))
    bins, place = torch.arange(n_fft // 2 + 1), torch.arange(n_fft)
    # Integers before the sine: an angle is exact however large their product.
    angles = (bins.unsqueeze(1) * place % n_fft).double() * (2 * math.pi / n_fft)
    waves = torch.cat([angles.cos(), -angles.sin()]).to(window.device)
    return (waves * padded).unsqueeze(1).to(window)


def stft_by_convolution(wavs: Tensor, kernels: Tensor, hop: int, centred: bool = True) -> Tensor:
    """The real and imaginary parts of what `torch.stft` returns, one-sided.

    A frame is the product of its samples with cosines and sines. For an n_fft of some hundreds that
    is as precise as a fast transform in fp32.

    Arguments
    ---------
    wavs : torch.Tensor
        (B, samples)
    kernels : torch.Tensor
        From `fourier_kernels`.
    hop : int
        Samples from frame to frame.
    centred : bool
        Frame t is around sample t * hop, with zeros beyond the ends; False: it begins there.

    Returns
    -------
    torch.Tensor
        (B, T, n_fft // 2 + 1, 2)

    Example
    -------
    >>> wavs, window = torch.randn(2, 1000), torch.hamming_window(400)
    >>> options = {"window": window, "return_complex": True, "pad_mode": "constant"}
    >>> expected = torch.view_as_real(torch.stft(wavs, 400, 160, **options)).transpose(1, 2)
    >>> found = stft_by_convolution(wavs, fourier_kernels(window, 400), 160)
    >>> torch.allclose(found, expected, atol=1e-4)
    True
    """
    rows, _, n_fft = kernels.shape
    if centred:
        wavs = F.pad(wavs, (n_fft // 2, n_fft // 2))
    parts = F.conv1d(wavs.unsqueeze(1), kernels, stride=hop)  # (B, 2 * bins, T)
    return parts.unflatten(1, (2, rows // 2)).permute(0, 3, 2, 1)
