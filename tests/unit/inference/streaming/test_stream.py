"""Recognised streams: the texts of the masked pass, whatever the packets, alone or in a pool."""

import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from speechbrain_pom.ctc.decoding import greedy_decode, make_beam_searcher
from speechbrain_pom.inference.pauses import split_at_pauses
from speechbrain_pom.inference.segments import Clock, decode_segment
from speechbrain_pom.inference.streaming import Final, Partial
from speechbrain_pom.inference.streaming.events import event_record
from speechbrain_pom.utils.errors import UserError
from tests.helpers.sounds import sound

CHUNK_S, CHUNK = 0.32, 8
PAUSE_S, PAUSE = 0.2, 5
LONGEST_S, LONGEST = 2.0, 50
OPTIONS = {"chunk_s": CHUNK_S, "pause_s": PAUSE_S, "max_segment_s": LONGEST_S}


def recognised(stream, wav, packets=(1600,)):
    events, start, turn = [], 0, 0
    while start < len(wav):
        stop = start + packets[turn % len(packets)]
        events += stream.accept(wav[start:stop])
        start, turn = stop, turn + 1
    return events + stream.finish()


def finals(events):
    return [event for event in events if isinstance(event, Final)]


def of_the_masked_pass(recogniser, wav, decode=None, chunks=(CHUNK, None)):
    with torch.no_grad():
        outputs = recogniser(wav.unsqueeze(0), chunks=chunks)[0][0]
    decode = decode or (lambda *given: greedy_decode(*given, recogniser.units))
    spans = split_at_pauses(outputs.argmax(-1), recogniser.units, PAUSE, LONGEST)
    clock = Clock(0.04, 0.005, len(wav) / 16000)
    found = [decode_segment(outputs[a:b], a, decode, recogniser.units, clock) for a, b in spans]
    return [segment for segment in found if segment is not None]


@pytest.mark.parametrize("how", ["greedy", "beam"])
def test_texts_are_those_of_the_masked_pass(recogniser, how):
    decode = None if how == "greedy" else make_beam_searcher(recogniser.units, beam_size=8)
    wav = sound(200_000, seed=1)
    expected = of_the_masked_pass(recogniser, wav, decode)
    found = finals(recognised(recogniser.stream(**OPTIONS, decode=decode), wav))
    words = [[word.text for one in several for word in one.words] for several in (found, expected)]
    assert len(words[1]) > 5
    if how == "greedy":
        assert words[0] == words[1]
    else:  # silence of such a model is not as sure as to be worth nothing in a search
        same = sum(a == b for a, b in zip(*words, strict=False))
        assert same > 0.6 * len(words[1])


def test_events_do_not_depend_on_the_packets(recogniser):
    wav = sound(50_000)
    expected = recognised(recogniser.stream(**OPTIONS), wav)
    assert {type(event) for event in expected} == {Partial, Final}
    for packets in [(50_000,), (37, 4001), (0, 16_000)]:
        assert recognised(recogniser.stream(**OPTIONS), wav, packets) == expected


def test_pcm_is_taken_and_what_is_not_audio_changes_nothing(recogniser):
    pcm = (sound(30_000) * 32768).clamp(-32768, 32767).to(torch.int16)
    expected = recognised(recogniser.stream(**OPTIONS), pcm.float() / 32768)
    stream = recogniser.stream(**OPTIONS)
    events = stream.accept(pcm[:20_000])
    with pytest.raises(UserError, match="nothing of it was taken"):
        stream.accept(torch.tensor([torch.inf]))
    assert events + stream.accept(pcm[20_000:].numpy()) + stream.finish() == expected
    assert stream.duration_s == 30_000 / 16_000


@pytest.mark.parametrize("moment", [0, 5160, 23_456, 48_000])
def test_a_stream_goes_on_from_its_state(recogniser, tmp_path, moment):
    wav = sound(60_000)
    expected = recognised(recogniser.stream(**OPTIONS), wav)
    stream = recogniser.stream(**OPTIONS)
    events = stream.accept(wav[:moment])
    save_file(stream.state(), tmp_path / "state")
    other = recogniser.stream(state=load_file(tmp_path / "state"))
    assert events + recognised(other, wav[moment:]) == expected


