"""Functions that take the place of PyTorch's in exported graphs, against these."""

import pytest
import torch

from speechbrain_pom.ops.common.running_max import running_max
from speechbrain_pom.ops.common.stft import fourier_kernels, stft_by_convolution


@pytest.mark.parametrize(
    ("n_fft", "hop", "window", "centred", "length"),
    [
        (400, 160, 400, True, 16000),
        (400, 160, 400, False, 16000),
        (512, 160, 400, True, 1),
        (512, 100, 401, True, 63),
        (64, 7, 64, False, 500),
    ],
)
def test_the_stft_is_that_of_pytorch(n_fft, hop, window, centred, length):
    wavs, window = torch.randn(3, length), torch.hamming_window(window)
    options = {"center": centred, "pad_mode": "constant", "return_complex": True}
    window64 = window.double()
    expected = torch.stft(wavs.double(), n_fft, hop, len(window), window64, **options)
    expected = torch.view_as_real(expected).transpose(1, 2)
    found = stft_by_convolution(wavs, fourier_kernels(window, n_fft), hop, centred)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-4)
    exact = stft_by_convolution(wavs.double(), fourier_kernels(window64, n_fft), hop, centred)
    torch.testing.assert_close(exact, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("num_frames", [1, 2, 63, 64, 65, 500])
def test_the_running_maximum_is_that_of_pytorch(num_frames):
    values = torch.randn(3, num_frames, 2)
    assert torch.equal(running_max(values), values.cummax(1).values)
