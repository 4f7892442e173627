"""What a recipe computes in a padded batch is what its saved model computes, of any type."""

import csv
import sys

import pytest
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.inference import load_recogniser

# Runs a recipe, and keeps the log-probabilities of its tests with the ids of the utterances.
RECORDED = """
import os, runpy, sys
import torch
from speechbrain_pom.ctc import decoding, scoring
out, script = sys.argv[1:3]
sys.argv[:3] = [script]
sys.path.insert(0, os.path.dirname(script))
batches, share, append = [], decoding.blank_share, scoring.ErrorRates.append
def blank_share(log_probs, lengths, *rest):
    batches.append([log_probs.detach().clone(), lengths.clone(), None])
    return share(log_probs, lengths, *rest)
def append_and_keep(self, ids, *rest):
    batches[-1][2] = list(ids)
    return append(self, ids, *rest)
decoding.blank_share, scoring.ErrorRates.append = blank_share, append_and_keep
runpy.run_path(script, run_name="__main__")
torch.save(batches, out)
"""
OPTIONS = {"pretrained": "null", "optimizer_step_limit": 1, "test_splits": "[test-clean]"}


def test_set(folder, corpus):
    """The waveforms of a run's test set, by the ids of the utterances."""
    with open(folder / "manifests/test-clean.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    found = {}
    for row in rows:
        with AudioReader(row["wav"].replace("$data_root", str(corpus))) as reader:
            found[row["ID"]] = reader.read(0, reader.num_samples)
    return found


test_set.__test__ = False


def difference(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("padding", ["exact", "speechbrain"])
def test_training_scoring_and_inference_pad_alike(recipes, corpus, tmp_path, padding):
    folder = tmp_path / "ctc"
    launcher = [sys.executable, "-c", RECORDED, tmp_path / "batches.pt"]
    how = {"attention_type": "RelPosMHAXL", "padding": padding, **OPTIONS}
    recipes.train("ctc", folder, launcher=launcher, data_folder=corpus, **how)
    batches = torch.load(tmp_path / "batches.pt", weights_only=True)
    wavs = test_set(folder, corpus)
    batches = [batch for batch in batches if batch[2] is not None and batch[2][0] in wavs]
    assert len(batches) > 0
    assert main(["export", str(folder), str(tmp_path / "exported")]) == 0
    for path in (folder, tmp_path / "exported"):
        recogniser = load_recogniser(path)
        assert recogniser.encoder.padding == padding
        alone = []
        for log_probs, lengths, ids in batches:
            num_samples = torch.tensor([len(wavs[key]) for key in ids])
            batch = torch.nn.utils.rnn.pad_sequence([wavs[key] for key in ids], batch_first=True)
            num_frames = (lengths * log_probs.shape[1]).round().long()
            with torch.no_grad():
                together, _ = recogniser(batch, num_samples)
                for row, key in enumerate(ids):
                    tested = log_probs[row, : num_frames[row]]
                    assert difference(together[row, : num_frames[row]], tested) < 1e-4
                    alone.append(difference(recogniser(wavs[key][None])[0][0], tested))
        if padding == "exact":
            assert max(alone) < 1e-4
        else:
            assert max(alone) > 1e-3
