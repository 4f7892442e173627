"""Beam search with a word n-gram through KenLM, and the messages around it."""

import gzip
import sys
from pathlib import Path

import pytest
import torch
from speechbrain.decoders.ctc import CTCBeamSearcher

from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.ctc.tokenizers import CharacterUnits

ONE = torch.ones(1)
TRUNCATED = b"\\data\\\nngram 1=9\nngram 2=1\n\n\\1-grams:\n-1.0\tTHE\t0\n"


def write_arpa(path, bigrams, words=("THE", "SEA", "SEE"), backoff="\t-0.5"):
    lines = ["\\data\\", f"ngram 1={len(words) + 3}", f"ngram 2={len(bigrams)}", "", "\\1-grams:"]
    lines += ["-2.0\t<unk>", "-99\t<s>\t-0.5", "-1.0\t</s>"]
    lines += [f"-1.0\t{word}{backoff}" for word in words]
    lines += ["", "\\2-grams:", *(f"{logp}\t{bigram}" for bigram, logp in bigrams.items())]
    path.write_text("\n".join([*lines, "", "\\end\\", ""]))
    return str(path)


def ambiguous_outputs(units, first, second, share=0.5):
    """Outputs of ``first`` (the given share of the probability) or ``second``, label by label."""
    outputs = torch.full((1, 2 * len(units.encode(first)), units.size), 1e-6)
    pairs = zip(units.encode(first), units.encode(second), strict=True)
    for i, (a, b) in enumerate(pairs):
        outputs[0, 2 * i, a] += share
        outputs[0, 2 * i, b] += 1 - share
        outputs[0, 2 * i + 1, units.blank_index] = 1.0
    return (outputs / outputs.sum(-1, keepdim=True)).log()


def test_the_language_model_decides_what_the_acoustics_leave_open(tmp_path):
    pytest.importorskip("kenlm")
    units = CharacterUnits()
    outputs = ambiguous_outputs(units, "THE SEA", "THE SEE", share=0.45)
    sea = write_arpa(tmp_path / "sea.arpa", {"<s> THE": -0.1, "THE SEA": -0.1, "THE SEE": -3.0})
    see = write_arpa(tmp_path / "see.arpa", {"<s> THE": -0.1, "THE SEA": -3.0, "THE SEE": -0.1})
    assert make_beam_searcher(units)(outputs, ONE) == ["THE SEE"]
    assert make_beam_searcher(units, kenlm_model_path=sea)(outputs, ONE) == ["THE SEA"]
    assert make_beam_searcher(units, kenlm_model_path=see)(outputs, ONE) == ["THE SEE"]
    assert make_beam_searcher(units, kenlm_model_path=sea, alpha=0.0)(outputs, ONE) == ["THE SEE"]


def test_pieces_are_scored_as_words(tmp_path):
    pytest.importorskip("kenlm")
    texts = ["THE SEA", "THE SEE", "SEE THE SEA"]
    units = make_units("bpe", texts, num_pieces=9, folder=tmp_path / "units")
    outputs = ambiguous_outputs(units, "THE SEA", "THE SEE", share=0.45)
    sea = write_arpa(tmp_path / "sea.arpa", {"<s> THE": -0.1, "THE SEA": -0.1, "THE SEE": -3.0})
    assert make_beam_searcher(units)(outputs, ONE) == ["THE SEE"]
    assert make_beam_searcher(units, kenlm_model_path=sea)(outputs, ONE) == ["THE SEA"]


def test_padding_is_never_scored(tmp_path):
    pytest.importorskip("kenlm")
    units = CharacterUnits()
    sea = write_arpa(tmp_path / "sea.arpa", {"<s> THE": -0.1, "THE SEA": -0.1, "THE SEE": -3.0})
    decode = make_beam_searcher(units, kenlm_model_path=sea)
    outputs = ambiguous_outputs(units, "THE SEA SEE", "THE SEE SEA")
    for num_frames in (1, 7, 13, 14):
        alone = decode(outputs[:, :num_frames], ONE)
        assert decode(outputs, torch.tensor([num_frames / outputs.shape[1]])) == alone


def test_words_without_back_off_are_known(tmp_path):
    pytest.importorskip("kenlm")
    units = CharacterUnits()
    bigrams = {"<s> THE": -0.1, "THE SEA": -0.1, "THE SEE": -0.1}
    path = write_arpa(tmp_path / "words.arpa", bigrams, words=("THE", "SEE"))
    text = Path(path).read_text().replace("ngram 1=5", "ngram 1=6")
    text = text.replace("-1.0\tSEE", "-1.0\tSEA\n-1.0\tSEE")  # SEA: no back-off weight
    Path(path).write_text(text)
    outputs = ambiguous_outputs(units, "THE SEA", "THE SEE", share=0.6)
    assert make_beam_searcher(units, kenlm_model_path=path)(outputs, ONE) == ["THE SEA"]
    # SpeechBrain's own reading of the file takes SEA for an unknown word:
    naive = CTCBeamSearcher(0, units.vocab_list, kenlm_model_path=path, alpha=0.8, beta=1.2)
    assert naive(outputs, ONE)[0][0].text == "THE SEE"


