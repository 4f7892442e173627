"""Greedy and beam search without a language model."""

import logging
import sys

import pytest
import torch
from speechbrain.decoders.ctc import CTCBeamSearcher

from speechbrain_pom.ctc.decoding import (
    blank_share,
    greedy_decode,
    make_beam_searcher,
)
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits

ONE = torch.ones(1)


@pytest.fixture(params=["char", "bpe"])
def units(request, tmp_path):
    texts = ["THE CAT SAT ON THE MAT", "A DOG SAT THERE"]
    return make_units(request.param, texts, num_pieces=30, folder=tmp_path)


def random_outputs(units, num_frames, seed=0, sharpness=40.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, units.size, (1, num_frames), generator=generator)
    if "<unk>" in units.vocab_list:
        labels[labels == units.vocab_list.index("<unk>")] = units.blank_index
    one_hot = torch.nn.functional.one_hot(labels, units.size).float()
    return (sharpness * one_hot).log_softmax(-1)


def pad_together(outputs, fill):
    num_frames = [utterance.shape[1] for utterance in outputs]
    batch = torch.full((len(outputs), max(num_frames), outputs[0].shape[2]), fill)
    for row, utterance in zip(batch, outputs, strict=True):
        row[: utterance.shape[1]] = utterance[0]
    return batch, torch.tensor(num_frames) / max(num_frames)


@pytest.mark.parametrize("num_frames", [1, 63, 500])
def test_beam_search_of_sharp_outputs_is_greedy(units, num_frames):
    outputs = random_outputs(units, num_frames, seed=num_frames)
    text = greedy_decode(outputs, ONE, units)
    assert make_beam_searcher(units)(outputs, ONE) == text
    assert num_frames == 1 or len(text[0]) > num_frames / 4


@pytest.mark.parametrize("fill", [0.0, float("nan"), 1e9])
def test_padding_is_never_decoded(units, fill):
    alone = [random_outputs(units, n, seed=n) for n in (1, 7, 41, 63)]
    batch, lengths = pad_together(alone, fill)
    for decode in (lambda x, n: greedy_decode(x, n, units), make_beam_searcher(units)):
        assert decode(batch, lengths) == [decode(utterance, ONE)[0] for utterance in alone]


def test_every_frame_within_the_length_is_decoded():
    units = CharacterUnits()
    labels = 2 + torch.arange(63) % 26
    one_hot = torch.nn.functional.one_hot(labels, units.size)[None]
    outputs = (40.0 * one_hot).log_softmax(-1)
    batch = outputs.expand(63, -1, -1)
    lengths = (torch.arange(1, 64) - 0.4) / 63  # as from numbers of samples
    expected = [units.decode(labels[:n].tolist()) for n in range(1, 64)]
    assert greedy_decode(batch, lengths, units) == expected
    assert make_beam_searcher(units)(batch, lengths) == expected
    # SpeechBrain's own truncation of the lengths loses frames here:
    naive = CTCBeamSearcher(0, units.vocab_list)(batch, lengths)
    assert [hypotheses[0].text for hypotheses in naive] != expected


def test_no_frame_gives_no_text(units):
    outputs, lengths = random_outputs(units, 63).expand(2, -1, -1), torch.tensor([1.0, 0.0])
    assert greedy_decode(outputs, lengths, units)[1] == ""
    assert make_beam_searcher(units)(outputs, lengths)[1] == ""


def test_beam_search_sums_the_paths_of_a_text():
    units = CharacterUnits()
    probabilities = torch.full((1, 2, units.size), 1e-9)
    probabilities[..., units.blank_index], probabilities[..., 2] = 0.6, 0.4
    assert greedy_decode(probabilities.log(), ONE, units) == [""]  # 0.36
    assert make_beam_searcher(units)(probabilities.log(), ONE) == ["A"]  # 0.64


