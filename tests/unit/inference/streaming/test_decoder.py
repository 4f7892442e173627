"""Events of outputs that arrive: texts of the whole, words that only become more."""

import random

import pytest
import torch

from speechbrain_pom.ctc.decoding import greedy_decode, make_beam_searcher
from speechbrain_pom.ctc.tokenizers import CharacterUnits, SentencePieceUnits
from speechbrain_pom.inference.pauses import split_at_pauses
from speechbrain_pom.inference.segments import Clock, decode_segment
from speechbrain_pom.inference.streaming import Final, Partial
from speechbrain_pom.inference.streaming.decoder import EventDecoder
from speechbrain_pom.utils.errors import UserError

UNITS = CharacterUnits()
CLOCK = Clock(0.04, 0.005, 0.0)
PAUSE, LONGEST = 5, 60
DURATION_S = 1e6
DOUBT = 28


def spoken(text, choose, pause=0):
    """Labels of a text with repeated labels and short gaps, and then a pause."""
    labels = []
    for label in UNITS.encode(text):
        gap = max(choose.randrange(3), labels[-1:] == [label])
        labels += [0] * gap + [label] * choose.choice([1, 1, 2])
    return labels + [0] * pause


def outputs_of(labels, sharpness=9.0, seed=0):
    """Log-probabilities whose best outputs are these labels, with some doubt of letters."""
    noise = torch.rand(len(labels), UNITS.size, generator=torch.Generator().manual_seed(seed))
    best = torch.nn.functional.one_hot(torch.tensor(labels, dtype=torch.int64), UNITS.size)
    sure = torch.tensor([[9.0 if label == 0 else sharpness] for label in labels])
    outputs = (sure * best + 2 * noise).log_softmax(-1)
    doubtful = torch.full((UNITS.size,), 1e-4)
    doubtful[0], doubtful[6] = 0.55, 0.44  # twice in a row it is rather an E than nothing
    outputs[torch.tensor(labels) == DOUBT] = doubtful.log()
    return outputs


def conversation(seed, num_words=60, letters="ABEELO"):
    """Words with pauses of all lengths between them, some of them without a space."""
    choose, labels = random.Random(seed), []
    for _ in range(num_words):
        word = "".join(choose.choice(letters) for _ in range(choose.randrange(1, 6)))
        space = choose.choice(["", " ", " ", " "])
        labels += spoken(word, choose)
        labels += [1] if space else []
        labels += [0] * choose.choice([1, 1, 2, 4, 6, 9, 11, 14, 40, 150])
    return labels


def events_of(outputs, decode=None, chunk=16, decoder=None, finish=True):
    decoder = decoder or EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, decode)
    events = []
    for part in outputs.split(chunk):
        events.append(decoder.add(part, DURATION_S))
    if finish:
        events.append(decoder.finish(DURATION_S))
    return events


def of_the_whole(outputs, decode=None):
    """Segments as `transcribe` finds them."""
    decode = decode or (lambda *given: greedy_decode(*given, UNITS))
    spans = split_at_pauses(outputs.argmax(-1), UNITS, PAUSE, LONGEST)
    clock = CLOCK.lasting(DURATION_S)
    found = [decode_segment(outputs[a:b], a, decode, UNITS, clock) for a, b in spans]
    return [segment for segment in found if segment is not None]


def words_of(segments):
    return [word.text for segment in segments for word in segment.words]


def assert_only_grows(events):
    """All finals so far and the stable words: a prefix of what is said next."""
    said, finals, stable, last = [], [], [], None
    for several in events:
        for event in several:
            assert event.text
            assert event != last
            last, is_final = event, isinstance(event, Final)
            finals += event.text.split() if is_final else []
            stable = [] if is_final else event.stable.split()
        now = finals + stable
        assert now[: len(said)] == said
        said = now
    return said


