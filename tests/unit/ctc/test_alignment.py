"""Times and confidences of words."""

import itertools
import math

import pytest
import torch

from speechbrain_pom.ctc.alignment import align_words, frames_needed
from speechbrain_pom.ctc.decoding import greedy_decode
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits
from speechbrain_pom.utils.errors import UserError

FRAME_S = 0.04
TEXTS = ["THE CAT SAT ON THE MAT", "A DOG SAT THERE"]


@pytest.fixture
def pieces(tmp_path):
    return make_units("bpe", TEXTS, num_pieces=30, folder=tmp_path)


@pytest.fixture(params=["char", "bpe"])
def units(request, tmp_path):
    return make_units(request.param, TEXTS, num_pieces=30, folder=tmp_path)


def outputs_of(labels, units, probability=0.9):
    """(T, num_outputs): each frame's label has this probability, the rest is shared evenly."""
    outputs = torch.full((len(labels), units.size), (1 - probability) / (units.size - 1))
    outputs[torch.arange(len(labels)), torch.tensor(labels)] = probability
    return outputs.log()


def random_outputs(units, num_frames, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_frames, units.size, generator=generator).log_softmax(-1)


def best_path(log_probs, labels):
    """The most probable path by trying all: (log-probability, frames of each label)."""
    best = (-math.inf, None)
    num_frames = len(log_probs)
    choices = [0, *range(1, len(labels) + 1)]  # blank, or a label by its position
    for path in itertools.product(choices, repeat=num_frames):
        positions = [p for p, _ in itertools.groupby(path) if p]
        repeats_merge = any(
            a and b and a != b and labels[a - 1] == labels[b - 1]
            for a, b in itertools.pairwise(path)
        )
        if positions != choices[1:] or repeats_merge:
            continue
        score = sum(log_probs[t, labels[p - 1] if p else 0].item() for t, p in enumerate(path))
        if score > best[0]:
            frames = [[t for t, p in enumerate(path) if p == k] for k in choices[1:]]
            best = (score, frames)
    return best


@pytest.mark.parametrize("seed", range(5))
def test_the_path_is_the_best_of_all(seed):
    units = CharacterUnits()
    log_probs = random_outputs(units, 7, seed)
    (word,) = align_words(log_probs, "AAB", units, FRAME_S)
    labels = units.encode("AAB")
    _, frames = best_path(log_probs, labels)
    assert word.start_s == pytest.approx(frames[0][0] * FRAME_S)
    assert word.end_s == pytest.approx((frames[-1][-1] + 1) * FRAME_S)
    means = [
        sum(log_probs[t, label].item() for t in ts) / len(ts)
        for label, ts in zip(labels, frames, strict=True)
    ]
    assert word.confidence == pytest.approx(math.exp(sum(means) / len(means)), rel=1e-5)


def test_times_and_confidences_of_characters():
    units = CharacterUnits()
    h, i, space, a = units.encode("HI A")
    log_probs = outputs_of([0, 0, h, h, 0, i, 0, space, 0, 0, a, 0], units, 0.8)
    log_probs[10] = outputs_of([a], units, 0.5)[0]
    hi, the_a = align_words(log_probs, "HI A", units, FRAME_S)
    assert (hi.text, the_a.text) == ("HI", "A")
    assert (hi.start_s, hi.end_s) == pytest.approx((2 * FRAME_S, 6 * FRAME_S))
    assert (the_a.start_s, the_a.end_s) == pytest.approx((10 * FRAME_S, 11 * FRAME_S))
    assert (hi.confidence, the_a.confidence) == pytest.approx((0.8, 0.5), rel=1e-5)


def test_pieces_are_gathered_to_words(pieces):
    cat, sat = pieces.encode("CAT"), pieces.encode("SAT")
    labels = [0, *cat, 0, 0, *sat]
    words = align_words(outputs_of(labels, pieces), "CAT SAT", pieces, 1.0)
    assert [word.text for word in words] == ["CAT", "SAT"]
    assert (words[0].start_s, words[0].end_s) == (1, 1 + len(cat))
    assert (words[1].start_s, words[1].end_s) == (3 + len(cat), 3 + len(cat) + len(sat))
    assert [word.confidence for word in words] == pytest.approx([0.9, 0.9], rel=1e-5)


@pytest.mark.parametrize("num_frames", [63, 500])
def test_words_follow_each_other_and_their_texts_are_the_text(units, num_frames):
    log_probs = random_outputs(units, num_frames, seed=num_frames)
    text = "THE CAT SAT ON THE MAT"
    words = align_words(log_probs, f"  {text.replace(' ', '   ')} ", units, FRAME_S)
    assert " ".join(word.text for word in words) == text
    assert words[0].start_s >= 0
    assert words[-1].end_s <= num_frames * FRAME_S + 1e-9
    assert all(word.start_s < word.end_s for word in words)
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(words))
    assert all(0 < word.confidence < 1 for word in words)


