"""A stream from samples to frames: the masked full pass, whatever the packets."""

import numpy as np
import pytest
import torch

from speechbrain_pom.encoder.front_ends import ValidConvolutions
from speechbrain_pom.utils.errors import UserError

TOLERANCE = 1e-5
FRAME_S = 0.04
RECURRENT = "Mamba(bidirectional=False)"


def speech(num_samples, seed=0):
    """Noise that begins in digital silence, and grows louder by 100 dB."""
    generator = torch.Generator().manual_seed(seed)
    loudness = torch.logspace(-5, -0.5, num_samples)
    loudness[: num_samples // 5] = 0
    return loudness * torch.randn(num_samples, generator=generator)


def streamed(stream, wav, packets=(1600,)):
    """All frames of a stream; the sizes of its packets are repeated to the end."""
    found, start, turn = [], 0, 0
    while start < len(wav):
        stop = start + packets[turn % len(packets)]
        found.append(stream.accept(wav[start:stop]))
        start, turn = stop, turn + 1
    found.append(stream.finish())
    if isinstance(found[0], list):
        return [torch.cat(parts) for parts in zip(*found, strict=True)]
    return torch.cat(found)


@torch.no_grad()
def masked(encoder, wav, chunk, left, **options):
    frames, _ = encoder(wav.unsqueeze(0), chunks=(chunk, left), **options)
    return [one[0] for one in frames] if isinstance(frames, list) else frames[0]


def assert_close(found, expected):
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "spec",
    [
        "PoM",
        "PoM(degree=3, variant=selective)",
        "PoM(variant=frequency3)",
        "SummaryMixing",
        "SummaryMixing(mode=lite)",
        "PoM + SummaryMixing",
        RECURRENT,
        f"PoM + {RECURRENT}",
    ],
)
def test_a_stream_is_the_masked_pass(make_encoder, spec):
    encoder, wav = make_encoder(spec), speech(30_000)
    for chunk, left in [(16, None), (5, None), (1, None), (16, 0), (8, 3), (1, 2)]:
        if left is not None and "Mamba" in spec:
            continue
        left_s = None if left is None else left * chunk * FRAME_S
        found = streamed(encoder.stream(chunk * FRAME_S, left_s), wav)
        assert_close(found, masked(encoder, wav, chunk, left))


@pytest.mark.parametrize(
    "spec",
    ["RoPEMHA", "RelPosMHAXL", "regularMHA", "RelPosMHAXL + PoM", "PoM + RoPEMHA + regularMHA"],
)
def test_attention_streams_with_a_finite_left_context(make_encoder, spec):
    encoder, wav = make_encoder(spec, num_layers=3 if "regular" in spec else 2), speech(30_000)
    for chunk, left in [(16, 0), (5, 3), (1, 2), (8, 40)]:
        found = streamed(encoder.stream(chunk * FRAME_S, left * chunk * FRAME_S), wav)
        assert_close(found, masked(encoder, wav, chunk, left))
    name = spec.split(" + ")[1 if spec.startswith("PoM") else 0]
    message = f"{name} keeps the frames that it attends to: give a finite left context"
    assert encoder.can_stream() == message
    assert encoder.can_stream(left_s=1.28) is None
    with pytest.raises(UserError, match=f"^{message}$"):
        encoder.stream()


EDGE = 640 * 8  # of the first chunk of 8 frames


@pytest.mark.parametrize(
    "num_samples",
    [1, 39, 159, 639, 641, *(EDGE + n for n in (0, 1, 39, 40, 41)), 2 * EDGE + 39, 2 * EDGE + 40],
)
def test_lengths_around_all_edges(tiny_encoder, num_samples):
    wav = speech(2 * EDGE + 40)[-num_samples:]
    expected = masked(tiny_encoder, wav, 8, None)
    assert_close(streamed(tiny_encoder.stream(0.32), wav), expected)
    assert len(expected) == tiny_encoder.num_frames(num_samples)


@pytest.mark.parametrize("positional_encoding", ["fixed_abs_sine", None])
def test_positions_beyond_their_table(make_encoder, positional_encoding):
    encoder = make_encoder(positional_encoding=positional_encoding, max_length=30)
    wav = speech(40_000)
    assert_close(streamed(encoder.stream(0.28), wav), masked(encoder, wav, 7, None))


@pytest.mark.parametrize("kernel_size", [5, 7])
def test_front_ends_that_see_further(make_encoder, kernel_size):
    encoder, wav = make_encoder(kernel_size=kernel_size), speech(30_000)
    for chunk in (1, 2, 16):
        assert_close(
            streamed(encoder.stream(chunk * FRAME_S), wav), masked(encoder, wav, chunk, None)
        )


def with_valid_convolutions(encoder):
    """The encoder with the front end of SummaryMixing wav2vec 2.0: 20 ms from frame to frame."""
    front_end = ValidConvolutions(80, channels=(640, 640)).eval()
    parts = encoder.features.compute_features, encoder.features.normalize
    return type(encoder)(*parts, front_end, encoder.transformer).eval()


