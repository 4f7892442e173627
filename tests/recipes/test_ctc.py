"""Fine-tuning by its real command: from a pretrained encoder, frozen, from scratch, resumed."""

import csv
import importlib.util
import json
import re

import numpy as np
import pytest
import torch

from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.decoding import make_beam_searcher
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.inference import load_encoder, load_recogniser

STATE = ("model", "layer_sum", "head", "normalize", "head_optimizer", "encoder_optimizer")
SPLITS = ("test-clean", "test-other")
WARM_UP = 40  # steps: longer than the runs
ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-2.0\t<unk>
-99\t<s>\t-0.5
-1.0\t</s>
-1.0\tTHE\t-0.5
-1.0\tA\t-0.5

\\2-grams:
-0.1\t<s> THE

\\end\\
"""


@pytest.fixture(scope="module")
def fine_tuned(recipes, pretrained, corpus, tmp_path_factory):
    """A run of two epochs from the pretraining run, and what it printed."""
    folder = tmp_path_factory.mktemp("fine_tuned") / "ctc"
    options = {"data_folder": corpus, "pretrained": pretrained[0], "n_warmup_steps": WARM_UP}
    return folder, recipes.train("ctc", folder, **options, forked=False)


def check_results(folder, names):
    """Rates with their intervals and the alignments, for both test splits and each decoding."""
    results = json.loads((folder / "results.json").read_text())
    assert results.keys() == set(SPLITS)
    for split in SPLITS:
        assert results[split].keys() == set(names)
        for name in names:
            summary = results[split][name]
            for rate in ("wer", "cer"):
                assert 0 <= summary[f"{rate}_low"] <= summary[rate] <= summary[f"{rate}_high"]
            alignments = (folder / f"wer_{split}_{name}.txt").read_text()
            assert re.search(r"%WER \d+\.\d+", alignments)


def test_outputs(recipes, pretrained, fine_tuned):
    folder, printed = fine_tuned
    checkpoint, _ = recipes.newest_checkpoint(pretrained[0])
    assert f"Pretrained encoder: {checkpoint} (sha256 " in printed
    assert "FROM SCRATCH" not in printed
    check_results(folder, ["no_lm"])
    for split in SPLITS:
        assert re.search(rf"{split}, no_lm: WER .*\d", printed)
    records = recipes.history(folder)
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[1]["train"]["loss"] < records[0]["train"]["loss"]
    for record in records:
        assert record["valid"].keys() == {"loss", "wer", "cer", "blank_share"}
        assert 0 <= record["valid"]["blank_share"] <= 1
        assert record["train"].keys() == {"loss", "grad_norm", "audio_s_per_s", "peak_memory_mib"}
    for record in records:
        assert 0 < record["steps"] < WARM_UP
        for name, key in (("lr_head", "lr"), ("lr_encoder", "lr_encoder")):
            share = record["steps"] / WARM_UP
            assert record[name] == pytest.approx(share * recipes.CTC[key], rel=1e-12)
    for name in ("train_log.txt", "curves.png", "hyperparams.yaml", "units/units.json"):
        assert (folder / name).stat().st_size > 0
    for split in ("train", "dev-clean", *SPLITS):
        assert (folder / f"manifests/{split}.csv").stat().st_size > 0


def test_the_encoder_trains_and_its_normalisation_stays(recipes, pretrained, fine_tuned):
    before, after = (recipes.tensors(run[0], "model") for run in (pretrained, fine_tuned))
    changed = set(recipes.differing(before, after))
    trainable = {name for name in before if not re.search(r"running_|num_batches|positional", name)}
    assert trainable <= changed
    statistics = [recipes.tensors(run[0], "normalize") for run in (pretrained, fine_tuned)]
    assert recipes.differing(*statistics) == []


def test_killed_in_mid_epoch_and_resumed(recipes, pretrained, fine_tuned, corpus, tmp_path):
    options = {"data_folder": corpus, "pretrained": pretrained[0], "n_warmup_steps": WARM_UP}
    folder = tmp_path / "run"
    recipes.train_until_killed(
        "ctc",
        folder,
        epoch=2,
        batch=4,
        ckpt_interval_steps=1,
        ckpt_interval_minutes=0,
        **options,
    )
    assert recipes.differing(
        recipes.tensors(fine_tuned[0], "head"), recipes.tensors(folder, "head")
    )
    assert not (folder / "results.json").exists()
    printed = recipes.train("ctc", folder, **options)
    assert "at batch 2 of its next epoch" in printed
    states = [recipes.tensors(run, *STATE) for run in (fine_tuned[0], folder)]
    assert recipes.differing(*states) == []
    histories = [
        recipes.without_machine_figures(recipes.history(run)) for run in (fine_tuned[0], folder)
    ]
    assert histories[0] == histories[1]
    results = [(run / "results.json").read_text() for run in (fine_tuned[0], folder)]
    assert results[0] == results[1]


def test_frozen_encoder_and_language_model(recipes, pretrained, corpus, tmp_path):
    with_lm = all(importlib.util.find_spec(name) for name in ("kenlm", "pygtrie"))
    model = tmp_path / "tiny.arpa"
    model.write_text(ARPA, encoding="utf-8")
    folder = tmp_path / "run"
    recipes.train(
        "ctc",
        folder,
        data_folder=corpus,
        pretrained=pretrained[0],
        freeze_encoder=True,
        number_of_epochs=1,
        kenlm_model_path=model if with_lm else "null",
    )
    before, after = (recipes.tensors(run, "model") for run in (pretrained[0], folder))
    assert recipes.differing(before, after) == []
    (record,) = recipes.history(folder)
    assert record["steps"] > 0
    assert record["lr_head"] == recipes.CTC["lr"]
    assert "lr_encoder" not in record
    checkpoint, _ = recipes.newest_checkpoint(folder)
    assert not (checkpoint / "encoder_optimizer.ckpt").exists()
    trained = recipes.tensors(folder, "head_optimizer")
    moments = [value for name, value in trained.items() if name.endswith("exp_avg")]
    assert moments
    assert all(moment.abs().sum() > 0 for moment in moments)
    check_results(folder, ["no_lm", "lm"] if with_lm else ["no_lm"])


def test_from_scratch_with_pieces_and_all_layers(recipes, corpus, tmp_path):
    folder = tmp_path / "run"
    printed = recipes.train(
        "ctc",
        folder,
        data_folder=corpus,
        pretrained="null",
        weighted_sum=True,
        tokenizer="bpe",
        num_pieces=40,
        number_of_epochs=1,
    )
    assert "pretrained is null: training FROM SCRATCH, no pretrained encoder" in printed
    scores = recipes.tensors(folder, "layer_sum")["layer_sum.scores"]
    assert len(scores) == recipes.ENCODER["num_encoder_layers"] + 1
    assert (scores != 0).all()
    head = recipes.tensors(folder, "head")
    assert head["head.output.w.bias"].shape == (40,)
    assert torch.isfinite(head["head.output.w.bias"]).all()
    statistics = recipes.tensors(folder, "normalize")
    assert int(statistics["normalize.count"]) > 0
    check_results(folder, ["no_lm"])


def test_another_start_is_refused_in_an_old_folder(recipes, pretrained, fine_tuned, corpus):
    older = min((pretrained[0] / "save").glob("CKPT+*"))
    assert older != recipes.newest_checkpoint(pretrained[0])[0]
    before = recipes.tensors(fine_tuned[0], "model")
    document = (fine_tuned[0] / "hyperparams.yaml").read_bytes()
    options = {"data_folder": corpus, "output_folder": fine_tuned[0], "pretrained": older}
    options["n_warmup_steps"] = WARM_UP
    result = recipes.run([*recipes.PYTHON, *recipes.arguments("ctc", **options)])
    recipes.check_refusal(
        result.returncode, result.stderr, "pretrained is not what this run began with"
    )
    assert recipes.differing(before, recipes.tensors(fine_tuned[0], "model")) == []
    assert (fine_tuned[0] / "hyperparams.yaml").read_bytes() == document


def test_the_saved_model_is_the_one_that_was_tested(fine_tuned, corpus, tmp_path):
    """Each file by itself, through the loaded and through the exported model: the same errors."""
    folder, _ = fine_tuned
    assert main(["export", str(folder), str(tmp_path / "exported")]) == 0
    summary = json.loads((folder / "results.json").read_text())["test-clean"]["no_lm"]
    with open(folder / "manifests/test-clean.csv", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for path in (folder, tmp_path / "exported"):
        recogniser = load_recogniser(path)
        decode = make_beam_searcher(recogniser.units, beam_size=4)
        rates = ErrorRates()
        for row in rows:
            with AudioReader(row["wav"].replace("$data_root", str(corpus))) as reader:
                wav = reader.read(0, reader.num_samples)
            with torch.no_grad():
                log_probs, _ = recogniser(wav.unsqueeze(0))
            rates.append([row["ID"]], decode(log_probs, torch.ones(1)), [row["wrd"]])
        assert rates.summary(20) == summary


def test_the_encoder_of_a_run_encodes_a_corpus(pretrained, corpus, tmp_path):
    out = tmp_path / "frames"
    call = ["encode", str(pretrained[0]), str(corpus / "dev-clean"), "--out", str(out)]
    assert main(call) == 0
    files = sorted((corpus / "dev-clean").rglob("*.flac"))
    written = sorted(out.rglob("*.npy"))
    assert len(written) == len(files)
    stamps = [path.stat().st_mtime_ns for path in written]
    assert main(call) == 0
    assert [path.stat().st_mtime_ns for path in written] == stamps
    frames = load_encoder(pretrained[0]).encode_file(files[0])
    stored = next(path for path in written if path.stem == files[0].stem)
    assert np.allclose(np.load(stored), frames.numpy(), atol=1e-5)
