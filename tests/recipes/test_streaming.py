"""Training with dynamic chunks by the real commands: stages, resuming, table, what is saved."""

import csv
import json
import re

import pytest
import torch

from speechbrain_pom import load_encoder
from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.inference import load_recogniser
from speechbrain_pom.reports.summary import summarize

SMALL = {"streaming": True, "chunk_size_range": "[2, 6]", "left_context_range": "[1, 4]"}
TESTS = {"test_chunks": "[null, [8, null], [4, 1]]", "valid_chunk": "[4, 1]"}
LABELS = ["", "chunk8_", "chunk4_left1_"]
STATE = ("model", "head", "normalize", "head_optimizer", "encoder_optimizer")
DRAWN = {
    "chunkwise_prob": 0.6,
    "chunk_size_range": [2, 6],
    "limited_left_context_prob": 0.75,
    "left_context_range": [1, 4],
}


@pytest.fixture(scope="module")
def pretrained(recipes, corpus, tmp_path_factory):
    """A run of one epoch with chunks."""
    folder = tmp_path_factory.mktemp("streaming") / "bestrq"
    options = {"number_of_epochs": 1, "valid_chunk": "[4, 1]", **SMALL}
    return folder, recipes.train("bestrq", folder, data_folder=corpus, **options)


@pytest.fixture(scope="module")
def options(pretrained, corpus):
    given = {"data_folder": corpus, "pretrained": pretrained[0], "wav_augment": "null"}
    return {**given, **SMALL, **TESTS}


@pytest.fixture(scope="module")
def fine_tuned(recipes, options, tmp_path_factory):
    """Two epochs from it, with chunks too."""
    folder = tmp_path_factory.mktemp("streaming") / "ctc"
    return folder, recipes.train("ctc", folder, **options)


def test_the_encoder_is_one_that_streams(pretrained):
    folder, printed = pretrained
    assert re.search(r"positional_encoding +null +streaming", printed)
    assert re.search(r"feature_floor +running +streaming", printed)
    encoder = load_encoder(folder)
    assert encoder.trained_with_chunks == DRAWN
    assert encoder.transformer.positional_encoding_type is None or not hasattr(
        encoder.transformer.positional_encoding, "pe"
    )
    assert encoder.features.floor == "running"
    (frames, _), (whole, _) = (
        encoder(0.1 * torch.ones(1, 16000), chunks=chunks) for chunks in ((4, 1), None)
    )
    assert not torch.equal(frames, whole)


def test_killed_in_mid_epoch_and_resumed_with_workers(recipes, options, fine_tuned, tmp_path):
    folder = tmp_path / "run"
    recipes.train_until_killed(
        "ctc", folder, epoch=2, batch=4, ckpt_interval_steps=1, ckpt_interval_minutes=0, **options
    )
    printed = recipes.train("ctc", folder, **{**options, "num_workers": 2})
    assert "at batch 2 of its next epoch" in printed
    states = [recipes.tensors(run, *STATE) for run in (fine_tuned[0], folder)]
    assert recipes.differing(*states) == []
    for name in ("results.json", "wer_test-clean_chunk4_left1_no_lm.txt"):
        assert len({(run / name).read_text() for run in (fine_tuned[0], folder)}) == 1


def test_each_test_has_each_chunk_size(fine_tuned):
    folder, printed = fine_tuned
    results = json.loads((folder / "results.json").read_text())
    for split in ("test-clean", "test-other"):
        assert results[split].keys() == {"no_lm", "chunk8", "chunk4_left1"}
        found = results[split]["chunk4_left1"]["no_lm"]
        assert (found["chunk_frames"], found["left_chunks"], found["chunk_s"]) == (4, 1, 0.16)
        assert found["wer_low"] <= found["wer"] <= found["wer_high"]
        assert re.search(rf"{split}, chunk4_left1, no_lm: WER .*\d", printed)
        for label in LABELS:
            assert (folder / f"wer_{split}_{label}no_lm.txt").is_file()
    text = summarize(folder)
    assert re.search(r"trained with chunks +60 % of the batches in chunks of 2 to 6 frames", text)
    rows = [line.split("|")[1:3] for line in text.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in row] for row in rows]
    assert rows[2:] == [
        ["full context", ""],
        ["0.32 s (8 frames)", "all"],
        ["0.16 s (4 frames)", "0.16 s (1 chunk)"],
    ]


def test_a_row_of_the_table_is_the_masked_pass_of_the_saved_model(
    fine_tuned, corpus, tmp_path, capsys
):
    folder, _ = fine_tuned
    assert main(["export", str(folder), str(tmp_path / "exported")]) == 0
    card = (tmp_path / "exported/README.md").read_text()
    assert "| trained with chunks | 60 % of the batches in chunks of 2 to 6 frames, 75 %" in card
    assert "| test-clean, chunk4_left1, without LM | " in card
    assert main(["info", str(folder / "hyperparams.yaml")]) == 0
    assert "trained with chunks: 60 % of the batches" in capsys.readouterr().out
    with open(folder / "manifests/test-clean.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    recogniser = load_recogniser(tmp_path / "exported")
    assert recogniser.encoder.trained_with_chunks == DRAWN
    decode, rates = make_beam_searcher(recogniser.units, beam_size=4), ErrorRates()
    for row in rows:
        with AudioReader(row["wav"].replace("$data_root", str(corpus))) as reader:
            wav = reader.read(0, reader.num_samples)
        with torch.no_grad():
            frames, _ = recogniser.encoder(wav.unsqueeze(0), chunks=(4, 1))
            log_probs = recogniser.head(frames).float().log_softmax(-1)
        rates.append([row["ID"]], decode(log_probs, torch.ones(1)), [row["wrd"]])
    found = json.loads((folder / "results.json").read_text())["test-clean"]["chunk4_left1"]
    assert rates.summary(20).items() <= found["no_lm"].items()


def test_wav2vec2_by_the_same_keys(recipes, corpus, tmp_path):
    folder = tmp_path / "run"
    recipes.train("wav2vec2", folder, data_folder=corpus, number_of_epochs=1, **SMALL)
    (record,) = recipes.history(folder)
    assert record["valid"]["loss"] > 0
    encoder = load_encoder(folder)
    assert (encoder.features.norm_type, encoder.features.floor) == ("global", "running")
    assert encoder.trained_with_chunks == DRAWN