def test_valid_convolutions(tiny_encoder):
    encoder = with_valid_convolutions(tiny_encoder)
    for num_samples in (960, 961, 20_000, 20_480, 20_519, 20_520):
        wav = speech(num_samples)
        for chunk in (1, 8):
            found = streamed(encoder.stream(chunk * 0.02), wav)
            assert_close(found, masked(encoder, wav, chunk, None))
    assert len(streamed(encoder.stream(0.32), speech(500))) == 0  # too short for a frame


SPLITS = [(40_000,), (1,), (37,), (0, 1600, 0), (640, 9_999, 1, 5_000), (10_280, 10_240)]


@pytest.mark.parametrize("spec", ["PoM", "RelPosMHAXL + SummaryMixing"])
def test_all_splits_into_packets_give_the_same_bits(make_encoder, spec):
    encoder, wav = make_encoder(spec), speech(24_000)
    expected = streamed(encoder.stream(0.32, 0.64), wav, (1000,))
    for packets in SPLITS:
        part = wav[:7000] if packets == (1,) else wav
        found = streamed(encoder.stream(0.32, 0.64), part, packets)
        assert torch.equal(found[:8], expected[:8])
        if part is wav:
            assert torch.equal(found, expected)


def test_pcm_and_arrays_are_samples_too(tiny_encoder):
    pcm = (20_000 * np.random.default_rng(0).standard_normal(8000).clip(-1, 1)).astype(np.int16)
    wav = torch.from_numpy(pcm / np.float32(32768))
    expected = streamed(tiny_encoder.stream(0.32), wav)
    read_only = np.frombuffer(pcm.tobytes(), np.int16)
    for packets in (
        torch.from_numpy(pcm),
        read_only,
        wav.numpy(),
        wav.double(),
        wav.double().numpy(),
    ):
        assert torch.equal(streamed(tiny_encoder.stream(0.32), packets), expected)


def test_a_packet_may_be_overwritten_by_its_owner(tiny_encoder):
    wav, buffer = speech(12_000), torch.empty(1000)
    stream, found = tiny_encoder.stream(0.32), []
    for packet in wav.split(1000):
        buffer.copy_(packet)
        found.append(stream.accept(buffer))
        buffer.fill_(torch.nan)
    found = torch.cat([*found, stream.finish()])
    assert torch.equal(found, streamed(tiny_encoder.stream(0.32), wav))


def test_nothing_waits_longer_than_it_has_to(tiny_encoder):
    """Chunk c of 8 frames is complete with sample 640 * 8 * (c + 1) + 40."""
    stream, wav = tiny_encoder.stream(0.32), speech(20_000)
    assert len(stream.accept(wav[: EDGE + 39])) == 0
    assert len(stream.accept(wav[EDGE + 39 : EDGE + 40])) == 8
    assert len(stream.accept(wav[EDGE + 40 : 2 * EDGE + 39])) == 0
    assert (stream.num_samples, stream.num_frames) == (2 * EDGE + 39, 8)
    assert len(stream.accept(wav[2 * EDGE + 39 : 3 * EDGE + 41])) == 16
    assert stream.latency_s == pytest.approx(0.32 + 0.0025)


@pytest.mark.parametrize("spec", ["PoM", "RoPEMHA + PoM"])
def test_nothing_comes_from_the_future(make_encoder, spec):
    encoder, wav = make_encoder(spec), speech(20_000)
    expected = streamed(encoder.stream(0.32, 0.64), wav)
    for sample, same in ((2 * EDGE + 40, True), (2 * EDGE + 39, False)):
        other = wav.clone()
        other[sample:] += 0.1
        found = streamed(encoder.stream(0.32, 0.64), other)
        assert torch.equal(found[:16], expected[:16]) == same
        assert not torch.equal(found[16:], expected[16:])


@pytest.mark.parametrize("layers", ["last", 0, 1, [2, 0], "sum"])
def test_layers(make_encoder, layers):
    encoder, wav = make_encoder(layers="sum"), speech(9000)
    expected = masked(encoder, wav, 8, None, layers=layers)
    found = streamed(encoder.stream(0.32, layers=layers), wav)
    assert isinstance(found, list) == isinstance(expected, list)
    several = (found, expected) if isinstance(found, list) else ([found], [expected])
    for one, wanted in zip(*several, strict=True):
        assert_close(one, wanted)


def test_half_precision_and_no_gradients(tiny_encoder):
    encoder, wav = tiny_encoder.to(torch.bfloat16), speech(9000)
    found = streamed(encoder.stream(0.32), wav)
    assert found.dtype == torch.bfloat16
    assert not found.requires_grad
    expected = masked(encoder, wav, 8, None)
    assert (found.float() - expected.float()).abs().max() < 0.1
    head = torch.nn.Linear(16, 2, dtype=torch.bfloat16)
    head(found).sum().backward()  # frames of a stream can train what comes after them


