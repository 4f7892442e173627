"""Streams that join, wait and leave: each gets what it would get alone."""

import random

import pytest
import torch

from speechbrain_pom.utils.errors import UserError
from tests.unit.encoder.streaming.test_stream import assert_close, speech, streamed


@pytest.mark.parametrize(
    "spec", ["PoM", "SummaryMixing + RelPosMHAXL", "Mamba(bidirectional=False)"]
)
def test_each_stream_gets_what_it_gets_alone(make_encoder, spec):
    encoder, choose = make_encoder(spec), random.Random(0)
    left_s = None if "Mamba" in spec else 0.64
    pool = encoder.stream_pool(0.32, left_s)
    wavs = [speech(choose.randrange(1, 30_000), seed) for seed in range(9)]
    found, places, keys = {}, {}, {}
    while len(keys) < len(wavs) or len(pool):
        if len(keys) < len(wavs) and choose.random() < 0.4:  # one joins
            number = len(keys)
            keys[pool.open()], places[number], found[number] = number, 0, []
        for key in pool:
            number = keys[key]
            if places[number] >= len(wavs[number]):
                pool.finish(key)
            elif choose.random() < 0.7:  # the others wait
                size = choose.choice([0, 100, 1600, 8000])
                pool.accept(key, wavs[number][places[number] : places[number] + size])
                places[number] += size
        for key, frames in pool.step():
            found[keys[key]].append(frames)
    for number, wav in enumerate(wavs):
        assert_close(torch.cat(found[number]), streamed(encoder.stream(0.32, left_s), wav))


def test_streams_move_between_pools_and_streams(tiny_encoder):
    wav, pool = speech(20_000), tiny_encoder.stream_pool(0.32, layers=[0, 2])
    key, other = pool.open(), pool.open()
    pool.accept(key, wav[:9000])
    pool.accept(other, wav[3000:9000])
    (_, frames), (_, others) = pool.step()
    assert len(frames) == 2
    assert not torch.equal(frames[0], others[0])
    for tensor in pool.state(key).values():  # none of the others' in it
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    stream = tiny_encoder.stream(state=pool.state(key), layers=[0, 2])
    back = tiny_encoder.stream_pool(0.32, layers=[0, 2])
    assert back.open(state=stream.state()) == 0
    back.accept(0, wav[9000:])
    back.finish(0)
    rest, steps = [], back.step()
    while steps:
        rest += [frames[1] for _, frames in steps]
        steps = back.step()
    expected = streamed(tiny_encoder.stream(0.32, layers=2), wav)
    assert_close(torch.cat([frames[1], *rest]), expected)
    assert 0 not in back
    assert len(back) == 0


def test_a_packet_that_cannot_be_is_one_streams_own_matter(tiny_encoder):
    pool, wav = tiny_encoder.stream_pool(0.32), speech(12_000)
    good, bad = pool.open(), pool.open()
    for packet in wav.split(3000):
        pool.accept(good, packet)
        with pytest.raises(UserError, match="samples that are NaN or beyond"):
            pool.accept(bad, packet * torch.nan)
    pool.drop(bad)
    pool.finish(good)
    found, steps = [], pool.step()
    while steps:
        found += [frames for _, frames in steps]
        steps = pool.step()
    assert_close(torch.cat(found), streamed(tiny_encoder.stream(0.32), wav))
    with pytest.raises(UserError, match=r"the pool has no stream 1: it has \[\]"):
        pool.accept(bad, wav)


def test_a_stream_whose_end_fails_leaves(tiny_encoder, monkeypatch):
    pool = tiny_encoder.stream_pool(0.32)
    key, other = pool.open(), pool.open()
    pool.accept(key, speech(7000))
    pool.accept(other, speech(9000))
    pool.step()
    pool.finish(key)

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(tiny_encoder.transformer.encoder.norm, "forward", fail)
        with pytest.raises(MemoryError):
            pool.step()
    assert pool.step() == []
    assert list(pool) == [other]
    assert not pool.waiting()


def test_a_finished_stream_accepts_nothing(tiny_encoder):
    pool = tiny_encoder.stream_pool()
    key = pool.open()
    pool.accept(key, speech(12_000))
    pool.finish(key)
    with pytest.raises(UserError, match="stream 0 is finished: it accepts no more samples"):
        pool.accept(key, speech(10))
    assert sum(len(frames) for _, frames in pool.step() + pool.step()) == 19
    assert key not in pool
