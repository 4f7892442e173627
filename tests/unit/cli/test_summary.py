"""`summary` reads what the recipes' own loggers write."""

import json
import logging

import pytest
from speechbrain.utils.quirks import log_applied_quirks

from speechbrain_pom.__main__ import main
from speechbrain_pom.cli import summary
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.probe.metrics import ClassificationScores
from speechbrain_pom.runs.logs import ExperimentLogger

COST = {"grad_norm": 1.0, "audio_s_per_s": 79.6, "peak_memory_mib": 1327.5}
CODES = {"codes_in_use": 171, "code_perplexity": 102.4, "top_code_share": 0.05}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """The loggers draw after each epoch, which is not what is tested here."""
    monkeypatch.setattr("speechbrain_pom.runs.logs.draw_curves", lambda *_: None)


def log_epochs(folder, train, valid):
    """One record per epoch, through the logger of the recipes."""
    folder.mkdir()
    log = ExperimentLogger(folder)
    for epoch, (train_stats, valid_stats) in enumerate(zip(train, valid, strict=True), 1):
        log.log_stats({"epoch": epoch, "steps": 27 * epoch}, {**train_stats, **COST}, valid_stats)


@pytest.fixture
def pretraining(tmp_path):
    folder = tmp_path / "bestrq"
    losses, accuracies = (5.25, 4.5, 4.0), (0.033, 0.1, 0.2)
    stats = [{"loss": x, "accuracy": y, **CODES} for x, y in zip(losses, accuracies, strict=True)]
    log_epochs(folder, stats, stats)
    (folder / "hyperparams.yaml").write_text(
        "data_folder: /data\nattention_type: PoM(degree=3)\nd_model: 144\nnum_encoder_layers: 4\n"
        "cb_vocab: 256\n"
    )
    return folder


@pytest.fixture
def finetuning(tmp_path):
    folder = tmp_path / "ctc"
    train = [{"loss": 3.0}, {"loss": 1.0}, {"loss": 0.5}]
    valid = [{"loss": 3.0, "wer": wer, "cer": wer / 2} for wer in (100.0, 20.0, 25.0)]
    log_epochs(folder, train, valid)
    rates = ErrorRates()
    rates.append(["a", "b"], ["ONE TWO", ""], ["ONE TWO", "TWO TEN"])
    figures = json.dumps({"test-clean": dict.fromkeys(("no_lm", "lm"), rates.summary(100))})
    (folder / "results.json").write_text(figures)
    rates.write(folder / "wer_test-clean_no_lm.txt")
    return folder


def rows_of(text):
    """Label to text, for one run."""
    lines = text.splitlines()[1:]
    return {line[2:15].strip(): line[16:] for line in lines if line[2] != " "}


@pytest.mark.parametrize("csvs", ["a.csv?split=train", "[a.csv?split=train, b.csv]"])
def test_csv_files_of_ones_own(pretraining, capsys, csvs):
    with open(pretraining / "hyperparams.yaml", "a") as stream:
        stream.write(f"train_csv: {csvs}\n")
    assert main(["summary", str(pretraining)]) == 0
    assert rows_of(capsys.readouterr().out)["trained on"] == csvs.strip("[]")


def test_pretraining(pretraining, capsys):
    assert main(["summary", str(pretraining)]) == 0
    text = capsys.readouterr().out
    assert text.splitlines()[0] == str(pretraining)
    rows = rows_of(text)
    assert rows["encoder"] == "PoM(degree=3), d_model 144, 4 layers"
    assert rows["data"] == "/data"
    assert rows["trained"] == "to epoch 3, 81 steps"
    assert rows["masked loss"] == "train 5.250 -> 4.000, valid 5.250 -> 4.000"
    assert rows["accuracy"].startswith("train 3.3 -> 20.0 %, valid 3.3 -> 20.0 % of the masked")
    assert rows["accuracy"].endswith("(always guessing the commonest code: 5.0 %)")
    assert rows["codes"] == "171 of 256 in use, perplexity 102"
    assert rows["speed"].startswith("80 s of audio per second, peak memory 1328 MiB")
    assert f"{pretraining / 'train_log.txt'}\n" in text
    assert "test-clean" not in text


