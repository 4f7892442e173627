"""Streams whose past fades or ends: the masked pass with a half-life, or with resets."""

import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom.attention.streaming import emptied_sums, encoder_step, first_states
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError
from tests.unit.encoder.streaming.test_stream import EDGE, assert_close, speech, streamed

SPECS = ["PoM", "PoM(variant=frequency3) + PoM(variant=selective)", "SummaryMixing(mode=lite)"]
CHUNK_S, CHUNK = 0.32, 8


@torch.no_grad()
def masked(encoder, wav, mask):
    return encoder(wav.unsqueeze(0), chunks=mask)[0][0]


def streamed_with_resets(stream, wav, resets, packets=(1600,)):
    """All frames, where the sums begin anew with some chunks."""
    found, start = [], 0
    for reset in sorted(resets):
        stop = stream.engine.inputs.geometry.num_samples(reset * CHUNK) if reset else 0
        turn = 0
        while start < stop:
            following = min(stop, start + packets[turn % len(packets)])
            found.append(stream.accept(wav[start:following]))
            start, turn = following, turn + 1
        assert stream.reset() == stream.last_reset == reset
    return torch.cat([*found, streamed(stream, wav[start:], packets)])


@pytest.mark.parametrize("spec", [*SPECS, "PoM + SummaryMixing"])
def test_a_stream_that_fades_is_the_masked_pass(make_encoder, spec):
    encoder, wav = make_encoder(spec), speech(30_000)
    for chunk_s, half_life_s in ((CHUNK_S, 0.5), (0.04, 0.2), (0.64, 30)):
        stream = encoder.stream(chunk_s, half_life_s=half_life_s)
        found = streamed(stream, wav)
        assert stream.chunks.half_life_chunks == pytest.approx(half_life_s / chunk_s)
        assert_close(found, masked(encoder, wav, stream.chunks))
        if half_life_s < 1:  # and it does something
            assert (found - streamed(encoder.stream(chunk_s), wav)).abs().max() > 1e-3


@pytest.mark.parametrize("left_s", [None, 0.64])
@pytest.mark.parametrize("spec", SPECS)
def test_a_stream_that_begins_anew_is_the_masked_pass(make_encoder, spec, left_s):
    encoder, wav = make_encoder(spec), speech(40_000)
    resets = [1, 3, 4]
    stream = encoder.stream(CHUNK_S, left_s)
    found = streamed_with_resets(stream, wav, resets)
    mask = ChunkMask(CHUNK, stream.chunks.left_context_chunks, resets=[resets])
    assert_close(found, masked(encoder, wav, mask))
    without = streamed(encoder.stream(CHUNK_S, left_s), wav)
    assert torch.equal(found[:CHUNK], without[:CHUNK])
    assert (found - without)[CHUNK : 2 * CHUNK].abs().max() > 1e-3
    for packets in ((40_000,), (37, 9000)):
        again = streamed_with_resets(encoder.stream(CHUNK_S, left_s), wav, resets, packets)
        assert torch.equal(again, found)


def test_convolutions_go_on_at_a_reset(make_encoder):
    """A stream that ends and another one: the first frames lack their past."""
    encoder, wav = make_encoder("PoM", positional_encoding=None), speech(20_000)
    found = streamed_with_resets(encoder.stream(CHUNK_S), wav, [2])
    another = streamed(encoder.stream(CHUNK_S), wav[2 * EDGE :])
    assert (found[2 * CHUNK :] - another)[:3].abs().max() > 1e-3


@pytest.mark.parametrize("spec", SPECS)
@torch.no_grad()
def test_the_layers_in_float64(make_encoder, spec):
    encoder, wav = make_encoder(spec).double(), speech(30_000)
    for half_life, resets in ((1.7, [2, 3]), (None, [1, 4]), (3.0, [])):
        mask = ChunkMask(5, None, half_life, [resets])
        layers = [0, encoder.num_layers]
        (first, last), _ = encoder(wav.unsqueeze(0), layers=layers, chunks=mask)
        module, found = encoder.transformer.encoder, []
        states = first_states(module, 1, half_life_chunks=half_life)
        for number, chunk in enumerate(first.split(5, dim=1)):
            states = emptied_sums(states) if number in resets else states
            _, hidden, states = encoder_step(module, chunk, states)
            found.append(hidden[-1])
        torch.testing.assert_close(torch.cat(found, dim=1), last, rtol=0, atol=1e-10)


