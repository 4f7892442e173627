"""Model cards say what is found in a run's folder, and nothing else."""

import hashlib
import importlib.util
import json
import shutil

import pytest
import torch
import yaml
from speechbrain.dataio import audio_io

from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.data.manifest import write_manifest
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.inference import load_encoder, load_recogniser
from speechbrain_pom.reports.export import export_model
from speechbrain_pom.reports.model_card import loading_snippet, read_environment, write_card
from speechbrain_pom.runs.metrics import Metric, TaskMetrics, store_metrics
from speechbrain_pom.runs.record import record_fingerprint, record_run
from speechbrain_pom.utils.errors import UserError

NEEDS_TRANSFORMERS = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="the extra [hf] is not installed"
)
ENVIRONMENT = """\
Installed Python packages:
speechbrain==1.1.2
# Editable install with no version control (speechbrain-pom==0.1.0)
-e /home/me/speechbrain-pom
torch==2.11.0+cpu
torchaudio==2.11.0
==============================
Git revision:
1a2b3c4
==============================
"""


def rows_of(card):
    """First cell to second cell, of the tables with two columns."""
    lines = [line.strip("| ").split(" | ") for line in card.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1] for cells in lines if len(cells) == 2}


def card_of(folder, load=load_encoder, **options):
    return write_card("model", load(folder), find_saved(folder), **options)


@pytest.fixture
def pretraining(make_run, tmp_path):
    """With manifest and environment: four utterances, of which two are of the wanted length."""
    folder = tmp_path / "bestrq"
    make_run(folder, data_folder=str(tmp_path), meta={"accuracy": 0.25})
    durations_s = (1.5, 2.0, 34.0, 61.0)
    rows = [
        {
            "ID": f"u{i}",
            "duration": duration_s,
            "num_samples": 1,
            "wav": "a",
            "spk_id": "",
            "wrd": "",
        }
        for i, duration_s in enumerate(durations_s)
    ]
    (folder / "manifests").mkdir()
    write_manifest(folder / "manifests" / "train.csv", rows)
    (folder / "env.log").write_text(ENVIRONMENT)
    return folder


@pytest.fixture
def finetuning(make_run, tmp_path):
    """A finished run of 30 epochs, as in its YAML, with a test."""
    folder = tmp_path / "ctc"
    make_run(folder, "ctc", meta={"wer": 12.5})
    rates = ErrorRates()
    rates.append(["a", "b"], ["ONE TWO", ""], ["ONE TWO", "TWO TEN"])
    results = {"test-clean": dict.fromkeys(("no_lm", "lm"), rates.summary(100))}
    (folder / "results.json").write_text(json.dumps(results))
    finished = {"number_of_epochs": "30", "optimizer_step_limit": "null"}
    record_run(folder, finished=finished)
    return folder


def test_pretraining(pretraining):
    card = card_of(pretraining)
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "unknown"
    assert front["library_name"] == "speechbrain"
    assert front["pipeline_tag"] == "feature-extraction"
    assert "language" not in front
    assert card.endswith("## Licence\n\nNot stated.\n")
    rows = rows_of(card)
    assert rows["encoder"] == "ConformerEncoder, 2 layers, d_model 16"
    assert rows["mixers"].startswith("`PoM(degree=2, expand=2, ")
    assert rows["mixers"].endswith("` in 2 layers")
    weights = sum(weight.numel() for weight in load_encoder(pretraining).parameters())
    assert rows["parameters"] == f"{weights:,}"
    assert rows["input"] == "speech at 16000 Hz, mono"
    assert rows["frames"] == "16 values each 40 ms"
    splits = "train-clean-100, train-clean-360, train-other-500"
    assert rows["data"] == f"{splits}: 0.01 h, 2 utterances"
    assert rows["trained"] == "5 steps, 1 epochs"
    assert "BEST-RQ" in front["tags"]
    assert "by BEST-RQ, for SpeechBrain" in card
    assert rows["validation"] == "loss 1.500 nats, masked accuracy 25.0 %"
    assert rows["made with"] == "speechbrain-pom 0.1.0, speechbrain 1.1.2, torch 2.11.0+cpu"
    assert rows["commit"] == "`1a2b3c4`"
    checkpoint = find_saved(pretraining).checkpoint
    assert rows["checkpoint"] == f"`{checkpoint.name}`"
    digest = hashlib.sha256((checkpoint / "model.ckpt").read_bytes()).hexdigest()
    assert rows["sha256 of its `model.ckpt`"] == f"`{digest}`"
    assert "synthetic" not in card
    assert str(pretraining.parent) not in card


def test_the_card_of_another_objective_knows_its_own_metrics(pretraining):
    drift = Metric("drift", "dB", better="lower")
    store_metrics(pretraining, TaskMetrics("mine", (drift,), best="drift"))
    saved = find_saved(pretraining)
    card = write_card("model", load_encoder(pretraining), saved._replace(meta={"drift": 0.5}))
    assert rows_of(card)["validation"] == "drift 0.500 dB"
    assert "pretrained without transcripts by mine" in card
    assert "BEST-RQ" not in card


def test_mixers_layer_by_layer(make_run, tmp_path):
    spec = "regularMHA + PoM(degree=3) + Fastformer"
    make_run(tmp_path / "run", attention_type=spec, num_encoder_layers=3)
    mixers = rows_of(card_of(tmp_path / "run"))["mixers"]
    assert mixers.startswith("`regularMHA` in 1 layers, `PoM(degree=3, ")
    assert "`Fastformer" in mixers


def test_what_is_not_there_is_left_out(pretrained_run):
    rows = rows_of(card_of(pretrained_run))
    assert not {"made with", "commit", "began with"} & set(rows)
    assert rows["data"] == "train-clean-100, train-clean-360, train-other-500"


