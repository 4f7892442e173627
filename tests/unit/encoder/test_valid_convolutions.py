"""Valid convolutions over log-mel features: lengths, padding, waveforms' scale, files, loading."""

import pytest
import soundfile
import torch
from speechbrain.lobes.models.wav2vec import W2VLatentExtractor

from speechbrain_pom.encoder.architecture import build_parts, read_architecture
from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.encoder.windows.overlapping import windows_are_exact
from speechbrain_pom.utils.errors import UserError
from tests.unit.objectives.wav2vec2.builders import build

LENGTHS = [16000, 15999, 9001, 1200, 960]

HPARAMS = """
encoder: !new:speechbrain_pom.encoder.SpeechEncoder
    compute_features: !new:speechbrain.lobes.features.Fbank
        n_mels: 20
    normalize: !new:speechbrain.processing.features.InputNormalization
        norm_type: sentence
    front_end: !new:speechbrain_pom.encoder.front_ends.ValidConvolutions
        input_size: 20
        channels: [12, 12]
    transformer: !new:speechbrain.lobes.models.transformer.TransformerASR.TransformerASR
        {tgt_vocab: 1, input_size: 12, d_model: 16, nhead: 2, num_encoder_layers: 3, d_ffn: 16,
         num_decoder_layers: 0, encoder_module: conformer, attention_type: SummaryMixing,
         causal: False, normalize_before: True}
"""


@pytest.fixture(scope="module")
def encoder():
    return build().encoder.eval()


@pytest.fixture(scope="module")
def wavs():
    generator = torch.Generator().manual_seed(2)
    return [0.1 * torch.randn(length, generator=generator) for length in LENGTHS]


def test_published_lengths():
    front_end = ValidConvolutions(80)
    assert [front_end.num_frames(number) for number in (1001, 7, 8, 6, 0)] == [498, 1, 1, 0, 0]
    assert front_end.num_frames(torch.tensor([1001, 9, 3])).tolist() == [498, 2, 0]
    theirs = W2VLatentExtractor([512, 512], [3, 3], [2, 1])
    assert theirs.get_output_lengths(torch.tensor([1001.0, 9.0])).tolist() == [498, 2]
    assert sum(weight.numel() for weight in front_end.parameters()) == 912_384


@pytest.mark.parametrize("num_features", [7, 8, 63, 500])
def test_lengths_are_those_of_the_output(num_features):
    front_end = ValidConvolutions(3, channels=[4, 5, 6], kernel_sizes=[3, 2, 1], strides=[2, 3, 1])
    frames = front_end(torch.randn(1, num_features, 3), torch.tensor([num_features]))
    assert frames.shape == (1, front_end.num_frames(num_features), 6)


def test_a_frame_reads_its_window_and_no_more():
    front_end = ValidConvolutions(3, channels=[4, 4])
    feats = torch.randn(1, 21, 3, requires_grad=True)
    frames = front_end(feats, torch.tensor([21]))
    frames[0, 2].square().sum().backward()
    touched = feats.grad[0].abs().sum(1).nonzero().flatten().tolist()
    start = 2 * front_end.stride
    assert touched == list(range(start, start + front_end.window))


def test_front_end_frames_of_an_utterance_alone_and_in_a_batch(encoder, wavs):
    """The published recipe normalises the padded features again: 41 % off at 5 % of padding."""
    batch = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    with torch.no_grad():
        feats, num_features = encoder.features(batch, torch.tensor(LENGTHS))
        together = encoder.embed(feats, num_features)
        for wav, row in zip(wavs, together, strict=True):
            number = torch.tensor([len(wav)])
            alone = encoder.embed(*encoder.features(wav[None], number))[0]
            assert len(alone) == encoder.num_frames(len(wav))
            torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-4, atol=1e-4)
        # Padding after a normalisation that does not know of it: log-mels of silence.
        padding = torch.arange(feats.shape[1]) >= num_features.unsqueeze(1)
        silent = feats.masked_fill(padding.unsqueeze(-1), -8.0)
        again = torch.nn.functional.layer_norm(silent, silent.shape[1:])
        published = encoder.embed(again, num_features)[2]
        alone = encoder.embed(*encoder.features(wavs[2][None], torch.tensor([LENGTHS[2]])))[0]
        assert (published[: len(alone)] - alone).norm() > 0.05 * alone.norm()


def test_the_second_normalisation_is_nothing_without_padding(encoder, wavs):
    feats, _ = encoder.features(wavs[0][None], torch.tensor([LENGTHS[0]]))
    again = torch.nn.functional.layer_norm(feats, feats.shape[1:])
    torch.testing.assert_close(again, feats, rtol=1e-3, atol=1e-3)


def test_the_scale_of_a_waveform_is_nothing(encoder, wavs):
    """Variance 1, as published, is not needed before normalised log-mel features."""
    wav = wavs[0][None]
    scaled = wav / wav.std()
    one, other = (encoder.features(x, torch.tensor([LENGTHS[0]]))[0] for x in (wav, scaled))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-3)


def test_a_file(encoder, tmp_path):
    wav = 0.1 * torch.randn(32000, generator=torch.Generator().manual_seed(1))
    soundfile.write(tmp_path / "a.wav", wav.numpy(), 16000, subtype="FLOAT")
    whole = encoder.encode_file(tmp_path / "a.wav")
    assert len(whole) == encoder.num_frames(32000)
    torch.testing.assert_close(whole, encoder(wav[None])[0][0], rtol=1e-4, atol=1e-4)


def test_an_hparams_file_builds_it(encoder, wavs, tmp_path):
    path = tmp_path / "hparams.yaml"
    path.write_text(HPARAMS)
    built = build_parts(read_architecture(path), path)["encoder"].eval()
    built.load_state_dict(encoder.state_dict())
    assert torch.equal(built(wavs[0][None])[0], encoder(wavs[0][None])[0])


@pytest.mark.parametrize("num_samples", [16000, 15999, 9001, 1280])
@pytest.mark.parametrize("window_s", [0.05, 0.3])
def test_windows_are_the_single_pass(encoder, tmp_path, window_s, num_samples):
    generator = torch.Generator().manual_seed(num_samples)
    loudness = torch.linspace(1e-4, 0.3, num_samples)
    wav = loudness * torch.randn(num_samples, generator=generator)
    soundfile.write(tmp_path / "a.wav", wav.numpy(), 16000, subtype="FLOAT")
    assert windows_are_exact(encoder)
    whole = encoder.encode_file(tmp_path / "a.wav", layers="last")
    windows = encoder.encode_file(tmp_path / "a.wav", layers="last", window_s=window_s)
    assert (windows - whole).abs().max() < 1e-4 * whole.abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"strides": [2]},
            "channels = [512, 512], kernel_sizes = [3, 3], strides = [2]: give one number for each",
        ),
        ({"kernel_sizes": [3, 0]}, "kernel_sizes = [3, 0]: give whole numbers of at least 1"),
    ],
)
def test_layers_that_cannot_be(options, message):
    with pytest.raises(UserError) as error:
        ValidConvolutions(80, **options)
    assert str(error.value).startswith(message)
