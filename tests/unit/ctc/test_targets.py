"""Checks of transcripts before the first step."""

import pytest
import torch

from speechbrain_pom.ctc.targets import check_targets, min_ctc_frames
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits


@pytest.fixture
def units():
    return CharacterUnits()


@pytest.mark.parametrize("text", ["A", "AB", "HELLO", "AAA", "SEE ALL BOOKS", "MISSISSIPPI"])
def test_fewest_frames_are_those_where_the_ctc_loss_becomes_finite(units, text):
    labels = units.encode(text)

    def loss(num_frames):
        log_probs = torch.zeros(num_frames, 1, units.size).log_softmax(-1)
        lengths = torch.tensor([num_frames]), torch.tensor([len(labels)])
        return torch.nn.functional.ctc_loss(log_probs, torch.tensor([labels]), *lengths)

    num_frames = min_ctc_frames(labels)
    assert loss(num_frames).isfinite()
    assert num_frames == 1 or loss(num_frames - 1).isinf()


def test_good_targets_pass(units):
    texts = {"a": "HELLO", "b": "A"}
    assert check_targets(units, texts) == {}
    assert check_targets(units, texts, {"a": 6, "b": 1}, 29) == {}
    assert check_targets(units, {}, {}, 29) == {}


def test_utterances_too_short_for_ctc_are_returned_with_the_reason(units):
    texts = {"long": "HELLO", "short": "HELLO", "empty": "HI"}
    infeasible = check_targets(units, texts, {"long": 6, "short": 5, "empty": 0})
    assert infeasible == {
        "short": "5 output frames for 5 labels, which need at least 6",
        "empty": "0 output frames for 2 labels, which need at least 2",
    }


@pytest.mark.parametrize("num_outputs", [28, 30, 1000])
def test_output_layer_of_another_size_is_refused(units, num_outputs):
    message = rf"has {num_outputs} outputs, but the char units have 29 .*: set output_neurons to 29"
    with pytest.raises(ValueError, match=message):
        check_targets(units, {"a": "A"}, num_outputs=num_outputs)


def test_every_unencodable_transcript_is_named(units):
    texts = {"fine": "FINE", "84-1": "CAFÉ", "84-2": "naïve"}
    with pytest.raises(ValueError, match="2 of 3 transcripts cannot be encoded") as error:
        check_targets(units, texts)
    message = str(error.value)
    assert "84-1: 'É' (LATIN CAPITAL LETTER E WITH ACUTE); 84-2: 'a' (LATIN SMALL" in message
    assert "'ï' (LATIN SMALL LETTER I WITH DIAERESIS)" in message
    assert "write the transcripts in upper case" in message
    assert "fine" not in message
    assert "\n" not in message


def test_ten_utterances_are_named_and_the_rest_counted(units):
    with pytest.raises(ValueError, match=r"25 of 25 .* and 15 more") as error:
        check_targets(units, {f"utterance-{i:02}": "5" for i in range(25)})
    assert "utterance-09" in str(error.value)
    assert "utterance-10" not in str(error.value)


def test_empty_transcripts_are_named(units):
    with pytest.raises(ValueError, match="2 of 3 transcripts are empty: b, c: remove"):
        check_targets(units, {"a": "A", "b": "", "c": "  "})


def test_piece_unseen_in_training_is_found_in_another_split(tmp_path):
    units = make_units("bpe", ["ONE TWO", "TWO ONE"], num_pieces=10, folder=tmp_path)
    with pytest.raises(ValueError, match=r"1 of 2 .*: test-1: 'R' \(LATIN CAPITAL LETTER R\)"):
        check_targets(units, {"train-1": "ONE", "test-1": "ONE R"})
