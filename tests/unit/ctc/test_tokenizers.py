"""Characters and pieces as CTC labels, and the folder that keeps them."""

import io
import json
import random

import pytest
import sentencepiece

from speechbrain_pom.ctc.tokenizer_store import load_units, make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits, SentencePieceUnits

TEXTS = [
    "THE CAT SAT ON THE MAT",
    "THE DOG DIDN'T SIT ON THE MAT",
    "A CAT AND A DOG SAT THERE",
    "THAT THING IS THE OTHER THING",
]


@pytest.fixture(params=["char", "bpe"])
def units(request, tmp_path):
    return make_units(request.param, TEXTS, num_pieces=40, folder=tmp_path / "units")


def test_characters_are_the_published_29_outputs():
    units = CharacterUnits()
    assert units.size == 29
    assert units.blank_index == 0
    assert "".join(units.vocab_list[1:]) == " ABCDEFGHIJKLMNOPQRSTUVWXYZ'"


def test_characters_do_not_depend_on_the_corpus(tmp_path):
    first = make_units("char", ["AB"], folder=tmp_path / "a")
    second = make_units("char", TEXTS, folder=tmp_path / "b")
    assert first.vocab_list == second.vocab_list


def test_text_survives_encoding(units):
    for text in [*TEXTS, "A", "THAT'S A DOG'S MAT", ""]:
        labels = units.encode(text)
        assert all(isinstance(label, int) and 0 < label < units.size for label in labels)
        assert units.decode(labels) == text


def test_spaces_are_single_and_inside(units):
    assert units.encode("  THE   CAT ") == units.encode("THE CAT")


def test_labels_name_tokens_of_the_vocabulary(units):
    tokens = [units.vocab_list[label] for label in units.encode("THE CAT")]
    assert "".join(tokens).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").strip() == "THE CAT"


def test_predicted_spaces_are_tidied():
    units = CharacterUnits()
    assert units.decode([1, 2, 1, 1, 3, 1]) == "A B"


def test_pieces_use_size_and_keep_the_blank_free(tmp_path):
    units = make_units("bpe", TEXTS, num_pieces=37, folder=tmp_path)
    assert units.size == 37
    assert len(set(units.vocab_list)) == 37
    assert all(units.blank_index not in units.encode(text) for text in TEXTS)
    assert len(units.encode(TEXTS[0])) < len(TEXTS[0])


def test_predicted_unknown_piece_is_written_as_in_beam_search(tmp_path):
    units = make_units("bpe", TEXTS, num_pieces=37, folder=tmp_path)
    unknown = units.vocab_list.index("<unk>")
    assert units.decode([*units.encode("A CAT"), unknown]) == "A CAT<unk>"


def test_training_pieces_twice_or_in_another_order_gives_the_same_bytes(tmp_path):
    shuffled = random.Random(3).sample(TEXTS, len(TEXTS))
    for name, texts in (("a", TEXTS), ("b", TEXTS), ("c", shuffled)):
        make_units("bpe", texts, num_pieces=40, folder=tmp_path / name)
    for file in ("pieces.model", "units.json"):
        contents = [(tmp_path / name / file).read_bytes() for name in "abc"]
        assert contents[0] == contents[1] == contents[2]


def test_folder_loads_back_equal(units, tmp_path):
    loaded = load_units(tmp_path / "units")
    assert type(loaded) is type(units)
    assert loaded.vocab_list == units.vocab_list
    assert loaded.encode(TEXTS[1]) == units.encode(TEXTS[1])


def test_folder_holds_json_and_model_only(units, tmp_path):
    names = {path.name for path in (tmp_path / "units").iterdir()}
    assert names == {"units.json"} | ({"pieces.model"} if units.kind == "bpe" else set())
    assert json.loads((tmp_path / "units" / "units.json").read_text())["kind"] == units.kind


