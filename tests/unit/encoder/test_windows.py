"""Long files in windows: exactly the frames of a single pass, where the mixers allow it."""

import numpy as np
import pytest
import soundfile
import torch

from speechbrain_pom.attention.positions import ExtendedSinePositions
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from speechbrain_pom.utils.errors import UserError

TOLERANCE = 1e-4  # of the largest value: fp32, all frames
SECONDS_PER_FRAME = 0.04
EXACT = (
    "PoM",
    "PoM(degree=3, variant=selective)",
    "PoM(variant=frequency2)",
    "PoM(variant=frequency3)",
    "SummaryMixing",
    "SummaryMixing(lite)",
    "Fastformer",
    "PoM + SummaryMixing",
    "Fastformer + PoM",
)


class Sound:
    """A reader of a signal in memory: noise that is loud in one place and nearly silent in another.

    So the limit of the features' range depends on the whole of it.
    """

    def __init__(self, num_samples, seed=0):
        generator = torch.Generator().manual_seed(seed)
        loudness = torch.logspace(0, -5, num_samples).flip(0)
        self.wav = loudness * torch.randn(num_samples, generator=generator)
        self.num_samples = num_samples
        self.longest = 0

    def read(self, start, stop):
        assert 0 <= start <= stop <= self.num_samples
        self.longest = max(self.longest, stop - start)
        return self.wav[start:stop].clone()


