"""Logs continue after a resume without a gap, a duplicate or a torn line."""

import importlib.util
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from speechbrain.utils.train_logger import TrainLogger, WandBLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechbrain_pom.runs.logs import EpochHistory, ExperimentLogger
from speechbrain_pom.utils.errors import UserError


@pytest.fixture
def _no_pictures(monkeypatch):
    """Drawing takes most of the time of an epoch here."""
    monkeypatch.setattr("speechbrain_pom.runs.logs.draw_curves", lambda *_: None)


def log_epochs(logger, epochs, offset=0.0):
    for epoch in epochs:
        logger.log_stats(
            {"epoch": epoch, "steps": 20 * epoch, "lr": 1e-3},
            {"loss": 9.0 - epoch + offset},
            {"loss": 9.5 - epoch + offset, "accuracy": 0.1 * epoch},
        )


def contents(folder):
    return {name: (folder / name).read_text() for name in ("train_log.txt", "history.jsonl")}


def test_one_line_per_epoch_in_speechbrains_format(tmp_path):
    logger = ExperimentLogger(tmp_path)
    log_epochs(logger, [1])
    expected = (
        "epoch: 1, steps: 20, lr: 1.00e-03 - train loss: 8.00"
        " - valid loss: 8.50, valid accuracy: 1.00e-01\n"
    )
    assert (tmp_path / "train_log.txt").read_text() == expected
    assert logger.history.records() == [
        {
            "epoch": 1,
            "steps": 20,
            "lr": 1e-3,
            "train": {"loss": 8.0},
            "valid": {"loss": 8.5, "accuracy": 0.1},
        }
    ]
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_making_the_logger_writes_nothing(tmp_path):
    ExperimentLogger(tmp_path / "out", tensorboard=True).resume(3)
    assert list(tmp_path.iterdir()) == []


def test_nan_is_nan_and_large_numbers_are_readable(tmp_path):
    logger = ExperimentLogger(tmp_path)
    logger.log_stats({"epoch": 1}, {"loss": math.nan, "code_perplexity": 1234.56}, None)
    assert "train loss: NaN, train code_perplexity: 1234.6\n" in contents(tmp_path)["train_log.txt"]
    assert math.isnan(logger.history.records()[0]["train"]["loss"])


@pytest.mark.usefixtures("_no_pictures")
def test_resumed_logs_equal_those_of_a_straight_run(tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    for folder in (straight, resumed):
        folder.mkdir()
    log_epochs(ExperimentLogger(straight), range(1, 13))
    log_epochs(ExperimentLogger(resumed), range(1, 12), offset=0.3)
    ExperimentLogger(resumed).resume(0)
    log_epochs(ExperimentLogger(resumed), range(1, 12))
    again = ExperimentLogger(resumed)
    again.resume(9)
    log_epochs(again, range(10, 13))
    assert contents(resumed) == contents(straight)


@pytest.mark.usefixtures("_no_pictures")
def test_without_resume_epochs_would_repeat(tmp_path):
    log_epochs(ExperimentLogger(tmp_path), [1, 2])
    with pytest.raises(ValueError, match=r"history\.jsonl has epoch 2 already, and epoch 2 was "):
        log_epochs(ExperimentLogger(tmp_path), [2])


@pytest.mark.usefixtures("_no_pictures")
def test_test_results_stay_unless_an_earlier_epoch_is_dropped(tmp_path):
    logger = ExperimentLogger(tmp_path)
    log_epochs(logger, [1, 2])
    logger.log_stats({"Epoch loaded": 2}, test_stats={"wer": 12.34})
    before = contents(tmp_path)
    assert before["train_log.txt"].splitlines()[2] == "Epoch loaded: 2 - test wer: 12.34"
    assert len(before["history.jsonl"].splitlines()) == 2
    logger.resume(2)
    assert contents(tmp_path) == before
    logger.resume(1)
    assert len(contents(tmp_path)["train_log.txt"].splitlines()) == 1


@pytest.mark.usefixtures("_no_pictures")
@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    log_epochs(ExperimentLogger(tmp_path), [1])
    expected = contents(tmp_path)
    log_epochs(ExperimentLogger(tmp_path), [2])
    for name in expected:
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-cut])
    logger = ExperimentLogger(tmp_path)
    assert [record["epoch"] for record in logger.history.records()] == [1]
    logger.resume(1)
    assert contents(tmp_path) == expected


def test_history_appends_after_a_torn_line(tmp_path):
    history = EpochHistory(tmp_path / "history.jsonl")
    history.append({"epoch": 1, "lr": torch.tensor(0.5)})
    with open(history.path, "a") as stream:
        stream.write('{"epoch": 2, "tr')
    history.append({"epoch": 2, "loss": math.inf})
    assert history.records() == [{"epoch": 1, "lr": 0.5}, {"epoch": 2, "loss": math.inf}]