def test_same_texts_and_options_reuse_the_folder(tmp_path, monkeypatch):
    make_units("bpe", TEXTS, num_pieces=40, folder=tmp_path)
    monkeypatch.setattr(SentencePieceUnits, "train", None)  # training again would fail
    assert make_units("bpe", reversed(TEXTS), num_pieces=40, folder=tmp_path).size == 40


@pytest.mark.parametrize(
    ("kind", "texts", "num_pieces", "key"),
    [
        ("bpe", TEXTS, 41, "num_pieces"),
        ("bpe", TEXTS[:-1], 40, "texts_sha256"),
        ("char", TEXTS, None, "kind"),
    ],
)
def test_folder_with_other_units_is_refused_and_untouched(kind, texts, num_pieces, key, tmp_path):
    make_units("bpe", TEXTS, num_pieces=40, folder=tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=rf"holds units made with \{{'{key}'.*another output fold"):
        make_units(kind, texts, num_pieces=num_pieces, folder=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_interrupted_training_is_redone(tmp_path):
    (tmp_path / "pieces.model").write_bytes(b"half a model")
    units = make_units("bpe", TEXTS, num_pieces=40, folder=tmp_path)
    assert load_units(tmp_path).vocab_list == units.vocab_list


def test_missing_and_damaged_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no units: units\.json is missing"):
        load_units(tmp_path)
    make_units("bpe", TEXTS, num_pieces=40, folder=tmp_path)
    model = (tmp_path / "pieces.model").read_bytes()
    (tmp_path / "pieces.model").write_bytes(model[:-1])
    with pytest.raises(ValueError, match=r"pieces\.model is missing or is not the model"):
        load_units(tmp_path)
    (tmp_path / "units.json").write_text('{"kind": "ch')
    with pytest.raises(ValueError, match=r"units\.json is damaged .*: delete"):
        load_units(tmp_path)
    (tmp_path / "units.json").write_text('{"kind": "phones"}')
    with pytest.raises(ValueError, match="describes no units known to this version"):
        load_units(tmp_path)


def test_character_outside_the_set_is_named_with_advice():
    with pytest.raises(ValueError, match=r"'É' \(LATIN CAPITAL LETTER E WITH ACUTE\).*bpe"):
        CharacterUnits().encode("CAFÉ")
    with pytest.raises(ValueError, match=r"'a' \(LATIN SMALL LETTER A\).*upper case"):
        CharacterUnits().encode("a")
    with pytest.raises(ValueError, match=r"'\\t' \(U\+0009\)"):
        CharacterUnits().encode("A\tB")


def test_character_unseen_by_the_pieces_is_named(tmp_path):
    units = make_units("bpe", TEXTS, num_pieces=40, folder=tmp_path)
    with pytest.raises(
        ValueError, match=r"'Z' \(LATIN CAPITAL LETTER Z\) cannot be encoded: the pi"
    ):
        units.encode("THE ZOO")


@pytest.mark.parametrize(
    ("texts", "num_pieces", "message"),
    [
        (TEXTS, None, "num_pieces is None: with tokenizer: bpe, give the number of outputs"),
        (TEXTS, "40", "num_pieces is '40'"),
        (TEXTS, 100000, "num_pieces: 100000 does not fit the 4 training transcripts"),
        (TEXTS, 3, "num_pieces: 3 does not fit the 4 training transcripts"),
        (TEXTS, -1, "num_pieces: -1 does not fit"),
        ([], 40, "the training transcripts hold no text"),
        ([" "], 40, "the training transcripts hold no text"),
    ],
)
def test_pieces_that_cannot_be_learnt(texts, num_pieces, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_units("bpe", texts, num_pieces=num_pieces, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_unknown_kind(tmp_path):
    with pytest.raises(ValueError, match="tokenizer: 'word' does not exist: choose char or bpe"):
        make_units("word", TEXTS, folder=tmp_path)


def test_foreign_model_is_refused(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=25, minloglevel=2
    )
    with pytest.raises(
        ValueError, match=r"piece 0 .* is the blank, '<blank>', .* has '<unk>' there"
    ):
        SentencePieceUnits(model.getvalue(), "")
