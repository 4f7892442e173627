"""Another front end than SpeechBrain's: "valid" convolutions over waveforms, as wav2vec 2.0."""

import pytest
import soundfile
import torch
from torch import nn

from speechbrain_pom.encoder import SpeechEncoder, Waveform
from speechbrain_pom.encoder.architecture import build_parts, read_architecture
from speechbrain_pom.utils.errors import UserError
from tests.helpers.encoders import build_transformer

LENGTHS = [4000, 3999, 1201, 80]


class ValidConvolutions(nn.Module):
    """Two convolutions without padding: kernels 10 and 8, strides 5 and 4."""

    stride, window, multiple = 20, 45, 1

    def __init__(self, channels=6):
        super().__init__()
        self.first = nn.Conv1d(1, channels, kernel_size=10, stride=5)
        self.second = nn.Conv1d(channels, channels, kernel_size=8, stride=4)

    def num_frames(self, num_features):
        return (num_features - self.window) // self.stride + 1

    def forward(self, feats, num_features):
        return self.second(self.first(feats.transpose(1, 2)).relu()).transpose(1, 2)


def make_encoder(attention_type="PoM"):
    torch.manual_seed(0)
    transformer = build_transformer(attention_type, 6)
    return SpeechEncoder(Waveform(), None, ValidConvolutions(), transformer).eval()


@pytest.mark.parametrize("attention_type", ["PoM", "RelPosMHAXL"])
def test_an_utterance_alone_and_in_a_batch(attention_type):
    encoder = make_encoder(attention_type)
    wavs = [0.1 * torch.randn(length) for length in LENGTHS]
    batch = nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.no_grad():
        frames, num_frames = encoder(batch, torch.tensor(LENGTHS))
        for wav, row, number in zip(wavs, frames, num_frames, strict=True):
            alone, (expected,) = encoder(wav[None])
            assert number == expected == encoder.num_frames(len(wav)) == alone.shape[1]
            torch.testing.assert_close(row[:number], alone[0], rtol=1e-4, atol=1e-5)
            assert (row[number:] == 0).all()


def test_what_it_says_of_itself():
    encoder = make_encoder()
    assert (encoder.stride, encoder.samples_per_frame, encoder.sample_rate) == (20, 20, 16000)
    assert [encoder.num_frames(number) for number in (45, 64, 65, 85)] == [1, 1, 2, 3]
    assert encoder.num_samples(3) == 85
    assert "0.first.weight" in encoder.checkpoint_modules.state_dict()


def test_it_is_trained():
    encoder = make_encoder().train()
    feats, num_features = encoder.features(torch.randn(2, 800), torch.tensor([800, 500]), epoch=1)
    frames, num_frames = encoder.encode(feats, num_features)
    frames.square().sum().backward()
    assert num_frames.tolist() == [38, 23]
    assert encoder.front_end.first.weight.grad.abs().sum() > 0


def test_an_utterance_too_short_for_a_frame():
    with pytest.raises(UserError, match=r"lengths are \[100, 44\] samples, too few for a frame"):
        make_encoder()(torch.randn(2, 100), torch.tensor([100, 44]))


def test_a_file_in_windows(tmp_path):
    """Windows overlap here; one for the whole file changes nothing."""
    encoder = make_encoder()
    soundfile.write(tmp_path / "a.wav", 0.1 * torch.randn(16000).numpy(), 16000, subtype="FLOAT")
    whole = encoder.encode_file(tmp_path / "a.wav")
    assert len(whole) == encoder.num_frames(16000)
    windows = encoder.encode_file(tmp_path / "a.wav", window_s=0.3, overlap_s=0.1)
    assert windows.shape == whole.shape
    assert (windows[:100] - whole[:100]).norm() / whole[:100].norm() < 0.5
    torch.testing.assert_close(encoder.encode_file(tmp_path / "a.wav", window_s=2.0), whole)


def test_waveforms_in_an_hparams_file(tmp_path):
    """Its section names a Waveform and no normalisation; a front end of one's own is not loaded."""
    text = """
encoder: !new:speechbrain_pom.encoder.SpeechEncoder
    compute_features: !new:speechbrain_pom.encoder.Waveform
        sample_rate: 8000
    normalize: null
    front_end: !new:{front_end}
    transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
        {{tgt_vocab: 1, input_size: 6, d_model: 8, nhead: 2, num_encoder_layers: 1, d_ffn: 8,
         num_decoder_layers: 0, encoder_module: conformer, attention_type: PoM, causal: False,
         normalize_before: True}}
"""
    path = tmp_path / "a.yaml"
    path.write_text(text.format(front_end="torch.nn.Identity {}"))
    architecture = read_architecture(path)
    assert "sample_rate: 8000" in architecture
    with pytest.raises(UserError, match="the model cannot be built"):  # Identity counts no frames
        build_parts(architecture, path)
    path.write_text(
        text.format(front_end="tests.unit.encoder.test_front_ends.ValidConvolutions {}")
    )
    with pytest.raises(UserError, match="from a saved model only torch modules are made"):
        read_architecture(path)