def randomised(encoder):
    """With biases and norms that are not those of the initialisation."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return encoder


def whole(encoder, reader, layers=None):
    with torch.no_grad():
        frames, _ = encoder(reader.wav.unsqueeze(0), layers=layers)
    return [one[0] for one in frames] if isinstance(frames, list) else frames[0]


def assert_close(found, expected, tolerance=TOLERANCE):
    assert found.shape == expected.shape
    assert found.device.type == "cpu"
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("window", [1, 7, 20, 49])
@pytest.mark.parametrize("spec", EXACT)
def test_exact_windows_are_the_single_pass(make_encoder, spec, window):
    encoder, sound = randomised(make_encoder(spec)), Sound(32_100)
    assert windows_are_exact(encoder)
    found = encode_windows(encoder, sound, window_s=window * SECONDS_PER_FRAME)
    assert len(found) == 51
    assert_close(found, whole(encoder, sound))
    assert sound.longest < 640 * (window + 5)  # never more than a window and its context


@pytest.mark.parametrize("encoder_module", ["branchformer", "transformer"])
@pytest.mark.parametrize("spec", ["PoM", "SummaryMixing", "Fastformer"])
def test_other_encoders(make_encoder, spec, encoder_module):
    encoder = randomised(make_encoder(spec, num_layers=3, encoder_module=encoder_module))
    for window, num_samples in ((5, 32_000), (1, 16_500), (16, 64_001)):
        sound = Sound(num_samples)
        found = encode_windows(encoder, sound, window_s=window * SECONDS_PER_FRAME)
        assert_close(found, whole(encoder, sound))


@pytest.mark.parametrize("num_samples", [1, 159, 160, 639, 640, 4_481, 12_800])
def test_lengths(make_encoder, num_samples):
    encoder, sound = randomised(make_encoder(num_layers=3)), Sound(num_samples)
    for window in (1, 2, 10, 1000):
        found = encode_windows(encoder, sound, window_s=window * SECONDS_PER_FRAME)
        assert len(found) == encoder.num_frames(num_samples)
        assert_close(found, whole(encoder, sound))


@pytest.mark.parametrize("kernel_size", [3, 5, 7])
@pytest.mark.parametrize("norm_type", ["global", "sentence"])
def test_front_ends_and_normalisation(make_encoder, norm_type, kernel_size):
    encoder = randomised(make_encoder(norm_type=norm_type, kernel_size=kernel_size))
    sound = Sound(40_400)
    assert_close(encode_windows(encoder, sound, window_s=0.5), whole(encoder, sound))


@pytest.mark.parametrize("norm_type", ["global", "sentence"])
def test_a_floor_that_follows_the_loudest_value_so_far(make_encoder, norm_type):
    encoder = randomised(make_encoder(norm_type=norm_type, feature_floor="running"))
    sound = Sound(40_400)  # it grows louder, by more than 80 dB
    found, expected = encode_windows(encoder, sound, window_s=0.48), whole(encoder, sound)
    assert_close(found, expected)
    encoder.features.floor = "utterance"
    assert (whole(encoder, sound) - expected).abs().max() > 0.01 * expected.abs().max()


@pytest.mark.parametrize("positional_encoding", ["fixed_abs_sine", None])
def test_positions_are_those_of_the_whole_file(make_encoder, positional_encoding):
    options = {"positional_encoding": positional_encoding, "max_length": 30}
    encoder, sound = randomised(make_encoder(**options)), Sound(64_000)
    assert_close(encode_windows(encoder, sound, window_s=0.36), whole(encoder, sound))


def test_sines_far_beyond_the_table(make_encoder):
    encoder, sound = make_encoder(max_length=30), Sound(64_000)
    encoder.transformer.custom_src_module.layers[0].w.weight.data.zero_()
    encoder.transformer.custom_src_module.layers[0].w.bias.data.zero_()
    found = encode_windows(encoder, sound, window_s=0.36, layers=0)
    positions = encoder.transformer.positional_encoding
    assert isinstance(positions, ExtendedSinePositions)
    assert torch.equal(found, positions(torch.zeros(1, 101, 16))[0])


@pytest.mark.parametrize("layers", ["last", 0, 1, 3, [2], [0, 3, 1], [1, 1], "sum"])
@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL"])
def test_layers(make_encoder, spec, layers):
    encoder = randomised(make_encoder(spec, num_layers=3, layers="sum"))
    sound = Sound(20_000)
    window_s = 0.2 if windows_are_exact(encoder) else 60.0
    found = encode_windows(encoder, sound, window_s=window_s, layers=layers)
    expected = whole(encoder, sound, layers)
    if not isinstance(layers, list):
        found, expected = [found], [expected]
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_the_encoders_own_layers_are_the_default(make_encoder):
    encoder, sound = randomised(make_encoder(layers=[1, 2])), Sound(20_000)
    found = encode_windows(encoder, sound, window_s=0.3)
    for one, other in zip(found, whole(encoder, sound), strict=True):
        assert_close(one, other)


def test_independent_windows_would_be_others(make_encoder):
    """The same model and file, each window alone: what the exact way is for."""
    encoder, sound = randomised(make_encoder()), Sound(32_000)
    expected = whole(encoder, sound)
    naive = [
        encoder(sound.wav[None, start : start + 6400])[0][0, :10].detach()
        for start in range(0, 32_000, 6400)
    ]
    assert (torch.cat(naive) - expected[:50]).abs().max() > 100 * TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("spec", ["PoM", "Mamba"])
def test_nothing_of_the_encoder_changes_and_results_may_be_trained_on(make_encoder, spec):
    encoder, sound = make_encoder(spec), Sound(20_000)
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    modules = list(encoder.modules())
    frames = encode_windows(encoder, sound, window_s=0.3)
    assert list(encoder.modules()) == modules
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    probe = torch.nn.Linear(16, 2)
    probe(frames).sum().backward()
    assert probe.weight.grad.any()


def test_bfloat16_and_float64(make_encoder):
    sound = Sound(20_000)
    for dtype, tolerance in ((torch.bfloat16, 0.1), (torch.float64, TOLERANCE)):
        encoder = randomised(make_encoder()).to(dtype)
        found = encode_windows(encoder, sound, window_s=0.3)
        assert found.dtype == dtype
        assert_close(found, whole(encoder, sound), tolerance)


@pytest.mark.parametrize("spec", ["PoM", "Mamba"])
def test_a_file_and_a_memory_map(make_encoder, tmp_path, spec):
    encoder, sound = make_encoder(spec), Sound(30_000)
    soundfile.write(tmp_path / "a.wav", sound.wav.clamp(-1, 1).numpy(), 16000, subtype="FLOAT")
    shape = (encoder.num_frames(30_000), 16)
    file = np.memmap(tmp_path / "a.f32", "float32", "w+", shape=shape)
    with AudioReader(tmp_path / "a.wav") as reader:
        expected = encode_windows(encoder, reader, window_s=0.8)
        out = torch.from_numpy(file)
        assert encode_windows(encoder, reader, window_s=0.8, out=out) is out
    file.flush()
    stored = np.fromfile(tmp_path / "a.f32", "float32").reshape(shape)
    assert np.array_equal(stored, expected.numpy())


@pytest.mark.parametrize("spec", ["PoM", "Fastformer", "Mamba"])
@pytest.mark.parametrize("layers", ["last", [0, 1]])
def test_progress_grows_to_all_of_the_work(make_encoder, spec, layers):
    shares = []
    encoder, sound = make_encoder(spec), Sound(30_000)
    encode_windows(encoder, sound, window_s=0.3, layers=layers, progress=shares.append)
    assert len(shares) > 3
    assert shares == sorted(set(shares))
    assert shares[-1] == 1


def refusal(encoder, **options):
    with pytest.raises(UserError) as caught:
        encode_windows(encoder, Sound(30_000), **options)
    return str(caught.value)


def test_training_mode_is_refused(tiny_encoder):
    message = refusal(tiny_encoder.train())
    assert message == "the encoder is in training mode: call encoder.eval() before files"


@pytest.mark.parametrize("window_s", [0, -1.0, float("nan"), float("inf")])
def test_windows_that_cannot_be(tiny_encoder, window_s):
    message = refusal(tiny_encoder, window_s=window_s)
    assert message == f"window_s is {window_s}: give seconds, more than 0"


def test_overlaps_that_cannot_be(make_encoder):
    encoder = make_encoder("Mamba")
    assert refusal(encoder, overlap_s=-0.5) == "overlap_s is -0.5: give seconds, from 0"
    assert refusal(encoder, window_s=2.0, overlap_s=2.0) == (
        "overlap_s is 2, window_s is 2: give an overlap shorter than the window"
    )


def test_results_of_another_size_are_refused(tiny_encoder):
    assert refusal(tiny_encoder, out=torch.empty(40, 16)) == (
        "out is [('torch.float32', (40, 16), 'cpu')]: give 1 x torch.float32 (47, 16) on the CPU, "
        "as encoder.num_frames(num_samples) and encoder.d_model say"
    )
    assert "give 2 x" in refusal(tiny_encoder, out=[torch.empty(47, 16)], layers=[0, 1])


def test_layers_that_there_are_not(tiny_encoder):
    assert "layers is 7" in refusal(tiny_encoder, layers=7)
