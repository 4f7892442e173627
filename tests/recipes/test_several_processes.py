"""Both recipes under torchrun on a machine without GPUs, with no option for it."""

import json
import re

import pytest
import torch

pytestmark = pytest.mark.slow

# Runs a recipe, and writes down what each process trains on.
RECORDING = """
import json, os, runpy, sys
from speechbrain_pom.training.brain import ExactBrain
script, folder = sys.argv[1:3]
sys.argv[:3] = [script]
sys.path.insert(0, os.path.dirname(script))
def record(self, batch, should_step):
    line = [self.epoch, self.step, list(batch.id)]
    with open(os.path.join(folder, os.environ["RANK"]), "a") as stream:
        print(json.dumps(line), file=stream)
ExactBrain.on_fit_batch_start = record
runpy.run_path(script, run_name="__main__")
"""


def train(recipes, stage, tmp_path, **options):
    """Train with two processes; return what was printed and the batches of both ranks."""
    script, record = tmp_path / "recording.py", tmp_path / "record"
    script.write_text(RECORDING)
    record.mkdir()
    launcher = [*recipes.TORCHRUN, script]
    path, *rest = recipes.arguments(stage, output_folder=tmp_path / "run", **options)
    rest = [part for part in [path, str(record), *rest] if part not in ("--device", "cpu")]
    result = recipes.run([*launcher, *rest], CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    ranks = [
        [json.loads(line) for line in (record / str(rank)).read_text().splitlines()]
        for rank in range(2)
    ]
    return result.stdout + result.stderr, ranks


def check_batches(ranks, manifest, num_epochs):
    """The same number of steps on both ranks, and every utterance once per epoch."""
    everything = sorted(line.split(",")[0] for line in manifest.read_text().splitlines()[1:])
    first, second = ([batch[:2] for batch in rank] for rank in ranks)
    assert first == second
    for epoch in range(1, num_epochs + 1):
        ids = [key for rank in ranks for batch in rank if batch[0] == epoch for key in batch[2]]
        assert sorted(ids) == everything


def test_pretraining(recipes, corpus, tmp_path):
    printed, ranks = train(recipes, "bestrq", tmp_path, data_folder=corpus)
    folder = tmp_path / "run"
    assert re.search(r"distributed_backend +gloo +torchrun", printed)
    assert re.search(r"processes +2 +torchrun", printed)
    check_batches(ranks, folder / "manifests/train.csv", num_epochs=2)
    records = recipes.history(folder)
    assert [record["epoch"] for record in records] == [1, 2]
    assert records[0]["steps"] == -(-len([b for b in ranks[0] if b[0] == 1]) // 2)
    assert records[0]["train"]["masked_share"] == pytest.approx(0.6, abs=0.03)
    checkpoint, meta = recipes.newest_checkpoint(folder)
    assert meta["optimizer_step"] == records[-1]["steps"]
    names = recipes.tensors(folder, "model")
    assert not any("module." in name.split(".", 3)[2] for name in names)  # without DDP's prefix
    assert all(torch.isfinite(value).all() for value in names.values())
    assert (checkpoint / "optimizer.ckpt").is_file()


def test_each_process_draws_its_own_chunks(recipes, corpus, tmp_path):
    """And still all processes take the same steps; both stages, one from the other."""
    chunks = {"streaming": True, "chunk_size_range": "[2, 6]", "data_folder": corpus}
    folders = [tmp_path / stage for stage in ("bestrq", "ctc")]
    for folder in folders:
        folder.mkdir()
    train(recipes, "bestrq", folders[0], number_of_epochs=1, **chunks)
    options = {"test_chunks": "[null, [4, 1]]", "pretrained": folders[0] / "run", **chunks}
    _, ranks = train(recipes, "ctc", folders[1], number_of_epochs=1, **options)
    check_batches(ranks, folders[1] / "run/manifests/train.csv", num_epochs=1)
    results = json.loads((folders[1] / "run/results.json").read_text())
    assert results["test-clean"].keys() == {"no_lm", "chunk4_left1"}
    weights = recipes.tensors(folders[1] / "run", "model", "head")
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_wav2vec2_drops_other_layers_in_each_process(recipes, corpus, tmp_path):
    """And still all processes take the same steps, with the same weights."""
    options = {"layerdrop_prob": 0.5, "grad_accumulation_factor": 1, "data_folder": corpus}
    _, ranks = train(recipes, "wav2vec2", tmp_path, **options)
    folder = tmp_path / "run"
    check_batches(ranks, folder / "manifests/train.csv", num_epochs=2)
    records = recipes.history(folder)
    assert records[-1]["steps"] == len(ranks[0])
    assert records[-1]["train"]["loss"] < records[0]["train"]["loss"]
    assert records[0]["train"]["gumbel_temperature"] > records[-1]["train"]["gumbel_temperature"]
    values = recipes.tensors(folder, "model", "quantizer", "linear", "mask_vector").values()
    assert all(torch.isfinite(value).all() for value in values)


def test_fine_tuning_with_all_layers(recipes, corpus, tmp_path):
    printed, ranks = train(
        recipes,
        "ctc",
        tmp_path,
        data_folder=corpus,
        pretrained="null",
        weighted_sum=True,
        grad_accumulation_factor=1,
        number_of_epochs=1,
    )
    folder = tmp_path / "run"
    check_batches(ranks, folder / "manifests/train.csv", num_epochs=1)
    assert recipes.newest_checkpoint(folder)[1]["optimizer_step"] == len(ranks[0]) > 1
    results = json.loads((folder / "results.json").read_text())
    assert {split: result["no_lm"]["num_utterances"] for split, result in results.items()} == {
        "test-clean": 2,
        "test-other": 2,
    }
    assert len(re.findall("test-clean, no_lm: WER", printed)) == 1  # the main process alone
