"""Pretraining by its real command: outputs, metrics, limits, and resuming."""

import math
import os
import re

import pytest
import torch

from speechbrain_pom.data.packing import pack

STATE = ("model", "linear", "quantizer", "optimizer", "normalize", "noam_scheduler")
HEALTH = {
    "loss",
    "accuracy",
    "codes_in_use",
    "code_perplexity",
    "top_code_share",
    "masked_share",
}
FIGURES = {"grad_norm", "audio_s_per_s", "peak_memory_mib"}


def noam(recipes, step):
    """Learning rate of a step, counted from 1 (arXiv 1706.03762, scaled to its peak)."""
    warmup = recipes.BESTRQ["n_warmup_steps"]
    return recipes.BESTRQ["lr"] * warmup**0.5 * min(step**-0.5, step * warmup**-1.5)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def assert_equal_runs(recipes, first, second):
    """All tensors of both runs, and what they logged."""
    assert recipes.differing(recipes.tensors(first, *STATE), recipes.tensors(second, *STATE)) == []
    assert recipes.without_machine_figures(
        recipes.history(first)
    ) == recipes.without_machine_figures(recipes.history(second))


def test_outputs(recipes, pretrained):
    folder, printed = pretrained
    for name in (
        "train_log.txt",
        "history.jsonl",
        "curves.png",
        "hyperparams.yaml",
        "env.log",
        "log.txt",
        "train_bestrq.py",
        "manifests/train.csv",
        "manifests/train-clean-100.csv",
        "manifests/dev-clean.csv",
    ):
        assert (folder / name).stat().st_size > 0, name
    assert not list((folder / "manifests").glob("test*"))  # only the splits that are used
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len((folder / "train_log.txt").read_text().splitlines()) == 2
    assert any((folder / "tensorboard").glob("events.out.tfevents.*"))
    _, meta = recipes.newest_checkpoint(folder)
    assert meta["optimizer_step"] == recipes.history(folder)[-1]["steps"]
    assert re.search("max_batch_duration_s +10 ", printed)  # the table of options
    assert "running the demo" not in printed


def test_metrics_of_pretraining(recipes, pretrained):
    folder, _ = pretrained
    records = recipes.history(folder)
    assert [record["epoch"] for record in records] == [1, 2]
    for record in records:
        assert record["train"].keys() == HEALTH | FIGURES
        assert record["valid"].keys() == HEALTH
        for stats in (record["train"], record["valid"]):
            assert all(math.isfinite(value) for value in stats.values())
            assert (
                0 < stats["code_perplexity"] <= stats["codes_in_use"] <= recipes.BESTRQ["cb_vocab"]
            )
            assert 0 <= stats["accuracy"] <= 1
            assert stats["masked_share"] == pytest.approx(0.15 * 4, abs=0.03)
    first, second = records
    assert second["train"]["loss"] < first["train"]["loss"]
    # Masks and codes of validation are functions of the utterance alone.
    for name in ("codes_in_use", "top_code_share", "masked_share"):
        assert second["valid"][name] == first["valid"][name]


def test_the_learning_rate_is_that_of_the_step(recipes, pretrained):
    folder, _ = pretrained
    for record in recipes.history(folder):
        assert record["lr"] == pytest.approx(noam(recipes, record["steps"]))
    (used,) = {
        value for key, value in recipes.tensors(folder, "optimizer").items() if key.endswith(".lr")
    }
    assert used == recipes.history(folder)[-1]["lr"]


def test_a_finished_run_is_left_alone(recipes, pretrained, corpus):
    folder, _ = pretrained
    before = files(folder)
    printed = recipes.train("bestrq", folder, data_folder=corpus, tensorboard=True)
    assert "this run is finished, nothing to do" in printed
    assert files(folder) == before


def test_stopped_after_an_epoch_and_continued(recipes, pretrained, corpus, tmp_path):
    straight, _ = pretrained
    folder = tmp_path / "run"
    recipes.train("bestrq", folder, data_folder=corpus, number_of_epochs=1)
    assert [record["epoch"] for record in recipes.history(folder)] == [1]
    # The comparison below can fail: after one epoch the runs are different.
    assert recipes.differing(recipes.tensors(straight, "model"), recipes.tensors(folder, "model"))
    printed = recipes.train("bestrq", folder, data_folder=corpus)
    assert "at an epoch's end" in printed
    assert_equal_runs(recipes, straight, folder)