def test_spaces_are_single_and_inside():
    units = CharacterUnits()
    labels = torch.tensor([[1, 0, 1, 2, 1, 0, 1, 3, 0, 1]])
    outputs = (40.0 * torch.nn.functional.one_hot(labels, units.size)).log_softmax(-1)
    assert greedy_decode(outputs, ONE, units) == ["A B"]
    assert make_beam_searcher(units)(outputs, ONE) == ["A B"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_graphs_are_decoded(units, dtype):
    outputs = random_outputs(units, 63).to(dtype).requires_grad_()
    text = greedy_decode(outputs, ONE, units)
    assert text == greedy_decode(outputs.float(), ONE, units)
    assert make_beam_searcher(units)(outputs, ONE) == text


def test_impossible_labels_may_be_minus_infinity():
    units = CharacterUnits()
    outputs = torch.full((1, 5, units.size), -torch.inf)
    outputs[..., 2] = 0.0
    assert make_beam_searcher(units)(outputs, ONE) == ["A"]


def test_no_language_model_needs_no_package(units, monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    monkeypatch.setitem(sys.modules, "pygtrie", None)
    outputs = random_outputs(units, 20)
    assert make_beam_searcher(units)(outputs, ONE) == greedy_decode(outputs, ONE, units)


def test_making_a_searcher_warns_of_nothing(units, caplog):
    with caplog.at_level(logging.WARNING):
        make_beam_searcher(units)
    assert caplog.records == []


def test_blank_share_counts_valid_frames_only():
    labels = torch.tensor([[0, 0, 3, 0], [0, 5, 3, 3]])
    outputs = torch.nn.functional.one_hot(labels, 29).float()
    assert blank_share(outputs, torch.tensor([1.0, 0.25])) == pytest.approx(4 / 5)
    assert blank_share(outputs, torch.tensor([1.0, 0.25])) < 1.0
    assert blank_share(outputs, torch.tensor([0.5, 0.25])) == 1.0
    assert blank_share(outputs, torch.tensor([0.0, 0.0])) == 1.0
    assert blank_share(outputs, torch.ones(2), blank_index=3) == pytest.approx(3 / 8)


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_inputs_that_do_not_fit(name):
    units = CharacterUnits()
    decode = make_beam_searcher(units)
    if name == "greedy":

        def decode(log_probs, lengths):
            return greedy_decode(log_probs, lengths, units)

    outputs = torch.zeros(2, 7, 29).log_softmax(-1)
    with pytest.raises(ValueError, match="the model has 40 outputs, but the units have 29"):
        decode(torch.zeros(2, 7, 40).log_softmax(-1), torch.ones(2))
    with pytest.raises(ValueError, match=r"relative to the longest.*not \[7\.0, 3\.0\]"):
        decode(outputs, torch.tensor([7, 3]))
    with pytest.raises(ValueError, match="from 0 to 1"):
        decode(outputs, torch.tensor([1.0, float("nan")]))
    shapes = r"^CTC outputs are \(batch, frames, outputs\) .*, not \(2, 7, 29\) with lengths \(3,\)"
    with pytest.raises(ValueError, match=shapes):
        decode(outputs, torch.ones(3))
    with pytest.raises(ValueError, match=r"not \(7, 29\)"):
        decode(outputs[0], torch.ones(7))
    outputs[1, 6, 4] = float("nan")
    with pytest.raises(ValueError, match="the outputs to decode are NaN"):
        decode(outputs, torch.ones(2))
    assert len(decode(outputs, torch.tensor([1.0, 0.5]))) == 2


def test_beam_search_refuses_logits():
    with pytest.raises(ValueError, match="needs log-probabilities: apply log_softmax"):
        make_beam_searcher(CharacterUnits())(torch.full((1, 3, 29), 2.0), ONE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0: give an integer of at least 1"),
        ({"beam_size": 1.5}, "beam_size is 1.5"),
        ({"beam_prune_logp": 10}, "beam_prune_logp is 10: give a log-probability below 0"),
        ({"token_prune_min_logp": 0.0}, r"token_prune_min_logp is 0\.0"),
    ],
)
def test_options_that_cannot_work(options, message):
    with pytest.raises(ValueError, match=message):
        make_beam_searcher(CharacterUnits(), **options)