def test_greedy_text_of_any_outputs_has_all_its_words(units):
    for seed in range(20):
        log_probs = random_outputs(units, 40, seed)
        (text,) = greedy_decode(log_probs.unsqueeze(0), torch.ones(1), units)
        times = -(-frames_needed(text, units) // 40)
        words = align_words(log_probs.repeat_interleave(times, 0), text, units, FRAME_S / times)
        assert " ".join(word.text for word in words) == text


@pytest.mark.parametrize("text", ["", "   "])
def test_no_text_has_no_words(units, text):
    assert align_words(random_outputs(units, 5), text, units, FRAME_S) == []
    assert align_words(torch.zeros(0, units.size), text, units, FRAME_S) == []
    assert frames_needed(text, units) == 0


def test_one_frame():
    units = CharacterUnits()
    (word,) = align_words(outputs_of(units.encode("A"), units), "A", units, FRAME_S)
    assert (word.start_s, word.end_s) == (0, FRAME_S)
    assert word.confidence == pytest.approx(0.9, rel=1e-5)


def test_repeated_letters_need_a_blank_between():
    units = CharacterUnits()
    assert frames_needed("ALL", units) == 4
    (word,) = align_words(random_outputs(units, 4), "ALL", units, 1.0)
    assert (word.start_s, word.end_s) == (0, 4)
    message = r"the text 'ALL' needs 4 frames .* but there are 3: it cannot be what was said"
    with pytest.raises(UserError, match=message):
        align_words(random_outputs(units, 3), "ALL", units, 1.0)


def test_a_long_text_that_does_not_fit_is_quoted_in_part():
    units = CharacterUnits()
    with pytest.raises(UserError, match="needs 20000 frames") as error:
        align_words(random_outputs(units, 5), "AB" * 10000, units, 1.0)
    assert len(str(error.value)) < 200


def test_impossible_outputs_have_no_confidence():
    """As in padding, where all but the blank are -inf: torchaudio alone reads wild memory there."""
    units = CharacterUnits()
    log_probs = torch.full((6, units.size), -torch.inf)
    log_probs[:, units.blank_index] = 0.0
    words = align_words(log_probs, "AB C", units, FRAME_S)
    assert [word.text for word in words] == ["AB", "C"]
    assert all(0 <= word.confidence < 1e-20 for word in words)
    assert words[0].end_s <= words[1].start_s


@pytest.mark.parametrize("text", ["A<unk>T SAT", "<unk> SAT", "<unk><unk>THE CAT<unk>", "<unk>"])
def test_unknown_pieces(pieces, text):
    log_probs = random_outputs(pieces, 63)
    words = align_words(log_probs, text, pieces, FRAME_S)
    assert " ".join(word.text for word in words) == text
    assert all(word.start_s < word.end_s for word in words)


def test_the_unknown_piece_is_aligned_with_its_own_output(pieces):
    unknown, start = pieces.vocab_list.index("<unk>"), pieces.vocab_list.index("\u2581")
    labels = [0, start, unknown, 0, *pieces.encode("SAT")]
    word, _ = align_words(outputs_of(labels, pieces), "<unk> SAT", pieces, 1.0)
    assert (word.start_s, word.end_s) == (1, 3)
    assert word.confidence == pytest.approx(0.9, rel=1e-5)


def test_transposed_half_precision_outputs_that_require_gradients():
    units = CharacterUnits()
    labels = [0, *units.encode("HI"), 0]
    log_probs = outputs_of(labels, units)
    other = log_probs.T.contiguous().T.bfloat16().requires_grad_()
    (word,) = align_words(other, "HI", units, FRAME_S)
    (wanted,) = align_words(log_probs, "HI", units, FRAME_S)
    assert word[:3] == wanted[:3]
    assert word.confidence == pytest.approx(wanted.confidence, rel=1e-2)


def test_what_cannot_be_aligned_is_refused(pieces):
    units = CharacterUnits()
    log_probs = random_outputs(units, 9)
    with pytest.raises(ValueError, match=r"'z' \(LATIN SMALL LETTER Z\) cannot be encoded"):
        align_words(log_probs, "Az", units, FRAME_S)
    with pytest.raises(ValueError, match=r"'Z' \(LATIN CAPITAL LETTER Z\) cannot be encoded"):
        align_words(random_outputs(pieces, 9), "<unk>Z", pieces, FRAME_S)
    with pytest.raises(ValueError, match=r"\(frames, 29 outputs\) of one utterance, not \(1, 9, 2"):
        align_words(log_probs.unsqueeze(0), "A", units, FRAME_S)
    with pytest.raises(ValueError, match="the outputs to align are NaN: the model has diverged"):
        align_words(log_probs.masked_fill(log_probs < -4, torch.nan), "A", units, FRAME_S)
    with pytest.raises(ValueError, match="alignment needs log-probabilities: apply log_softmax"):
        align_words(log_probs + 9, "A", units, FRAME_S)
