"""`summary` reads what the recipes' own loggers write."""

import json
import logging
import re

import pytest
from speechbrain.utils.quirks import log_applied_quirks

from speechbrain_pom.__main__ import main
from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.data.mini_corpus.make import make_mini_corpus
from speechbrain_pom.objectives.bestrq import BestRQ
from speechbrain_pom.objectives.pretraining import pretraining_metrics
from speechbrain_pom.probe.metrics import PROBE_METRICS, ClassificationScores
from speechbrain_pom.reports import summary
from speechbrain_pom.runs import logs
from speechbrain_pom.runs.logs import ExperimentLogger
from speechbrain_pom.runs.metrics import Metric, TaskMetrics
from speechbrain_pom.runs.record import RUN_FILE

BESTRQ = pretraining_metrics(BestRQ)
COST = {"grad_norm": 1.0, "audio_s_per_s": 79.6, "peak_memory_mib": 1327.5}
CODES = {"codes_in_use": 171, "code_perplexity": 102.4, "top_code_share": 0.05}


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    """The loggers draw after each epoch, which is not what is tested here."""
    monkeypatch.setattr("speechbrain_pom.runs.logs.draw_curves", lambda *_: None)


def log_epochs(folder, task, train, valid):
    """One record per epoch, through the logger of the recipes; as 0.1 did it if task is None."""
    folder.mkdir()
    log = ExperimentLogger(folder)
    if task is not None:
        log.declare(task)
    for epoch, (train_stats, valid_stats) in enumerate(zip(train, valid, strict=True), 1):
        log.log_stats({"epoch": epoch, "steps": 27 * epoch}, {**train_stats, **COST}, valid_stats)


@pytest.fixture
def pretraining(tmp_path):
    folder = tmp_path / "bestrq"
    losses, accuracies = (5.25, 4.5, 4.0), (0.033, 0.1, 0.2)
    stats = [{"loss": x, "accuracy": y, **CODES} for x, y in zip(losses, accuracies, strict=True)]
    log_epochs(folder, BESTRQ, stats, stats)
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
    log_epochs(folder, CTC_METRICS, train, valid)
    rates = ErrorRates()
    rates.append(["a", "b"], ["ONE TWO", ""], ["ONE TWO", "TWO TEN"])
    figures = json.dumps({"test-clean": dict.fromkeys(("no_lm", "lm"), rates.summary(100))})
    (folder / "results.json").write_text(figures)
    rates.write(folder / "wer_test-clean_no_lm.txt")
    return folder


def rows_of(text):
    """Label to text, for one run."""
    lines = [re.split(r"  +", line.strip(), maxsplit=1) for line in text.splitlines()[1:]]
    return {parts[0]: parts[1] for parts in lines if len(parts) == 2}


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
    loss = "train 5.250 -> 4.000 nats, valid 5.250 -> 4.000 nats; best 4.000 nats in epoch 3"
    assert rows["loss"] == loss
    accuracy = "train 3.3 -> 20.0 %, valid 3.3 -> 20.0 % (commonest code 5.0 %)"
    assert rows["masked accuracy"] == accuracy
    assert rows["codes in use"] == "valid 171"
    assert rows["code perplexity"] == "valid 102"
    assert rows["speed"] == "train 80 s of audio per second"
    assert rows["peak memory"] == "train 1328 MiB"
    assert f"{pretraining / 'train_log.txt'}\n" in text
    assert "test-clean" not in text


def test_finetuning(finetuning):
    text = summary.summarize(finetuning)
    rows = rows_of(text)
    assert rows["greedy WER"] == "valid 100.00 -> 25.00 %; best 20.00 % in epoch 2"
    assert rows["greedy CER"] == "valid 50.00 -> 12.50 %"
    tests = [line for line in text.splitlines() if line.startswith("  test-clean ")]
    assert [line.rsplit(", ")[-1] for line in tests] == ["without LM", "with LM"]
    assert all("WER 50.00 ±" in line and "empty outputs 1" in line for line in tests)
    assert str(finetuning / "wer_test-clean_no_lm.txt") in text


def test_the_encoder_of_a_fine_tuning_stands_in_its_section(finetuning):
    text = "encoder:\n  layers: [last]\n  transformer:\n    attention_type: PoM\n    d_model: 16\n"
    (finetuning / "hyperparams.yaml").write_text(text + "    num_encoder_layers: 2\n")
    rows = rows_of(summary.summarize(finetuning))
    assert rows["encoder"] == "PoM, d_model 16, 2 layers"


def test_one_epoch_has_no_course(tmp_path):
    stats = [{"loss": 3.0, "wer": 100.0, "cer": 100.0}]
    log_epochs(tmp_path / "ctc", CTC_METRICS, stats, stats)
    rows = rows_of(summary.summarize(tmp_path / "ctc"))
    assert rows["loss"] == "train 3.000 nats, valid 3.000 nats"
    assert rows["greedy WER"] == "valid 100.00 %; best 100.00 % in epoch 1"


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
    assert any(logs._RUN_START in message for message in caplog.messages)


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
    log_epochs(folder, PROBE_METRICS, stats, stats)
    scores = ClassificationScores()
    scores.append(["a", "b"], ["RED", "BLUE"], ["RED", "RED"])
    results = {"task": "speaker", "random_encoder": False, "layer_weights": [0.4, 0.6]}
    results |= {"test": scores.summary(100), "verification": {"eer": 12.345, "num_same": 9}}
    (folder / "results.json").write_text(json.dumps(results))
    assert main(["summary", str(folder)]) == 0
    rows = rows_of(capsys.readouterr().out)
    errors = "train 60.00 -> 25.00 %, valid 60.00 -> 25.00 %; best 25.00 % in epoch 2"
    assert rows["error rate"] == errors
    assert rows["test"].startswith("accuracy 50.00 ±50.00 % (")
    assert rows["verification"] == "equal error rate 12.35 %"


def test_an_objective_that_logs_an_accuracy_and_none_of_the_codes(tmp_path):
    """0.1 took any accuracy for that of BEST-RQ, and died of a KeyError."""
    stats = [{"loss": 5.0, "accuracy": 0.5}, {"loss": 4.0, "accuracy": 0.75}]
    shown = Metric("accuracy", "share", better="higher", compared_with="top_code_share")
    task = TaskMetrics("mine", (Metric("loss", better="lower"), shown), best="accuracy")
    log_epochs(tmp_path / "mine", task, stats, stats)
    rows = rows_of(summary.summarize(tmp_path / "mine"))
    expected = "train 50.0 -> 75.0 %, valid 50.0 -> 75.0 %; best 75.0 % in epoch 2"
    assert rows["accuracy"] == expected
    assert rows["loss"] == "train 5.000 -> 4.000, valid 5.000 -> 4.000"


@pytest.mark.parametrize("run", ["pretraining", "finetuning"])
def test_runs_of_0_1_have_the_same_summary(run, request):
    folder = request.getfixturevalue(run)
    declared = summary.summarize(folder)
    (folder / RUN_FILE).unlink()
    assert summary.summarize(folder) == declared