def test_compressed_file_and_list_of_words(tmp_path):
    pytest.importorskip("kenlm")
    units = CharacterUnits()
    outputs = ambiguous_outputs(units, "THE SEA", "THE SEE", share=0.45)
    bigrams = {"<s> THE": -0.1, "THE SEA": -0.1, "THE SEE": -3.0}
    plain = write_arpa(tmp_path / "sea.arpa", bigrams)
    compressed = tmp_path / "sea.arpa.gz"
    compressed.write_bytes(gzip.compress(Path(plain).read_bytes()))
    assert make_beam_searcher(units, kenlm_model_path=str(compressed))(outputs, ONE) == ["THE SEA"]
    words = tmp_path / "words.txt"
    words.write_text("THE\nSEE 1\n")  # SEA is not to be known
    options = {"kenlm_model_path": plain, "kenlm_words_path": str(words)}
    assert make_beam_searcher(units, **options)(outputs, ONE) == ["THE SEE"]


@pytest.mark.parametrize("package", ["kenlm", "pygtrie"])
def test_missing_package_says_what_to_install(package, tmp_path, monkeypatch):
    if package == "pygtrie":
        pytest.importorskip("kenlm")
    path = write_arpa(tmp_path / "sea.arpa", {"THE SEA": -0.1})
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'needs the package {package}: pip install "speechbrain-pom\[lm\]"'
    with pytest.raises(ValueError, match=message):
        make_beam_searcher(CharacterUnits(), kenlm_model_path=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"kenlm_model_path: '.*lm\.arpa' is not a file"),
        (b"", "holds no words; it should be an ARPA file"),
        (b"hello\n", "holds no words; it should be an ARPA file"),
        (TRUNCATED, r"lm\.arpa is damaged \(.*End of f"),
        (b"mmap lm http://kheafield.com/code", "KenLM binary, which does not list its words"),
        (b"\x1f\x8bnot gzip", r"lm\.arpa is damaged"),
        (gzip.compress(bytes(range(256)) * 9)[:-20], r"lm\.arpa is damaged"),
    ],
)
def test_model_that_cannot_be_read_is_refused_before_decoding(content, message, tmp_path):
    pytest.importorskip("kenlm")
    path = tmp_path / "lm.arpa"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        make_beam_searcher(CharacterUnits(), kenlm_model_path=str(path))
    assert "\n" not in str(error.value)


def test_damaged_binary_with_words_is_refused(tmp_path):
    pytest.importorskip("kenlm")
    (tmp_path / "lm.bin").write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\0")
    (tmp_path / "words.txt").write_text("THE\n")
    options = {"kenlm_model_path": str(tmp_path / "lm.bin")}
    options["kenlm_words_path"] = str(tmp_path / "words.txt")
    with pytest.raises(ValueError, match=r"lm\.bin is damaged"):
        make_beam_searcher(CharacterUnits(), **options)


def test_list_of_words_that_holds_none(tmp_path):
    pytest.importorskip("kenlm")
    options = {"kenlm_model_path": write_arpa(tmp_path / "sea.arpa", {"THE SEA": -0.1})}
    options["kenlm_words_path"] = str(tmp_path / "words.txt")
    with pytest.raises(ValueError, match=r"kenlm_words_path: '.*words\.txt' is not a file"):
        make_beam_searcher(CharacterUnits(), **options)
    (tmp_path / "words.txt").write_text("<s>\n\n")
    with pytest.raises(ValueError, match=r"words\.txt holds no words; it should be one word per"):
        make_beam_searcher(CharacterUnits(), **options)


def test_model_in_the_other_case_is_refused_with_what_to_convert(tmp_path):
    """KenLM is not needed to see it."""
    path = write_arpa(tmp_path / "lower.arpa", {"the sea": -0.1}, words=("the", "sea"))
    message = (
        r"no word of the language model \(sea, the, \.\.\.\) can be written with the units; the "
        "units have only letters in upper case: convert the language model's words to upper case"
    )
    with pytest.raises(ValueError, match=message):
        make_beam_searcher(CharacterUnits(), kenlm_model_path=path)
    texts = ["the sea", "the see", "see the sea"]
    pieces = make_units("bpe", texts, num_pieces=9, folder=tmp_path / "units")
    path = write_arpa(tmp_path / "upper.arpa", {"THE SEA": -0.1}, words=("THE", "SEA"))
    with pytest.raises(ValueError, match="the units have only letters in lower case: convert"):
        make_beam_searcher(pieces, kenlm_model_path=path)


def test_model_in_another_script_gets_the_advice_of_the_units(tmp_path):
    path = write_arpa(tmp_path / "greek.arpa", {"και το": -0.1}, words=("και", "το"))
    with pytest.raises(
        ValueError, match="can be written with the units; the character units are A"
    ):
        make_beam_searcher(CharacterUnits(), kenlm_model_path=path)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_model_of_single_words_is_refused_as_such(compress, tmp_path):
    text = "\\data\\\nngram 1=3\n\n\\1-grams:\n-1.0\t<unk>\n-1.0\tTHE\n-1.0\tSEA\n\n\\end\\\n"
    path = tmp_path / "words.arpa"
    path.write_bytes(compress(text.encode()))
    message = r"words\.arpa is a model of single words \(1-grams\), which KenLM does not load"
    with pytest.raises(ValueError, match=message):
        make_beam_searcher(CharacterUnits(), kenlm_model_path=str(path))
    (tmp_path / "words.txt").write_text("THE\n")
    with pytest.raises(ValueError, match="build one of order 2 or more, as with lmplz -o 3"):
        make_beam_searcher(
            CharacterUnits(),
            kenlm_model_path=str(path),
            kenlm_words_path=str(tmp_path / "words.txt"),
        )