@pytest.mark.parametrize("chunk", [1, 7, 16])
@pytest.mark.parametrize("seed", range(6))
def test_greedy_texts_are_those_of_the_whole(seed, chunk):
    labels = conversation(seed)
    outputs = outputs_of(labels)
    assert outputs.argmax(-1).tolist() == labels
    events = events_of(outputs, chunk=chunk)
    finals = [event for several in events for event in several if isinstance(event, Final)]
    expected = of_the_whole(outputs)
    assert len(expected) > 5
    assert words_of(finals) == words_of(expected)
    assert assert_only_grows(events) == words_of(expected)
    assert [event.segment for event in finals] == list(range(len(finals)))
    for found, wanted in zip(
        (word for final in finals for word in final.words),
        (word for segment in expected for word in segment.words),
        strict=True,
    ):
        assert found.start_s == pytest.approx(wanted.start_s, abs=1e-6)
        assert found.end_s == pytest.approx(wanted.end_s, abs=1e-6)
        assert found.confidence == pytest.approx(wanted.confidence, abs=1e-6)


def test_a_final_comes_before_the_next_label():
    choose = random.Random(0)
    word = outputs_of([0, *spoken("HELLO", choose)])
    decoder, blank = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST), outputs_of([0])
    events_of(word, decoder=decoder, finish=False)
    for count in range(1, 2 * PAUSE + 3):
        (event,) = decoder.add(blank, 9.0) or [None]
        assert isinstance(event, Final) == (count == 2 * PAUSE)
    events_of(word, decoder=decoder, finish=False)
    decoder.add(outputs_of([1]), 9.0)  # a space: the word is over
    for count in range(1, PAUSE + 3):
        (event,) = decoder.add(blank, 9.0) or [None]
        assert isinstance(event, Final) == (count == PAUSE)
    assert decoder.finish(9.0) == []


def test_partials():
    outputs = outputs_of([9, 0, 10, 1, 21, 0, 9, 0, 6, 1, 1, 0])
    found = [event for (event,) in filter(None, events_of(outputs, chunk=2, finish=False))]
    assert [(event.stable, event.tail) for event in found] == [
        ("", "H"),
        ("HI", ""),
        ("HI", "T"),
        ("HI", "TH"),
        ("HI THE", ""),
    ]
    assert found[-1].text.startswith("HI THE")
    assert (found[0].start_s, found[0].end_s) == (0.0, pytest.approx(0.035))
    assert found[-1].end_s <= 0.04 * len(outputs)
    assert all(event.segment == 0 for event in found)


def test_a_doubled_letter_over_chunk_and_segment_borders():
    """The same label in neighbouring frames is one letter, with a blank between them two."""
    for labels, text in (
        ([2, 13, 13, 13, 16], "ALO"),
        ([2, 13, 0, 13, 16], "ALLO"),
        ([2, 0, 0, 13, 13, 0, 0, 0, 13], "ALL"),
    ):
        for chunk in range(1, len(labels) + 1):
            *_, (final,) = events_of(outputs_of(labels), chunk=chunk)
            assert final.text == text


def test_silence_and_nothing():
    assert events_of(outputs_of([0] * 40), chunk=16) == [[], [], [], []]
    decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST)
    assert decoder.finish(0.0) == []
    events = events_of(outputs_of([0] * 3000 + [9, 10] + [0] * 3000 + [2]), chunk=50)
    assert [event.text for several in events for event in several if type(event) is Final] == [
        "HI",
        "A",
    ]


def test_long_silence_takes_constant_memory():
    decoder, silence = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST), outputs_of([0] * 16)
    sizes = set()
    decoder.add(outputs_of([9, 10]), 1.0)
    for count in range(60):
        decoder.add(silence, 1.0)
        if count > 2 * LONGEST // 16 + 1:
            sizes.add(decoder.state()["text.outputs"].shape)
    assert sizes == {(2 * LONGEST, UNITS.size)}


@pytest.fixture(scope="module")
def lm_searcher(tmp_path_factory):
    pytest.importorskip("kenlm")
    words = ["AB", "BE", "LOL", "EEL", "A", "OLE"]
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", "ngram 2=2", "", "\\1-grams:"]
    lines += ["-1.0\t<unk>\t0", "-1.0\t<s>\t-0.3", "-1.2\t</s>"]
    lines += [f"-{1 + 0.1 * place:.1f}\t{word}\t-0.2" for place, word in enumerate(words)]
    lines += ["", "\\2-grams:", "-0.2\tAB BE", "-0.3\t<s> LOL", "", "\\end\\", ""]
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    path.write_text("\n".join(lines))
    return make_beam_searcher(UNITS, beam_size=12, kenlm_model_path=str(path))