def test_states_of_anything_else_are_refused(recogniser):
    stream = recogniser.stream(**OPTIONS)
    stream.accept(sound(20_000))
    state = stream.state()
    with pytest.raises(UserError, match="not one of a recognised stream"):
        recogniser.stream(state=recogniser.encoder.stream(CHUNK_S).state())
    with pytest.raises(UserError, match=r"pause_s is 0\.6, and the state is of a stream with 0"):
        recogniser.stream(state=state, pause_s=0.6)
    with pytest.raises(UserError, match="max_segment_s is 9, and the state is of a stream with 2"):
        recogniser.stream(state=state, max_segment_s=9)
    recogniser.encoder.stream(state=state)  # the encoder's part goes on by itself
    with torch.no_grad():
        recogniser.head.bias[3] += 1
    with pytest.raises(UserError, match="of another model: its head or its units are others"):
        recogniser.stream(state=state)


@pytest.mark.parametrize("name", ["pause_s", "max_segment_s"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "0.6"])
def test_lengths_that_cannot_be(recogniser, name, value):
    with pytest.raises(UserError, match=f"{name} is .*: give seconds, more than 0"):
        recogniser.stream(**{name: value})
    with pytest.raises(UserError, match=f"{name} is .*: give seconds, more than 0"):
        recogniser.stream_pool(**{name: value})


def test_a_finished_stream(recogniser):
    stream = recogniser.stream()
    stream.finish()
    for call in (lambda: stream.accept(torch.zeros(1)), stream.finish, stream.state):
        with pytest.raises(UserError, match="the stream is finished and"):
            call()


def test_a_model_that_has_diverged(recogniser):
    with torch.no_grad():
        recogniser.head.bias[3] = torch.nan
    with pytest.raises(UserError, match="the outputs to decode are NaN"):
        recogniser.stream(**OPTIONS).accept(sound(20_000))


def test_streams_of_a_pool_say_what_they_say_alone(recogniser):
    choose, pool = random.Random(0), recogniser.stream_pool(**OPTIONS)
    wavs = {pool.open(): sound(choose.randrange(30_000, 60_000), seed) for seed in range(5)}
    places, events = dict.fromkeys(wavs, 0), {key: [] for key in wavs}
    moved = None
    while len(pool):
        for key in pool:
            step = choose.choice([0, 1600, 9000])
            pool.accept(key, wavs[key][places[key] : places[key] + step])
            places[key] += step
            if places[key] >= len(wavs[key]):
                pool.finish(key)
        while pool.waiting():
            for key, event in pool.step():
                events[key].append(event)
        if moved is None and 2 in pool and places[2] > 20_000:  # one goes on elsewhere
            moved = recogniser.stream(state=pool.state(2))
            pool.drop(2)
            events[2] += recognised(moved, wavs[2][places[2] :])
    assert moved is not None
    for key, wav in wavs.items():
        alone = recognised(recogniser.stream(**OPTIONS), wav)
        texts = [[event.text for event in finals(one)] for one in (events[key], alone)]
        assert texts[0] == texts[1]
        assert texts[0]


def test_events_as_records(recogniser):
    stream, wav = recogniser.stream(**OPTIONS), sound(50_000)
    for event in recognised(stream, wav):
        record = event_record(event, stream.duration_s)
        assert record["type"] == type(event).__name__.lower()
        assert record["audio_s"] == 3.125
        assert record["start_s"] <= record["end_s"]
        assert ("words" in record) == isinstance(event, Final)
        if isinstance(event, Final):
            assert record["stable"] == event.text == " ".join(w["text"] for w in record["words"])
            assert record["tail"] == ""
        else:
            assert f"{record['stable']} {record['tail']}".strip() == event.text


def test_arrays(recogniser):
    wav = sound(20_000)
    expected = recognised(recogniser.stream(**OPTIONS), wav)
    assert recognised(recogniser.stream(**OPTIONS), np.asarray(wav)) == expected