def test_finetuning(finetuning):
    text = summary.summarize(finetuning)
    rows = rows_of(text)
    assert rows["valid"].startswith("greedy WER 100.00 -> 25.00 %, CER 50.00 -> 12.50 %")
    assert rows["valid"].endswith("best WER 20.00 % in epoch 2")
    tests = [line for line in text.splitlines() if line.startswith("  test-clean ")]
    assert [line.rsplit(", ")[-1] for line in tests] == ["without LM", "with LM"]
    assert all("WER 50.00 ±" in line and "1 of 2 outputs empty" in line for line in tests)
    assert str(finetuning / "wer_test-clean_no_lm.txt") in text


def test_several_folders(pretraining, finetuning, capsys):
    assert main(["summary", str(pretraining), str(finetuning)]) == 0
    blocks = capsys.readouterr().out.split("\n\n")
    assert [block.splitlines()[0] for block in blocks] == [str(pretraining), str(finetuning)]


def test_synthetic_data_are_named(pretraining, tmp_path):
    corpus = make_mini_corpus(tmp_path / "mini", 0.5, show_progress=False)
    (pretraining / "hyperparams.yaml").write_text(f"data_folder: {corpus}\n")
    assert "say nothing about LibriSpeech" in rows_of(summary.summarize(pretraining))["data"]


@pytest.mark.parametrize(
    ("pretrained", "shown"), [("null", "scratch"), ("results/bestrq", "results/bestrq")]
)
def test_start_of_finetuning(finetuning, pretrained, shown):
    (finetuning / "hyperparams.yaml").write_text(f"pretrained: {pretrained}\n")
    assert rows_of(summary.summarize(finetuning))["started from"] == shown


def test_time_leaves_out_the_pauses(pretraining):
    lines = [
        "2026-01-01 10:00:00,000 - quirks - INFO - Applied quirks (see ...): []",
        "2026-01-01 10:10:00,500 - train - INFO - options:\n  lr  0.1  YAML",
        "2026-01-02 23:00:00,000 - quirks - INFO - Applied quirks (see ...): []",
        "2026-01-03 00:05:30,000 - train - INFO - done",
    ]
    (pretraining / "log.txt").write_text("\n".join(lines))
    rows = rows_of(summary.summarize(pretraining))
    assert rows["trained"] == "to epoch 3, 81 steps, 1:15:30 in all runs of this folder"


def test_speechbrain_writes_the_line_that_opens_a_run(caplog):
    with caplog.at_level(logging.INFO):
        log_applied_quirks()
    assert any(summary._RUN_START in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such folder: '{}': give the output folder of a run"),
        ("", "'{}' holds no finished epoch of a run (no history.jsonl): give the output_folder of"),
    ],
)
def test_bad_calls(tmp_path, capsys, name, message):
    with pytest.raises(SystemExit) as stop:
        main(["summary", str(tmp_path / name)])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: " + message.format(tmp_path / name))
    assert error.count("\n") == 1


def test_a_probe(tmp_path, capsys):
    folder = tmp_path / "probe"
    stats = [{"loss": 2.0, "error_rate": 60.0}, {"loss": 1.0, "error_rate": 25.0}]
    log_epochs(folder, stats, stats)
    scores = ClassificationScores()
    scores.append(["a", "b"], ["RED", "BLUE"], ["RED", "RED"])
    results = {"task": "speaker", "random_encoder": False, "layer_weights": [0.4, 0.6]}
    results |= {"test": scores.summary(100), "verification": {"eer": 12.345, "num_same": 9}}
    (folder / "results.json").write_text(json.dumps(results))
    assert main(["summary", str(folder)]) == 0
    rows = rows_of(capsys.readouterr().out)
    assert rows["errors"] == "train 60.00 -> 25.00 %, valid 60.00 -> 25.00 %"
    assert rows["test"].startswith("accuracy 50.00 % (")
    assert rows["verification"] == "equal error rate 12.35 %"