@torch.no_grad()
def test_the_masked_pass_in_a_padded_batch(make_encoder):
    encoder, lengths = make_encoder("PoM + SummaryMixing"), [40_000, 23_000, 700]
    wavs, resets = torch.stack([speech(40_000, seed) for seed in range(3)]), [[1, 4], [], [0, 2]]
    mask = ChunkMask(CHUNK, None, 2.0, resets)
    frames, num_frames = encoder(wavs, torch.tensor(lengths), chunks=mask)
    for row, length in enumerate(lengths):
        own = ChunkMask(CHUNK, None, 2.0, [resets[row]])
        assert_close(frames[row, : num_frames[row]], masked(encoder, wavs[row, :length], own))
        assert not frames[row, num_frames[row] :].any()


@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_the_masked_pass_are_those_of_the_reference(make_encoder, training):
    wavs, lengths = torch.stack([speech(20_000, seed) for seed in (0, 1)]), torch.tensor([1.0, 0.6])
    mask, several = ChunkMask(5, None, 1.5, [[2], [1, 3]]), []
    for backend in ("reference", "blocks"):
        encoder = make_encoder(f"PoM(backend={backend})", dropout=0.0).train(training)
        encoder(wavs, lengths, chunks=mask)[0].square().sum().backward()
        several.append({name: one.grad for name, one in encoder.named_parameters()})
    for name, gradient in several[0].items():
        if gradient is not None:
            scale = gradient.abs().max().clamp(min=1.0)
            torch.testing.assert_close(
                several[1][name] / scale, gradient / scale, rtol=0, atol=2e-5
            )
    assert sum(gradient is not None for gradient in several[0].values()) > 20


@pytest.mark.parametrize("moment", [0, 1, 5160, 13_000])
def test_a_fading_stream_goes_on_to_the_bit(make_encoder, tmp_path, moment):
    encoder, wav = make_encoder("PoM + SummaryMixing"), speech(20_000)
    expected = streamed(encoder.stream(CHUNK_S, half_life_s=1.1), wav)
    stream = encoder.stream(CHUNK_S, half_life_s=1.1)
    first = stream.accept(wav[:moment])
    save_file(stream.state(), tmp_path / "state")
    for options in ({}, {"half_life_s": 1.1}, {"chunk_s": CHUNK_S, "half_life_s": 1.1}):
        resumed = encoder.stream(state=load_file(tmp_path / "state"), **options)
        assert resumed.chunks == stream.chunks
        assert torch.equal(torch.cat([first, streamed(resumed, wav[moment:])]), expected)


def test_states_of_another_half_life_are_refused(make_encoder):
    encoder = make_encoder()
    streams = {None: encoder.stream(CHUNK_S), 0.64: encoder.stream(CHUNK_S, half_life_s=0.64)}
    plain, fading = (stream.state() for stream in streams.values())
    assert plain["chunks"].tolist() == [1, CHUNK, -1]  # as ever
    assert set(fading) - set(plain) == {"half_life", "layers.0.mixed.decay", "layers.1.mixed.decay"}
    with pytest.raises(
        UserError, match="all chunks before with a half-life of 2 chunks, not 8 fra"
    ):
        encoder.stream(half_life_s=0.32, state=fading)
    with pytest.raises(UserError, match=r"not 8 frames .* before with a half-life of 2 chunks"):
        encoder.stream(half_life_s=0.64, state=plain)
    with pytest.raises(UserError, match="leave chunk_s, left_s and half_life_s out"):
        encoder.stream(left_s=0.32, state=fading)
    with pytest.raises(UserError, match="with a half-life of 2 chunks, not 8 frames"):
        encoder.stream_pool(CHUNK_S).open(state=fading)
    with pytest.raises(UserError, match="the state is damaged: half_life is missing"):
        encoder.stream(state={name: one for name, one in fading.items() if name != "half_life"})


