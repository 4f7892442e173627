"""The encoder as a module: padding, lengths, layers, devices and dtypes, use in other models."""

import copy

import pytest
import soundfile
import torch
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils.rnn import pad_sequence
from torchaudio.functional import resample

from speechbrain_pom.attention import attention_types
from speechbrain_pom.encoder.arguments import check_num_frames
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.utils.errors import UserError

SPECS = [*attention_types(), "RelPosMHAXL + PoM", "PoM(variant='frequency2') + Mamba"]
LENGTHS = [20000, 19999, 7000, 50, 1]


def noise(num_samples, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(num_samples, generator=generator)


def difference(found, expected):
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("spec", SPECS)
def test_an_utterance_alone_and_in_a_batch(make_encoder, spec, kernel_size):
    encoder = make_encoder(spec, kernel_size=kernel_size)
    wavs = [noise(length, seed) for seed, length in enumerate(LENGTHS)]
    batch = pad_sequence(wavs, batch_first=True)
    with torch.no_grad():
        frames, num_frames = encoder(batch, torch.tensor(LENGTHS))
        relative, _ = encoder(batch, torch.tensor(LENGTHS) / LENGTHS[0])
        assert torch.equal(relative, frames)
        for wav, row, length in zip(wavs, frames, num_frames, strict=True):
            alone, (number,) = encoder(wav[None])
            assert number == length == encoder.num_frames(len(wav)) == alone.shape[1]
            # Every frame by itself, not only the average.
            worst = (row[:length] - alone[0]).norm(dim=-1) / alone[0].norm(dim=-1)
            assert worst.max() < 1e-4
            assert (row[length:] == 0).all()


def test_without_the_patches_the_end_of_a_batch_leaks(make_encoder):
    """The comparison above can fail: SpeechBrain's modules, called one after the other."""
    encoder = make_encoder("regularMHA", kernel_size=5)
    wavs = torch.stack([noise(20000), noise(20000, 2)])
    feats, _ = encoder.features(wavs, torch.tensor([20000, 7000]))
    alone, _ = encoder.features(wavs[1:, :7000], torch.tensor([7000]))
    frames, expected = encoder.front_end(feats)[1], encoder.front_end(alone)[0]
    assert difference(frames[: len(expected)], expected) > 1e-3


def test_what_lies_in_the_padding_does_not_matter(tiny_encoder):
    wavs = torch.stack([noise(8000), noise(8000, 2)])
    lengths = torch.tensor([8000, 3001])
    poisoned = wavs.clone()
    poisoned[1, 3001:] = torch.nan
    assert torch.equal(tiny_encoder(wavs, lengths)[0], tiny_encoder(poisoned, lengths)[0])


def test_frames_may_be_masked_between_the_halves_of_encode(tiny_encoder):
    wavs, num_samples = torch.stack([noise(8000), noise(8000, 2)]), torch.tensor([8000, 3000])
    with torch.no_grad():
        feats, num_features = tiny_encoder.features(wavs, num_samples)
        expected, num_frames = tiny_encoder.encode(feats, num_features)
        frames = tiny_encoder.embed(feats, num_features)
        assert torch.equal(tiny_encoder.contextualise(frames, num_frames), expected)
        frames[0, 3] = 0.0
        assert not torch.equal(tiny_encoder.contextualise(frames, num_frames)[0], expected[0])


@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL", "regularMHA"])
def test_layers(make_encoder, spec):
    encoder = make_encoder(spec)
    wavs, lengths = torch.stack([noise(8000), noise(8000, 2)]), torch.tensor([1.0, 0.4])
    last, num_frames = encoder(wavs, lengths)
    states, again = encoder(wavs, lengths, layers=[0, 1, 2])
    assert torch.equal(num_frames, again)
    assert [state.shape for state in states] == [last.shape] * 3
    normed = encoder.transformer.encoder.norm(states[2])
    valid = last[1, : num_frames[1]]
    assert torch.equal(normed[1, : num_frames[1]], valid)
    assert torch.equal(encoder(wavs, lengths, layers=1)[0], states[1])
    assert all((state[1, num_frames[1] :] == 0).all() for state in states)
    assert not encoder.transformer.output_hidden_states  # nothing was switched on for others


def test_a_learnt_weighted_sum(make_encoder):
    encoder = make_encoder(layers="sum")
    wavs = noise(8000)[None]
    states, _ = encoder(wavs, layers=[0, 1, 2])
    summed, _ = encoder(wavs)
    assert torch.allclose(summed, sum(states) / 3, atol=1e-6)
    summed.sum().backward()
    assert encoder.layer_sum.scores.grad.abs().sum() > 0
    idle = [
        name
        for name, weight in encoder.named_parameters()
        if weight.requires_grad and weight.grad is None
    ]
    assert idle == []  # DDP would wait for them


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (3, r"layers is 3: give 'last', 'sum', or numbers from 0 .* to 2"),
        (-1, "layers is -1"),
        (True, "layers is True"),
        ("all", "layers is 'all'"),
        ([0, 2.0], r"layers is \[0, 2.0\]"),
        ([], "layers is empty"),
        ("sum", "its weights were not made: load with layers='sum'"),
    ],
)
def test_layers_that_there_are_not(tiny_encoder, layers, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder(noise(800)[None], layers=layers)


@pytest.mark.parametrize(
    ("wavs", "lengths", "message"),
    [
        (torch.zeros(800), None, r"wavs is torch.float32 \(800,\)"),
        (torch.zeros(1, 0), None, r"wavs is torch.float32 \(1, 0\)"),
        (torch.zeros(1, 800, dtype=torch.int16), None, "wavs is torch.int16"),
        (torch.zeros(2, 800), torch.tensor([800]), r"lengths is \(1,\) for 2 waveforms"),
        (
            torch.zeros(2, 800),
            torch.tensor([800, 801]),
            r"\[800, 801\] samples: each must be from 1 to 800",
        ),
        (torch.zeros(2, 800), torch.tensor([1.0, 0.0]), r"\[800, 0\] samples"),
    ],
)
def test_waveforms_and_lengths_that_cannot_be(tiny_encoder, wavs, lengths, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder(wavs, lengths)


def test_features_that_cannot_be(make_encoder):
    with pytest.raises(UserError, match="norm_type 'batch', which depends on the batch"):
        make_encoder(norm_type="batch")
    with pytest.raises(UserError, match="compute_features has deltas or context: the recipes'"):
        FeatureExtractor(Fbank(n_mels=80, deltas=True), InputNormalization(), 4)


def test_features_without_statistics(tiny_encoder, make_encoder):
    tiny_encoder.features.count = 0
    with pytest.raises(UserError, match="has no statistics of its features: load its weights"):
        tiny_encoder(noise(800)[None])
    tiny_encoder.load_state_dict(make_encoder(seed=3).state_dict())
    assert torch.equal(tiny_encoder(noise(800)[None])[0], make_encoder(seed=3)(noise(800)[None])[0])


def test_normalisation_per_sentence_ignores_padding(make_encoder):
    encoder = make_encoder(norm_type="sentence")
    wavs = torch.stack([noise(8000), noise(8000, 2)])
    frames, (_, number) = encoder(wavs, torch.tensor([8000, 3001]))
    alone, _ = encoder(wavs[1:, :3001])
    assert difference(frames[1, :number], alone[0]) < 1e-5


@pytest.mark.parametrize(("sample_rate", "channels"), [(16000, 1), (44100, 2)])
def test_files(tmp_path, tiny_encoder, sample_rate, channels):
    path = tmp_path / "a.wav"
    samples = torch.stack([noise(sample_rate, seed) for seed in range(channels)])
    soundfile.write(path, samples.T.numpy(), sample_rate, subtype="FLOAT")
    frames = tiny_encoder.encode_file(path)
    expected, _ = tiny_encoder(resample(samples.mean(0), sample_rate, 16000)[None])
    assert not frames.requires_grad
    assert difference(frames, expected[0]) < 1e-4
    state, last = tiny_encoder.encode_file(str(path), layers=[0, 2])
    assert state.shape == last.shape == frames.shape
    windows = tiny_encoder.encode_file(path, window_s=0.3)
    assert difference(windows, frames) < 1e-4


def test_files_in_training_mode(tmp_path, tiny_encoder):
    with pytest.raises(UserError, match=r"in training mode: call encoder.eval\(\)"):
        tiny_encoder.train().encode_file(tmp_path / "a.wav")


def test_files_at_another_sample_rate(tmp_path, tiny_encoder):
    tiny_encoder.features.sample_rate = 8000
    with pytest.raises(UserError, match="reads 8000 Hz, and files are read at 16000 Hz: read and"):
        tiny_encoder.encode_file(tmp_path / "a.wav")


def test_half_precision_leaves_the_features_alone(make_encoder):
    encoder, wavs = make_encoder(), noise(8000)[None]
    expected, _ = encoder(wavs)
    half = copy.deepcopy(encoder).to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.features.mean.dtype == torch.float32
    found, _ = half(wavs)
    assert found.dtype == torch.bfloat16
    assert difference(found.float(), expected) < 0.05
    feats = [model.features(wavs, torch.tensor([8000]))[0] for model in (encoder, half)]
    assert torch.equal(*feats)
    with torch.autocast("cpu", torch.bfloat16):
        assert difference(encoder(wavs)[0].float(), expected) < 0.05


def test_copies_are_of_their_own(make_encoder):
    encoder = make_encoder(kernel_size=5)
    wavs, lengths = torch.stack([noise(8000), noise(8000, 2)]), torch.tensor([1.0, 0.4])
    expected = encoder(wavs, lengths)[0]
    copied = copy.deepcopy(encoder)
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.zero_()
    assert torch.equal(copied(wavs, lengths)[0], expected)


def test_compiled(make_encoder):
    encoder = make_encoder(num_layers=1)
    wavs, lengths = torch.stack([noise(8000), noise(8000, 2)]), torch.tensor([8000, 3001])
    expected, num_frames = encoder(wavs, lengths)
    compiled = torch.compile(encoder, backend="aot_eager")
    found, again = compiled(wavs, lengths)
    assert torch.equal(num_frames, again)
    assert difference(found, expected) < 1e-5
    assert (
        difference(compiled(wavs, lengths, layers=0)[0], encoder(wavs, lengths, layers=0)[0]) < 1e-5
    )


def test_frozen_inside_of_another_model(tiny_encoder):
    tiny_encoder.requires_grad_(False)
    head = torch.nn.Linear(16, 3)
    head(tiny_encoder(noise(8000)[None])[0]).sum().backward()
    assert head.weight.grad is not None
    assert all(weight.grad is None for weight in tiny_encoder.parameters())


def test_fine_tuned_with_ddp(make_encoder, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        for layers in ("last", "sum"):
            encoder = make_encoder(layers=layers).train()
            wrapped = DistributedDataParallel(encoder)
            for _ in range(2):  # the second pass fails if a gradient was missing in the first
                frames, _ = wrapped(noise(8000)[None], torch.ones(1))
                frames.square().mean().backward()
    finally:
        torch.distributed.destroy_process_group()


def test_threads_that_ask_for_different_layers(tiny_encoder, wrong_in_threads):
    wavs = noise(16000)[None]
    jobs = [(wavs, None, layers) for layers in ("last", 1) * 2]
    assert wrong_in_threads(lambda *job: tiny_encoder(*job)[0], jobs) == []


@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL"])
@pytest.mark.parametrize("norm_type", ["global", "sentence"])
def test_threads_with_batches_of_their_own(make_encoder, wrong_in_threads, spec, norm_type):
    encoder = make_encoder(spec, kernel_size=5, norm_type=norm_type)
    jobs = [
        (torch.stack([noise(longest), noise(longest, 2)]), torch.tensor([longest, shorter]))
        for longest, shorter in ((8000, 3001), (8000, 7000), (6000, 1), (7990, 500))
    ]
    assert wrong_in_threads(lambda *job: encoder(*job)[0], jobs) == []


def test_audio_beyond_the_table_of_positions(make_encoder):
    """SpeechBrain's own regularMHA crashes after 100 s."""
    encoder = make_encoder("regularMHA", num_layers=1)
    with torch.no_grad():
        frames, _ = encoder(noise(16000 * 102)[None])
    assert frames.shape[1] == 2551
    assert torch.isfinite(frames).all()


def test_an_utterance_without_a_frame_is_refused():
    """Where the convolutions are "valid" and shorten what they get."""
    with pytest.raises(UserError, match=r"\[800, 20\] samples, too few for a frame of the front"):
        check_num_frames(torch.tensor([3, 0]), torch.tensor([800, 20]))