@pytest.fixture(params=["beam", "kenlm"])
def searcher(request):
    if request.param == "kenlm":
        return request.getfixturevalue("lm_searcher")
    return make_beam_searcher(UNITS, beam_size=12)


@pytest.mark.parametrize("seed", range(3))
def test_beam_search_piece_by_piece_is_that_of_the_whole(searcher, seed):
    labels = conversation(seed, num_words=40, letters="ABEELO'")
    outputs = outputs_of(labels, sharpness=3.0, seed=seed)
    expected = of_the_whole(outputs, searcher)
    assert words_of(expected) != words_of(of_the_whole(outputs))  # the doubt makes a difference
    events = events_of(outputs, searcher)
    finals = [event for several in events for event in several if isinstance(event, Final)]
    assert words_of(finals) == words_of(expected)
    assert assert_only_grows(events) == words_of(finals)
    stable = [event.stable for several in events for event in several if type(event) is Partial]
    assert any(stable)  # words are stable before their segment is over


def test_words_told_before_a_forced_cut_stay(searcher):
    """No pause for long: the cut is found when more has been told than comes before it."""
    for seed in range(4):
        choose, labels = random.Random(seed), []
        for _ in range(40):
            word = "".join(choose.choice("ABELO") for _ in range(choose.randrange(1, 5)))
            labels += [*spoken(word, choose), 1, *[0] * choose.randrange(3)]
        outputs = outputs_of(labels, sharpness=2.5, seed=seed)
        events = events_of(outputs, searcher)
        finals = [event for several in events for event in several if isinstance(event, Final)]
        assert len(finals) > 3
        assert all(event.end_s - event.start_s < 0.04 * LONGEST for event in finals)
        assert assert_only_grows(events) == words_of(finals)


def test_another_way_of_decoding():
    def decode(log_probs, lengths):
        return [text.replace("HI", "HELLO") for text in greedy_decode(log_probs, lengths, UNITS)]

    events = events_of(outputs_of([9, 10, 0, 0, 0, 0]), decode, chunk=2)
    assert [(event.stable, event.tail) for event in events[0]] == [("", "HI")]
    assert [event.text for event in events[-1]] == ["HELLO"]


@pytest.mark.parametrize("name", ["greedy", "beam", "beam, commit"])
def test_a_decoder_goes_on_from_a_state(name):
    decode = None if name == "greedy" else make_beam_searcher(UNITS, beam_size=12)
    decode = (decode, 6) if "commit" in name else (decode,)
    outputs = outputs_of(conversation(5, 25, letters="ABEELO'"), sharpness=3.0)
    first = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, *decode)
    expected = events_of(outputs, decoder=first)
    for moment in range(0, len(outputs), 112):
        decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, *decode)
        events = events_of(outputs[:moment], decoder=decoder, finish=False) if moment else []
        other = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST, *decode)
        other.resume(decoder.state())
        events += events_of(outputs[moment:], decoder=other)
        flat = [[event for several in one for event in several] for one in (events, expected)]
        assert flat[0] == flat[1]
    with pytest.raises(UserError, match="not one of a recognised stream"):
        other.resume({})


def test_pieces_of_words():
    texts = ["HELLO WORLD", "HOLD THE WORD", "OLD HELLO THE WORLD"] * 4
    units = SentencePieceUnits.train(texts, 20)
    labels = []
    for label in units.encode("HELLO OLD WORLD"):
        labels += [label, 0]
    best = torch.nn.functional.one_hot(torch.tensor(labels), units.size)
    decoder = EventDecoder(units, CLOCK, PAUSE, LONGEST)
    events = [
        event for part in (9.0 * best).log_softmax(-1).split(1) for event in decoder.add(part, 9.0)
    ]
    assert events[-1].stable == "HELLO OLD"
    assert "WORLD".startswith(events[-1].tail)
    (final,) = decoder.finish(9.0)
    assert final.text == "HELLO OLD WORLD"


def test_outputs_that_are_nan():
    decoder = EventDecoder(UNITS, CLOCK, PAUSE, LONGEST)
    with pytest.raises(UserError, match="the outputs to decode are NaN"):
        decoder.add(torch.full((3, UNITS.size), torch.nan), 1.0)