def test_killed_in_mid_epoch_and_resumed(recipes, pretrained, corpus, tmp_path):
    straight, _ = pretrained
    folder = tmp_path / "run"
    options = {"data_folder": corpus, "ckpt_interval_steps": 1, "ckpt_interval_minutes": 0}
    # In the second window of two batches of epoch 2, of which one batch is done.
    recipes.train_until_killed("bestrq", folder, epoch=2, batch=4, **options)
    steps = recipes.history(folder)[0]["steps"] + 1
    assert recipes.newest_checkpoint(folder)[1]["optimizer_step"] == steps
    printed = recipes.train("bestrq", folder, **options)
    assert f"Resumed after {steps} optimizer steps, at batch 2 of its next epoch" in printed
    assert_equal_runs(recipes, straight, folder)


def test_from_shards_killed_and_resumed_it_is_the_run_from_files(
    recipes, pretrained, corpus, tmp_path
):
    pytest.importorskip("pyarrow", reason="indexes are Parquet files: extra [scale]")
    straight, _ = pretrained
    for split in ("train-clean-100", "dev-clean"):
        packed = tmp_path / "packed" / split
        pack(corpus, packed, splits=[split], shard_bytes=10**6, show_progress=False)
    folder = tmp_path / "run"
    options = {"data_folder": tmp_path / "packed", "data_layout": "shards"}
    saving = {"ckpt_interval_steps": 1, "ckpt_interval_minutes": 0}
    recipes.train_until_killed("bestrq", folder, epoch=2, batch=4, **options, **saving)
    printed = recipes.train("bestrq", folder, **options, **saving)
    assert "index.parquet' is unchanged" in printed
    assert_equal_runs(recipes, straight, folder)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_resumed_run_has_the_same_masks_rates_and_steps(recipes, corpus, tmp_path):
    options = {"data_folder": corpus, "device": "cuda"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    recipes.train("bestrq", straight, **options)
    saving = {"ckpt_interval_steps": 1, "ckpt_interval_minutes": 0}
    recipes.train_until_killed("bestrq", killed, epoch=2, batch=4, **options, **saving)
    recipes.train("bestrq", killed, **options)
    for first, second in zip(recipes.history(straight), recipes.history(killed), strict=True):
        for name in ("epoch", "steps", "lr"):
            assert first[name] == second[name]
        assert first["train"]["masked_share"] == second["train"]["masked_share"]


def test_step_limit_and_one_mask_for_the_batch(recipes, corpus, tmp_path):
    options = {"data_folder": corpus, "mask_scope": "batch", "number_of_epochs": 9}
    folder = tmp_path / "run"
    recipes.train("bestrq", folder, optimizer_step_limit=1, **options)
    assert recipes.history(folder)[0]["lr"] == pytest.approx(
        noam(recipes, 1)
    )  # the first step is not at the peak
    assert recipes.history(folder)[0]["lr"] < recipes.BESTRQ["lr"] / 4
    # Biases of norms begin at 0, and Adam's first step is as long as the rate that it had.
    moved = [
        float(value.abs().max())
        for key, value in recipes.tensors(folder, "model").items()
        if key.endswith("norm.bias")
    ]
    assert max(moved) == pytest.approx(noam(recipes, 1), rel=0.01)
    share = recipes.history(folder)[0]["train"]["masked_share"]
    assert 0 < share < 0.63  # bounded by the shortest utterance of each batch
    assert recipes.newest_checkpoint(folder)[1]["optimizer_step"] == 1

    before = files(folder)
    assert "this run is finished" in recipes.train(
        "bestrq", folder, optimizer_step_limit=1, **options
    )
    assert files(folder) == before


def test_demo(recipes, tmp_path):
    """Without --data_folder: two lines say what is run, and how to run the paper's experiment."""
    options = {"train_splits": None, "number_of_epochs": 1, "optimizer_step_limit": 6}
    printed = recipes.train("bestrq", tmp_path / "demo", **options)
    lines = [line for line in printed.splitlines() if line.strip()]
    demo = next(i for i, line in enumerate(lines) if line.startswith("no --data_folder"))
    assert "running the demo on the mini corpus (synthetic speech, small model)" in lines[demo]
    assert lines[demo + 1] == (
        "the paper's experiment: python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml "
        "--data_folder /path/to/LibriSpeech"
    )
    assert recipes.history(tmp_path / "demo")[0]["steps"] == 6
    assert any(os.scandir(os.environ["SPEECHBRAIN_POM_CACHE"]))
    stored = (tmp_path / "demo/hyperparams.yaml").read_text()
    assert "\ndropout: 0.1\n" in stored