def test_a_picture_that_cannot_be_drawn_does_not_stop_the_run(tmp_path, caplog):
    (tmp_path / "curves.png").mkdir()
    log_epochs(ExperimentLogger(tmp_path), [1, 2])
    assert "curves.png is not updated: " in caplog.text
    assert len(contents(tmp_path)["train_log.txt"].splitlines()) == 2


def test_other_processes_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("speechbrain_pom.runs.logs.if_main_process", lambda: False)
    logger = ExperimentLogger(tmp_path, tensorboard=True)
    log_epochs(logger, [1])
    logger.resume(0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_pictures")
def test_tensorboard_has_each_epoch_once_after_a_resume(tmp_path):
    log_epochs(ExperimentLogger(tmp_path, tensorboard=True), [1, 2, 3], offset=0.3)
    resumed = ExperimentLogger(tmp_path, tensorboard=True)
    resumed.resume(1)
    log_epochs(resumed, [2, 3])
    assert losses_in_tensorboard(tmp_path) == [(1, 8.3), (2, 7.0), (3, 6.0)]
    resumed.resume(2)
    log_epochs(resumed, [3, 4])
    assert [step for step, _ in losses_in_tensorboard(tmp_path)] == [1, 2, 3, 4]

    tester = ExperimentLogger(tmp_path, tensorboard=True)
    tester.log_stats({"Epoch loaded": 3, "note": "best"}, test_stats={"wer": 12.0})
    assert [step for step, _ in losses_in_tensorboard(tmp_path)] == [1, 2, 3, 4]
    tags = set(events_of(tmp_path).Tags()["scalars"])
    assert {"loss/valid", "accuracy/valid", "lr", "wer/test"} <= tags


def events_of(folder):
    return EventAccumulator(str(folder / "tensorboard")).Reload()


def losses_in_tensorboard(folder):
    events = events_of(folder).Scalars("loss/train")
    return [(event.step, round(event.value, 3)) for event in events]


class Recorder(TrainLogger):
    """Any other logger of SpeechBrain's interface."""

    def __init__(self):
        self.calls = []

    def log_stats(self, stats_meta, train_stats=None, valid_stats=None, test_stats=None):
        self.calls.append((stats_meta, train_stats, valid_stats, test_stats))


@pytest.mark.usefixtures("_no_pictures")
def test_other_loggers_get_each_call_with_its_epoch(tmp_path):
    first, second = Recorder(), Recorder()
    logger = ExperimentLogger(tmp_path, others=[first, second])
    log_epochs(logger, [1, 2])
    logger.log_stats({"Epoch loaded": 2}, test_stats={"wer": 12.0})
    assert [call[0].get("epoch") for call in first.calls] == [1, 2, None]
    assert first.calls[2][3] == {"wer": 12.0}
    assert first.calls == second.calls


@pytest.mark.usefixtures("_no_pictures")
def test_steps_of_weights_and_biases_are_epochs(tmp_path):
    logged = []
    run = SimpleNamespace(log=lambda values, step=None: logged.append((step, values)))
    log_epochs(ExperimentLogger(tmp_path, others=[WandBLogger(lambda: run)]), [1, 2])
    resumed = ExperimentLogger(tmp_path, others=[WandBLogger(lambda: run)])
    resumed.resume(1)
    log_epochs(resumed, [2])
    assert [step for step, _ in logged] == [1, 2, 2]
    assert logged[0][1]["train"]["loss"] > 0


def test_what_is_no_logger_is_refused(tmp_path):
    with pytest.raises(UserError, match="others of the logger: 'wandb' has no log_stats: give a T"):
        ExperimentLogger(tmp_path, others=["wandb"])


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "tensorboard: True needs the package tensorboard: pip install tensorboard, "
    with pytest.raises(ValueError, match=message):
        ExperimentLogger(tmp_path, tensorboard=True)
    ExperimentLogger(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.usefixtures("_no_pictures")
def test_a_full_disk_is_said_and_the_epoch_can_be_logged_again(tmp_path):
    logger = ExperimentLogger(tmp_path)
    log_epochs(logger, [1])
    kept = (tmp_path / "train_log.txt").read_text()
    (tmp_path / "train_log.txt").unlink()
    (tmp_path / "train_log.txt").symlink_to("/dev/full")
    message = (
        "cannot be written: disk full. The checkpoints are as they were: make room and run the"
    )
    with pytest.raises(RuntimeError, match=message):
        log_epochs(logger, [2])
    (tmp_path / "train_log.txt").unlink()
    (tmp_path / "train_log.txt").write_text(kept)
    logger.resume(1)
    log_epochs(logger, [2])
    assert [record["epoch"] for record in logger.history.records()] == [1, 2]
    assert len((tmp_path / "train_log.txt").read_text().splitlines()) == 2