def test_the_state_has_one_size(make_encoder):
    stream = make_encoder("PoM + SummaryMixing").stream(0.04, half_life_s=0.1)
    stream.accept(speech(640 + 40))
    sizes = []
    for packet in speech(640 * 60).split(640 * 20):
        sizes.append({name: (one.shape, one.dtype) for name, one in stream.state().items()})
        stream.accept(packet)
        stream.reset()
    assert all(size == sizes[0] for size in sizes)
    assert sizes[0]["layers.0.mixed.counts"] == ((1, 1, 1), torch.float64)


@pytest.mark.parametrize("half_life_s", [None, 0.5])
def test_a_pool_gives_what_a_stream_gets_alone(make_encoder, half_life_s):
    encoder, choose = make_encoder("PoM + SummaryMixing"), random.Random(0)
    pool = encoder.stream_pool(CHUNK_S, half_life_s=half_life_s)
    wavs = {pool.open(): speech(choose.randrange(20_000, 40_000), seed) for seed in range(4)}
    found, resets, places = ({key: make() for key in wavs} for make in (list, list, int))
    while len(pool):
        for key in pool:
            if places[key] >= len(wavs[key]):
                pool.finish(key)
                continue
            packet = wavs[key][places[key] : places[key] + choose.choice([0, 1600, 8000])]
            pool.accept(key, packet)
            places[key] += len(packet)
        for key, frames in pool.step():
            found[key].append(frames)
            if key in pool and choose.random() < 0.5:
                resets[key].append(pool.reset(key))
    assert sum(map(len, resets.values())) > 5
    for key, wav in wavs.items():
        half_life = half_life_s and half_life_s / CHUNK_S
        expected = masked(encoder, wav, ChunkMask(CHUNK, None, half_life, [resets[key]]))
        assert_close(torch.cat(found[key]), expected)


def test_a_pool_ends_a_stream_chunk_by_chunk(tiny_encoder):
    """C + 1 frames may be left: sums can begin anew before the last one."""
    wav, pool = speech(EDGE + EDGE + 39), tiny_encoder.stream_pool(CHUNK_S)
    key, sizes = pool.open(), []
    pool.accept(key, wav)
    pool.finish(key)
    while pool.waiting():
        ((_, frames),) = pool.step()
        sizes.append(len(frames))
        if len(sizes) == 2:
            assert pool.reset(key) == 2
            with pytest.raises(UserError, match="stream 0 has begun its last frames: it has no st"):
                pool.state(key)
    assert sizes == [CHUNK, CHUNK, 1]
    assert_close(frames, masked(tiny_encoder, wav, ChunkMask(CHUNK, resets=[[2]]))[-1:])
    assert key not in pool


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"half_life_s": 0}, "half_life_s is 0: give seconds, more than 0"),
        ({"half_life_s": float("inf")}, "half_life_s is inf: give seconds"),
        ({"half_life_s": "60"}, "half_life_s is '60': give seconds"),
        (
            {"half_life_s": 60.0, "left_s": 1.28},
            "half_life_s is 60 and left_s 1.28: both limit the past, give one of them",
        ),
    ],
)
def test_half_lives_that_cannot_be(tiny_encoder, options, message):
    for make in (tiny_encoder.stream, tiny_encoder.stream_pool):
        with pytest.raises(UserError, match=f"^{message}"):
            make(**options)


@pytest.mark.parametrize("spec", ["Mamba(bidirectional=False)", "PoM + Mamba(bidirectional=False)"])
def test_mixers_without_sums_do_not_fade(make_encoder, spec):
    encoder = make_encoder(spec)
    message = "^Mamba has no sums over time, which alone fade or begin anew: leave half-life and"
    with pytest.raises(UserError, match=message):
        encoder.stream(half_life_s=60.0)
    with pytest.raises(UserError, match=message):
        encoder.stream().reset()
    with pytest.raises(UserError, match=message):
        first_states(encoder.transformer.encoder, 1, half_life_chunks=3.0)
    ring = make_encoder("RoPEMHA + PoM")
    with pytest.raises(UserError, match="RoPEMHA has no sums over time"):
        ring.stream(0.32, 0.32).reset()
    with pytest.raises(UserError, match="RoPEMHA keeps the frames that it attends to"):
        ring.stream(half_life_s=60.0)