def test_a_stream_leaves_an_encoder_trainable(make_encoder):
    """Tables that modules keep from a call must not come from PyTorch's inference mode."""
    encoder = make_encoder("RoPEMHA + RelPosMHAXL")
    streamed(encoder.stream(0.32, 0.64), speech(9000))
    frames, _ = encoder.train()(speech(9000).unsqueeze(0), chunks=None)
    frames.sum().backward()


def test_a_chunk_that_fails_changes_nothing(tiny_encoder, monkeypatch):
    wav, stream = speech(12_000), tiny_encoder.stream(0.32)
    expected = streamed(tiny_encoder.stream(0.32), wav)
    found = [stream.accept(wav[:5200])]
    norm = tiny_encoder.transformer.encoder.norm

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(norm, "forward", fail)
        with pytest.raises(MemoryError):
            stream.accept(wav[5200:])
    found += [stream.accept(wav[:0]), stream.finish()]  # the packet itself was taken
    assert torch.equal(torch.cat(found), expected)


def test_an_empty_stream(tiny_encoder):
    stream = tiny_encoder.stream()
    assert stream.accept(torch.zeros(0)).shape == (0, 16)
    assert stream.finish().shape == (0, 16)
    assert [one.shape for one in tiny_encoder.stream(layers=[0, 1]).finish()] == [(0, 16)] * 2


@pytest.mark.parametrize(
    ("packet", "message"),
    [
        (torch.zeros(2, 100), r"packet is torch.float32 \(2, 100\): give mono samples"),
        (torch.zeros(3, dtype=torch.int32), r"packet is torch.int32 \(3,\): give mono samples"),
        (np.zeros(3, np.uint8), r"packet is uint8 \(3,\): give mono samples"),
        (b"\0\0", "packet is bytes: give mono samples"),
        (
            torch.tensor([0.0, torch.nan, torch.inf]),
            r"NaN or beyond 1e\+09 \(2 of 3, the first is number 1\): nothing of it was taken",
        ),
    ],
)
def test_packets_that_cannot_be_are_refused_and_change_nothing(tiny_encoder, packet, message):
    stream, wav = tiny_encoder.stream(0.32), speech(9000)
    first = stream.accept(wav[:6000])
    with pytest.raises(UserError, match=message):
        stream.accept(packet)
    found = torch.cat([first, stream.accept(wav[6000:]), stream.finish()])
    assert torch.equal(found, streamed(tiny_encoder.stream(0.32), wav))


def test_a_finished_stream(tiny_encoder):
    stream = tiny_encoder.stream()
    stream.accept(speech(9000))
    stream.finish()
    for call in (lambda: stream.accept(torch.zeros(1)), stream.finish, stream.state):
        with pytest.raises(UserError, match="the stream is finished and"):
            call()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_s": 0.05}, "chunk_s is 0.05: give a multiple of 0.04 s"),
        ({"chunk_s": -0.64}, "chunk_s is -0.64: give a multiple"),
        ({"chunk_s": float("nan")}, "chunk_s is nan: give a multiple"),
        ({"left_s": 1.0}, "left_s is 1.0: give whole chunks, a multiple of chunk_s = 0.64"),
        ({"left_s": -0.64}, "left_s is -0.64: give whole chunks"),
        ({"layers": 7}, "layers is 7"),
    ],
)
def test_chunks_that_cannot_be(tiny_encoder, options, message):
    with pytest.raises(UserError, match=message):
        tiny_encoder.stream(**options)


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("Fastformer", {}, "Fastformer cannot stream: its softmaxes run over"),
        ("Mamba", {}, r"Mamba\(bidirectional=True\) cannot stream"),
        ("hypermixing", {}, "hypermixing cannot mix a stream step by step"),
        ("PoM", {"encoder_module": "branchformer"}, "BranchformerEncoderLayer cannot stream"),
        ("PoM", {"norm_type": "sentence"}, "its features are normalised by the whole utterance"),
    ],
)
def test_encoders_that_cannot_stream(make_encoder, spec, options, message):
    encoder = make_encoder(spec, **options)
    assert "\n" not in encoder.can_stream()
    with pytest.raises(UserError, match=f"^{message}"):
        encoder.stream()
    with pytest.raises(UserError, match=f"^{message}"):
        encoder.stream_pool()


def test_an_encoder_in_training_mode(tiny_encoder):
    with pytest.raises(UserError, match=r"call encoder.eval\(\) before streams"):
        tiny_encoder.train().stream()


def test_other_features_and_front_ends_cannot_stream(make_encoder):
    encoder = make_encoder()
    encoder.features.compute_features.compute_STFT.center = False
    assert encoder.can_stream() == "its features are not SpeechBrain's Fbank"
    encoder = make_encoder()
    for module in encoder.front_end.modules():
        if getattr(module, "padding", None) == "same":
            module.padding = "causal"
    assert encoder.can_stream() == "its front end pads by causal: choose padding: same"
    encoder = make_encoder()
    encoder.transformer.positional_encoding = torch.nn.Identity()
    assert encoder.can_stream() == "its positions are not sines at its input"
