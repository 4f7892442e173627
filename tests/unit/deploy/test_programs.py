"""Programs of torch.export: any batch size, any length, and the model as it was."""

import io

import pytest
import torch

from speechbrain_pom.deploy import export_program
from speechbrain_pom.deploy.graphs import WaveformGraph, encoder_of
from speechbrain_pom.utils.errors import UserError


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_any_batch_and_length(make_encoder):
    encoder = make_encoder("PoM", num_layers=1, layers="sum", feature_floor="running")
    wavs = 0.1 * torch.randn(1, 5000)
    before, _ = encoder(wavs)
    saved = io.BytesIO()
    torch.export.save(export_program(encoder), saved)
    program = torch.export.load(io.BytesIO(saved.getvalue())).module()
    assert torch.equal(encoder(wavs)[0], before)
    # 100 s are the end of SpeechBrain's table of positions.
    for lengths in ([1], [639], [640, 1], [16000, 500, 63, 1, 9000], [101 * 16000]):
        wavs, lengths = 0.1 * torch.randn(len(lengths), max(lengths)), torch.tensor(lengths)
        frames, num_frames = program(wavs, lengths)
        expected, expected_lengths = encoder(wavs, lengths)
        close(frames, expected)
        assert torch.equal(num_frames, expected_lengths)


def test_what_cannot_be_traced_names_its_mixers(make_encoder, monkeypatch):
    encoder = make_encoder("PoM(degree=3)", num_layers=1)

    def mix(self, *args):
        raise RuntimeError("data-dependent\nand more")

    monkeypatch.setattr(type(encoder.transformer.encoder.layers[0].mha_layer), "mix_frames", mix)
    message = r"an encoder with PoM\(degree=3\) cannot be exported: data-dependent and more"
    with pytest.raises(UserError, match=message):
        export_program(encoder)


def test_models_that_are_not_ready_are_refused(make_encoder, tiny_recogniser):
    assert encoder_of(tiny_recogniser) is tiny_recogniser.encoder
    with pytest.raises(UserError, match=r"in training mode: call model\.eval"):
        export_program(tiny_recogniser.train())
    with pytest.raises(UserError, match=r"the model is in torch\.float64 on cpu: load it with"):
        export_program(tiny_recogniser.eval().double())
    with pytest.raises(UserError, match=r"layers is \[0, 2\], and an exported graph has one outp"):
        WaveformGraph(make_encoder(layers=[0, 2]))
