"""What SpeechBrain's functions do while a graph is exported, and that they are put back."""

import inspect
from contextlib import suppress

import pytest
import torch
from speechbrain.lobes.models.transformer import TransformerASR as asr
from speechbrain.nnet.attention import PrecomputedRoPESinusoids
from speechbrain.processing.features import STFT
from torch.export import Dim

from speechbrain_pom.attention.exporting import EXPORT_PATCHES, exportable
from speechbrain_pom.attention.positions import ExtendedSinePositions


class Masked(torch.nn.Module):
    """The mask of lengths (B,) on frames (B, T)."""

    def forward(self, frames, lengths):
        return frames * asr.length_to_mask(lengths * frames.shape[1], frames.shape[1])


def exported(module, *inputs):
    free = tuple(
        {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} if one.dim() > 1 else {0: Dim.DYNAMIC} for one in inputs
    )
    return torch.export.export(module, inputs, dynamic_shapes=free).module()


def test_the_mask_of_lengths_leaves_the_batch_size_free():
    frames, lengths = torch.ones(3, 10), torch.tensor([1.0, 0.5, 0.1])
    with pytest.raises(Exception, match="specialized"):  # SpeechBrain's own fixes it
        exported(Masked(), frames, lengths)
    with exportable(Masked()):
        masked = exported(Masked(), frames, lengths)
    frames, lengths = torch.ones(5, 8), torch.tensor([1.0, 0.5, 0.125, 0.25, 0.75])
    assert torch.equal(masked(frames, lengths), Masked()(frames, lengths))


def test_a_transform_becomes_a_convolution():
    stft = STFT(16000)
    wavs = 0.1 * torch.randn(3, 16000)
    with exportable(stft):
        program = exported(stft, wavs)
    names = {str(node.target) for node in program.graph.nodes}
    assert "aten.conv1d.default" in names
    assert "aten.stft.center" not in names
    wavs = 0.1 * torch.randn(2, 9999)
    torch.testing.assert_close(program(wavs), stft(wavs), rtol=0, atol=1e-5)


def test_positions_of_any_length_are_those_of_the_table():
    positions = ExtendedSinePositions(8, max_len=50)
    program = exported(positions, torch.zeros(2, 20, 8))
    for length in (2, 50, 51, 500):
        frames = torch.zeros(3, length, 8)
        torch.testing.assert_close(program(frames), positions(frames), rtol=0, atol=1e-6)


def test_everything_is_put_back():
    stft = STFT(16000)
    before = [getattr(owner, name) for owner, name, _ in EXPORT_PATCHES]
    wavs = torch.randn(1, 1000)
    usual = stft(wavs)
    with exportable(stft):
        assert [getattr(owner, name) for owner, name, _ in EXPORT_PATCHES] != before
        assert torch.equal(stft(wavs), usual)  # what exports nothing is as ever
    with suppress(RuntimeError), exportable(stft):
        raise RuntimeError("in between")
    assert [getattr(owner, name) for owner, name, _ in EXPORT_PATCHES] == before
    assert not hasattr(stft, "fourier_kernels")


def test_what_is_relied_on():
    """Of SpeechBrain's functions that are replaced: their arguments."""
    names = [
        list(inspect.signature(getattr(owner, name)).parameters)
        for owner, name, _ in EXPORT_PATCHES
    ]
    assert names[0] == ["length", "max_len", "dtype", "device"]
    assert names[1] == names[2] == ["self", "x"]
    assert next(iter(inspect.signature(PrecomputedRoPESinusoids).parameters)) == "max_length"
    assert {"window", "n_fft", "hop_length", "center"} <= set(vars(STFT(16000))) | {"window"}