def test_audio_of_a_folder(make_run, tmp_path):
    make_run(tmp_path / "run", data_layout="folder")
    assert rows_of(card_of(tmp_path / "run"))["data"] == "a folder of audio"


def test_synthetic_data_are_named(make_run, tmp_path):
    corpus = make_mini_corpus(tmp_path / "mini", 0.5, show_progress=False)
    make_run(tmp_path / "run", data_folder=str(corpus))
    assert "**The training data are synthetic**" in card_of(tmp_path / "run")


def test_versions_of_another_environment_are_not_taken(tmp_path):
    (tmp_path / "env.log").write_text("torch==1.0\nspeechbrain==0.5\nGit revision:\n=====\n")
    assert read_environment(tmp_path) == (None, {})
    assert read_environment(None) == (None, {})


def test_finetuning(finetuning):
    card = card_of(finetuning, load_recogniser, licence="apache-2.0", language="en")
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "apache-2.0"
    assert front["language"] == "en"
    assert front["pipeline_tag"] == "automatic-speech-recognition"
    assert "CTC" in front["tags"]
    (entry,) = front["model-index"]
    assert entry["name"] == "model"
    metrics = [(m["type"], m["name"], m["value"]) for m in entry["results"][0]["metrics"]]
    assert metrics[:2] == [("wer", "WER, without LM", 50.0), ("cer", "CER, without LM", 50.0)]
    assert entry["results"][0]["dataset"] == {"name": "test-clean", "type": "test-clean"}
    rows = rows_of(card)
    assert rows["units"] == "29 characters, the blank included"
    assert rows["validation"] == "loss 1.500 nats, greedy WER 12.50 %"
    tests = [line for line in card.splitlines() if line.startswith("| test-clean")]
    assert "| test | WER (%) | CER (%) | utterances | words | empty outputs |" in card
    assert tests[0].startswith("| test-clean, without LM | 50.00 (")
    assert tests[1].startswith("| test-clean, with LM | 50.00 (")
    assert all(line.endswith(" | 2 | 4 | 1 |") for line in tests)
    assert card.endswith("## Licence\n\n`apache-2.0`\n")


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("from scratch", "random weights"),
        ("ab12", "a pretrained encoder, `model.ckpt` with sha256 "),
    ],
)
def test_the_start_of_finetuning(finetuning, source, shown):
    record_fingerprint(finetuning, pretrained=source, pretrained_from="/home/me/bestrq")
    card = card_of(finetuning, load_recogniser)
    assert rows_of(card)["began with"].startswith(shown)
    assert "/home/me" not in card


def test_error_rates_are_those_of_the_exported_checkpoint(finetuning, make_run, tmp_path):
    """Not of one that is not the best, nor of a run that has gone on since its test."""
    model = load_recogniser(finetuning)
    tested = find_saved(finetuning)
    assert "50.00" in write_card("model", model, tested)
    shutil.copytree(finetuning, tmp_path / "longer")
    finished = {"number_of_epochs": "20", "optimizer_step_limit": "null"}
    record_run(tmp_path / "longer", finished=finished)
    assert "50.00" not in write_card("model", model, find_saved(tmp_path / "longer"))
    record_run(tmp_path / "longer", finished=None)
    assert "50.00" not in write_card("model", model, find_saved(tmp_path / "longer"))
    worse = make_run(finetuning, "ctc", meta={"wer": 90.0})
    assert "50.00" not in write_card("model", model, find_saved(worse))
    assert "50.00" in write_card("model", model, tested)


@pytest.mark.parametrize("licence", ["", "CC BY 4.0", "mit\nmodel-index: x", "--"])
def test_a_licence_is_an_identifier(pretrained_run, licence):
    with pytest.raises(
        UserError, match=r"--licence is '.*': give an identifier such as apache-2.0"
    ):
        card_of(pretrained_run, licence=licence)


@pytest.mark.parametrize("language", ["", "English", "en\nde"])
def test_a_language_is_a_code(pretrained_run, language):
    with pytest.raises(UserError, match=r"--language is '.*': give a code such as en, fr or pt-BR"):
        card_of(pretrained_run, language=language)


def test_results_on_synthetic_data_are_not_for_hubs(finetuning, tmp_path):
    corpus = make_mini_corpus(tmp_path / "mini", 0.5, show_progress=False)
    saved = find_saved(finetuning)
    for path in (saved.hparams_file, finetuning / "hyperparams.yaml"):
        lines = path.read_text().splitlines()
        kept = [line for line in lines if not line.startswith("data_folder:")]
        path.write_text("\n".join([*kept, f"data_folder: {corpus}"]))
    (saved.checkpoint / "checksums.json").unlink()
    card = write_card("model", load_recogniser(finetuning), find_saved(finetuning))
    assert "**The training data are synthetic**" in card
    assert "| test-clean, without LM |" in card
    assert "model-index" not in card


FORMS = ["speechbrain", pytest.param("transformers", marks=NEEDS_TRANSFORMERS)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tuned", [False, True])
def test_the_snippet_runs(tuned, form, pretrained_run, finetuned_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = find_saved(finetuned_run if tuned else pretrained_run)
    export_model(saved, "MODEL", form=form)
    audio_io.save("speech.flac", 0.1 * torch.randn(1, 8000), 16000)
    names = {}
    snippet = loading_snippet(tuned, "MODEL", form)
    assert snippet in (tmp_path / "MODEL" / "README.md").read_text()
    exec(snippet, names)
    assert names["frames"].shape == (13, 16)
    assert isinstance(names.get("text"), str) == tuned
    assert ("model" in names) == (form == "transformers")
