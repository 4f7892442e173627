"""Recognised streams whose past fades, or ends with a segment: those of the masked pass."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.ops import ChunkMask
from speechbrain_pom.utils.errors import UserError
from tests.helpers.sounds import sound
from tests.unit.inference.streaming.test_stream import (
    CHUNK,
    OPTIONS,
    finals,
    of_the_masked_pass,
    recognised,
)

RESETS = {**OPTIONS, "reset_at_pauses": True}
FADING = {**OPTIONS, "half_life_s": 0.5}


def words_of(segments):
    return [word.text for segment in segments for word in segment.words]


def resets_of(stream, wav):
    """The events of a stream, and the chunks with which its sums began anew."""
    events, resets = [], set()
    for packet in wav.split(5120):  # a chunk: two pauses cannot be in it
        events += stream.accept(packet)
        resets |= {stream.frames.last_reset} - {None}
    events += stream.finish()
    return events, sorted(resets | {stream.frames.last_reset} - {None})


def test_sums_that_begin_anew_at_pauses_are_those_of_the_masked_pass(recogniser):
    wav = sound(200_000, seed=1)
    stream = recogniser.stream(**RESETS)
    events, resets = resets_of(stream, wav)
    assert 3 < len(resets) < 30
    mask = ChunkMask(CHUNK, resets=[resets])
    expected = of_the_masked_pass(recogniser, wav, chunks=mask)
    assert words_of(finals(events)) == words_of(expected)
    plain = of_the_masked_pass(recogniser, wav)
    assert words_of(expected) != words_of(plain)  # and it does something
    for found, wanted in zip(finals(events), expected, strict=False):
        assert found.confidence == pytest.approx(wanted.confidence, abs=1e-4)


def test_sums_that_fade_are_those_of_the_masked_pass(recogniser):
    wav, stream = sound(100_000, seed=2), recogniser.stream(**FADING)
    events = recognised(stream, wav)
    expected = of_the_masked_pass(recogniser, wav, chunks=stream.frames.chunks)
    assert words_of(finals(events)) == words_of(expected)
    plain = of_the_masked_pass(recogniser, wav)
    for found, wanted, other in zip(finals(events), expected, plain, strict=True):
        assert found.confidence == pytest.approx(wanted.confidence, abs=1e-4)
        assert found.confidence != pytest.approx(other.confidence, abs=1e-4)


@pytest.mark.parametrize("options", [RESETS, {**FADING, **RESETS}], ids=["resets", "both"])
def test_events_do_not_depend_on_the_packets(recogniser, options):
    wav = sound(80_000)
    expected = recognised(recogniser.stream(**options), wav)
    assert expected != recognised(recogniser.stream(**OPTIONS), wav)
    for packets in [(80_000,), (37, 4001), (0, 16_000)]:
        assert recognised(recogniser.stream(**options), wav, packets) == expected


@pytest.mark.parametrize("moment", [5160, 23_456, 41_000])
@pytest.mark.parametrize("options", [RESETS, FADING], ids=["resets", "fading"])
def test_a_stream_goes_on_from_its_state(recogniser, tmp_path, options, moment):
    wav = sound(60_000)
    expected = recognised(recogniser.stream(**options), wav)
    stream = recogniser.stream(**options)
    events = stream.accept(wav[:moment])
    save_file(stream.state(), tmp_path / "state")
    other = recogniser.stream(state=load_file(tmp_path / "state"))
    assert events + recognised(other, wav[moment:]) == expected


def test_committed_words_go_on_from_a_state(recogniser):
    decode, wav = make_beam_searcher(recogniser.units, beam_size=4), sound(50_000)
    options = {**OPTIONS, "decode": decode, "commit_s": 0.2}
    expected = recognised(recogniser.stream(**options), wav)
    stream = recogniser.stream(**options)
    events = stream.accept(wav[:23_456])
    state = stream.state()
    for again in ({}, {"commit_s": 0.2}):
        other = recogniser.stream(state=state, decode=decode, **again)
        assert events + recognised(other, wav[23_456:]) == expected
    with pytest.raises(UserError, match=r"commit_s is 0\.4, and the state is of a stream with 0"):
        recogniser.stream(state=state, decode=decode, commit_s=0.4)
    with pytest.raises(UserError, match="commit_s is for beam search, and this decoding has no"):
        recogniser.stream(state=state)


def test_streams_of_a_pool_begin_anew_as_alone(recogniser):
    pool = recogniser.stream_pool(**RESETS)
    wavs = {pool.open(): sound(60_000 + 7000 * seed, seed) for seed in range(3)}
    events = {key: [] for key in wavs}
    for start in range(0, 80_000, 9000):
        for key, wav in wavs.items():
            pool.accept(key, wav[start : start + 9000])
        for key, event in pool.step():
            events[key].append(event)
    moved = recogniser.stream(state=pool.state(2))
    for key in wavs:
        pool.finish(key)
    while pool.waiting():
        for key, event in pool.step():
            events[key].append(event)
    for key, wav in wavs.items():
        alone = recognised(recogniser.stream(**RESETS), wav)
        assert [one.text for one in finals(events[key])] == [one.text for one in finals(alone)]
        assert finals(alone) != finals(recognised(recogniser.stream(**OPTIONS), wav))
    with pytest.raises(UserError, match="reset_at_pauses is True, and the state is of a stream"):
        pool.open(state=recogniser.stream(**OPTIONS).state())
    assert recogniser.stream_pool(**OPTIONS).open(state=moved.state()) == 0


def test_states_without_the_options_are_as_ever(recogniser):
    states = [recogniser.stream(**one).state() for one in (OPTIONS, RESETS)]
    assert [state["text.options"].tolist() for state in states] == [[5, 50], [5, 50, 0, 1]]
    assert states[0].keys() == states[1].keys()
    message = "reset_at_pauses is False, and the state is of a stream with True: leave it out to go"
    with pytest.raises(UserError, match=message):
        recogniser.stream(state=states[1], reset_at_pauses=False)
    message = r"commit_s is 2, and the state is of a stream with none: leave it out to go on"
    with pytest.raises(UserError, match=message):
        recogniser.stream(state=states[0], commit_s=2.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"commit_s": 1.0}, "commit_s is for beam search, and this decoding has no hypotheses"),
        ({"commit_s": 1.0, "decode": lambda *_: [""]}, "commit_s is for beam search"),
        ({"commit_s": 0}, "commit_s is 0: give seconds, more than 0"),
        ({"reset_at_pauses": "yes"}, "reset_at_pauses is 'yes': give True or False"),
        ({"half_life_s": -1}, "half_life_s is -1: give seconds"),
    ],
)
def test_options_that_cannot_be(recogniser, options, message):
    for make in (recogniser.stream, recogniser.stream_pool):
        with pytest.raises(UserError, match=message):
            make(**options)


def test_attention_has_no_sums_to_begin_anew(recogniser, make_encoder):
    recogniser.encoder = make_encoder("RoPEMHA + PoM")
    for make in (recogniser.stream, recogniser.stream_pool):
        with pytest.raises(UserError, match="RoPEMHA has no sums over time"):
            make(0.32, 0.64, reset_at_pauses=True)
    assert torch.is_tensor(recogniser.stream(0.32, 0.64).state()["counts"])
