"""Words that are committed by their age, and what else a decoder tells of long streams."""

import random

import pytest
import torch

from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.inference.streaming import Final, Partial
from speechbrain_pom.inference.streaming.decoder import EventDecoder
from tests.unit.inference.streaming.test_decoder import (
    CLOCK,
    DURATION_S,
    LONGEST,
    PAUSE,
    UNITS,
    assert_only_grows,
    conversation,
    events_of,
    lm_searcher,  # noqa: F401
    outputs_of,
    searcher,  # noqa: F401
    spoken,
    words_of,
)

COMMIT = 8  # frames


class ChangesItsMind:
    """A language model that finds out what the first word was when it has heard the third."""

    order = 3

    def get_start_state(self):
        return ()

    def score(self, state, word, is_last_word=False):
        words = (*state, word)
        return 4.0 if words == ("AE", "LOL", "EEL") else 0.0, words[-2:]

    def score_partial_token(self, word):
        return 0.0


def doubtful_outputs():
    """AB LOL EEL A LOL, where B is as good as E."""
    labels = [label for label in UNITS.encode("AB LOL EEL A LOL ") for label in (label, 0)]
    best = torch.nn.functional.one_hot(torch.tensor(labels), UNITS.size).float()
    outputs = 0.97 * best + 0.03 / UNITS.size
    outputs[2] = 1e-4
    outputs[2, UNITS.encode("B")[0]], outputs[2, UNITS.encode("E")[0]] = 0.52, 0.47
    return outputs.log()


def flipping(commit_frames, chunk=4):
    decode = make_beam_searcher(UNITS, beam_size=12)
    decode.searcher.lm = ChangesItsMind()
    decoder = EventDecoder(UNITS, CLOCK, 20, 200, decode, commit_frames)
    return events_of(doubtful_outputs(), decoder=decoder, chunk=chunk)


def test_a_hypothesis_that_flips_is_dropped_when_its_words_are_old():
    late, early = flipping(None), flipping(COMMIT)
    assert [events[-1][-1].text for events in (late, early)] == [
        "AE LOL EEL A LOL",
        "AB LOL EEL A LOL",
    ]
    assert_only_grows(late)
    assert assert_only_grows(early) == ["AB", "LOL", "EEL", "A", "LOL"]
    moments = []
    for events in (late, early):
        stable = [one[-1].stable if one and type(one[-1]) is Partial else "" for one in events]
        moments.append(next(place for place, text in enumerate(stable) if text))
    assert moments[1] == (3 + COMMIT - 1) // 4  # AB has ended before frame 3
    assert moments[0] > moments[1] + 2


@pytest.mark.parametrize("chunk", [1, 3, 50])
def test_what_is_committed_does_not_depend_on_the_chunks(chunk):
    finals = [one[-1].text for one in (flipping(COMMIT, chunk)[-1], flipping(COMMIT)[-1])]
    assert finals[0] == finals[1] == "AB LOL EEL A LOL"


@pytest.mark.parametrize("commit_frames", [1, 6, 25])
@pytest.mark.parametrize("seed", range(2))
def test_stable_words_only_become_more(searcher, seed, commit_frames):  # noqa: F811
    labels = conversation(seed, num_words=30, letters="ABEELO'")
    outputs = outputs_of(labels, sharpness=3.0, seed=seed)
    decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, searcher, commit_frames)
    events = events_of(outputs, decoder=decoder)
    finals = [event for several in events for event in several if isinstance(event, Final)]
    assert len(finals) > 3
    assert assert_only_grows(events) == words_of(finals)


def test_no_word_is_ever_that_old(searcher):  # noqa: F811
    """Then all is as without the option, to the bit."""
    labels = conversation(1, num_words=20, letters="ABEELO'")
    outputs = outputs_of(labels, sharpness=3.0)
    decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, searcher, 10**6)
    assert events_of(outputs, decoder=decoder) == events_of(outputs, searcher)


def test_words_committed_before_a_forced_cut_stay(searcher):  # noqa: F811
    for seed in range(3):
        choose, labels = random.Random(seed), []
        for _ in range(30):
            word = "".join(choose.choice("ABELO") for _ in range(choose.randrange(1, 5)))
            labels += [*spoken(word, choose), 1, *[0] * choose.randrange(3)]
        outputs = outputs_of(labels, sharpness=2.5, seed=seed)
        decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, searcher, 3)
        events = events_of(outputs, decoder=decoder)
        finals = [event for several in events for event in several if isinstance(event, Final)]
        assert len(finals) > 3
        assert assert_only_grows(events) == words_of(finals)


def wishes(labels, longest, resets=True, chunk=16):
    """For each chunk: whether it has a final, and whether the sums shall begin anew."""
    decoder = EventDecoder(UNITS, CLOCK, PAUSE, longest, resets=resets)
    found = []
    for part in outputs_of(labels).split(chunk):
        events = decoder.add(part, DURATION_S)
        found.append((any(isinstance(one, Final) for one in events), decoder.wants_reset))
    return found


@pytest.mark.parametrize("chunk", [1, 16])
@pytest.mark.parametrize("seed", range(3))
def test_sums_begin_anew_after_the_finals_of_pauses(seed, chunk):
    labels = conversation(seed)
    found = wishes(labels, 10**4, chunk=chunk)
    assert sum(is_final for is_final, _ in found) > 5
    assert all(is_final == wish for is_final, wish in found)
    assert not any(wish for _, wish in wishes(labels, 10**4, resets=False, chunk=chunk))


def test_sums_go_on_where_a_segment_is_cut_by_its_length():
    choose, labels = random.Random(0), []
    for _ in range(40):
        labels += [*spoken("ABELO", choose), 1]
    found = wishes(labels, LONGEST)
    assert sum(is_final for is_final, _ in found) > 3
    assert not any(wish for _, wish in found)
