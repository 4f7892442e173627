"""PretrainingBrain trains any objective, through its contract alone."""

import json
import logging
import math

import pytest
import torch
import yaml
from speechbrain.nnet.schedulers import LinearWarmupScheduler
from speechbrain.utils.epoch_loop import EpochCounter

from speechbrain_pom.objectives import Objective, Outcome
from speechbrain_pom.objectives.pretraining import PretrainingBrain
from speechbrain_pom.runs.checkpoints import SafeCheckpointer
from speechbrain_pom.runs.logs import ExperimentLogger
from speechbrain_pom.runs.metrics import Metric, read_metrics
from speechbrain_pom.training.sums import EpochSums
from speechbrain_pom.utils.errors import UserError
from tests.helpers.signals import SAMPLE_RATE, fit, make_signals


class Teacher(Objective):
    """Predicts what an average of its own weights makes of the signal: an EMA teacher."""

    name = "teacher"
    metrics = (
        Metric("loss", better="lower"),
        Metric("likeness", "share", better="higher"),
        Metric("histogram_bins", "count", parts=("valid",)),
    )
    best = "likeness"
    target = "ab12"

    def __init__(self, encoder):
        super().__init__(encoder)
        self.predictor = torch.nn.Linear(8, 8)
        self.teacher = torch.nn.Linear(10, 8).requires_grad_(False)
        self.draws, self.steps = [], 0

    def forward(self, wavs, num_samples, ids, draw):
        self.draws.append((draw, tuple(ids), num_samples.tolist()))
        windows = wavs.unfold(1, 10, 10)
        error = (self.predictor(self.encoder(windows)) - self.teacher(windows)).square()
        likeness = torch.exp(-error.detach()).sum()
        histogram = torch.histc(error.detach().nan_to_num(0.0), bins=4, min=0.0, max=8.0)
        sums = {"error": error.detach().sum(), "likeness": likeness, "num": error.numel()}
        return Outcome(error.sum(), error.numel(), {**sums, "histogram": histogram})

    def summary(self, sums):
        return {
            "loss": sums.ratio("error", "num"),
            "likeness": sums.ratio("likeness", "num"),
            "histogram_bins": int((sums["histogram"] > 0).sum()),
        }

    def warning(self, stats):
        return f"likeness of {stats['likeness']:.1f}" if stats["likeness"] < 2 else None

    def fingerprints(self):
        return {"target": self.target}

    def on_optimizer_step_end(self):
        self.steps += 1
        for own, others in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            own.lerp_(others.detach(), 0.5)


def make_brain(folder, *, epochs=2, init_seed=0, kind=Teacher, options=None, **run_opts):
    torch.manual_seed(init_seed)
    objective = kind(torch.nn.Linear(10, 8))
    counter = EpochCounter(epochs)
    hparams = {
        "seed": 3,
        "sample_rate": SAMPLE_RATE,
        "epoch_counter": counter,
        "num_checkpoints_to_keep": 1,
        "output_folder": str(folder),
        "train_logger": ExperimentLogger(folder),
        "noam_annealing": lambda optimizer: None,
        **(options or {}),
    }
    recoverables = {"model": objective.encoder, "counter": counter}
    return PretrainingBrain(
        modules={"objective": objective},
        opt_class=lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
        hparams=hparams,
        run_opts={"device": "cpu", "noprogressbar": True, **run_opts},
        checkpointer=SafeCheckpointer(folder / "save", recoverables),
    )


def history(folder):
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def test_it_learns_and_logs_what_it_declares(tmp_path, caplog):
    signals = make_signals(6)
    with caplog.at_level(logging.WARNING):
        brain = fit(make_brain(tmp_path, epochs=3), signals, batch_size=2)
    records = history(tmp_path)
    declared = {name: {one.name for one in brain.task_metrics.of(name)} for name in ("valid",)}
    assert all(record["valid"].keys() == declared["valid"] for record in records)
    assert records[-1]["train"]["loss"] < records[0]["train"]["loss"]
    assert records[-1]["lr"] == 0.01
    assert "likeness of 0." in caplog.text
    stored = read_metrics(tmp_path)
    assert (stored.task, stored.best, stored.use) == ("teacher", "likeness", "newest")
    assert {"likeness", "lr", "grad_norm"} <= {metric.name for metric in stored.metrics}


def test_statistics_do_not_depend_on_how_utterances_are_batched(tmp_path):
    signals = make_signals(5)
    figures = []
    for size in (1, 2):
        brain = make_brain(tmp_path / str(size), epochs=1)
        sums = EpochSums()
        with torch.no_grad():
            for start in range(0, 5, size):
                wavs = [signal[:60] for signal in list(signals.values())[start : start + size]]
                sums.add(**brain.objective(torch.stack(wavs), torch.tensor([60]), "", None).sums)
        figures.append(brain.objective.summary(sums))
    assert figures[0] == pytest.approx(figures[1])


def test_the_objective_is_told_where_it_is(tmp_path):
    brain = fit(make_brain(tmp_path), make_signals(3))
    draws = [draw for draw, _, _ in brain.objective.draws]
    assert [(one.epoch, one.step, one.training) for one in draws if one.training] == [
        (epoch, step, True) for epoch in (1, 2) for step in (1, 2, 3)
    ]
    assert {(one.seed, one.rank) for one in draws} == {(3, 0)}
    assert [one.epoch for one in draws if not one.training] == [1] * 3 + [2] * 3
    lengths = {key: len(signal) for key, signal in make_signals(3).items()}
    assert all(lengths[key] == num for _, (key,), (num,) in brain.objective.draws)


def test_a_teacher_does_not_move_at_a_step_that_is_skipped(tmp_path):
    signals = make_signals(4)
    signals["utt01"][5] = math.nan
    brain = make_brain(tmp_path, epochs=1, nonfinite_patience=9)
    teachers, ids = [], []

    def remember(batch, should_step):
        teachers.append(brain.objective.teacher.weight.clone())
        ids.extend(batch.id)

    brain.on_fit_batch_start = remember
    fit(brain, signals)
    teachers.append(brain.objective.teacher.weight.clone())
    moved = {
        key: not torch.equal(before, after)
        for key, before, after in zip(ids, teachers[:-1], teachers[1:], strict=True)
    }
    assert moved == {key: key != "utt01" for key in signals}
    assert brain.objective.steps == brain.optimizer_step == 3


def test_checkpoints_keep_all_parts_and_the_best(tmp_path):
    brain = fit(make_brain(tmp_path, epochs=3), make_signals(4))
    checkpoints = sorted((tmp_path / "save").glob("CKPT+*"))
    for checkpoint in checkpoints:
        names = {path.stem for path in checkpoint.glob("*.ckpt")}
        assert {"model", "predictor", "teacher", "optimizer", "train_statistics"} <= names
    metas = [yaml.safe_load((path / "CKPT.yaml").read_text()) for path in checkpoints]
    likeness = [record["valid"]["likeness"] for record in history(tmp_path)]
    assert max(likeness) == pytest.approx(max(meta["likeness"] for meta in metas))

    resumed = fit(make_brain(tmp_path, epochs=4, init_seed=1), make_signals(4))
    straight = fit(make_brain(tmp_path / "straight", epochs=4), make_signals(4))
    for name, value in straight.objective.state_dict().items():
        assert torch.equal(value, resumed.objective.state_dict()[name]), name
    assert brain.optimizer_step == 12


def test_a_resumed_run_has_the_same_targets(tmp_path):
    fit(make_brain(tmp_path, epochs=1), make_signals(2))
    brain = make_brain(tmp_path, epochs=2)
    brain.objective.target = "cd34"
    with pytest.raises(UserError, match=r"target is not what this run began with \(cd34, was ab12"):
        fit(brain, make_signals(2))


def test_a_schedule_of_the_step_gives_the_rate_of_that_step(tmp_path):
    """From the first step on, and the same after a stop: nothing of it is in a checkpoint."""
    rates = []

    def train(epochs):
        brain = make_brain(tmp_path, epochs=epochs)
        brain.hparams.lr_schedule = LinearWarmupScheduler(0.01, 4, 13)
        step = brain.optimizers_step

        def remember():
            step()
            rates.append(brain.optimizer.param_groups[0]["lr"])

        brain.optimizers_step = remember
        return fit(brain, make_signals(4))

    train(epochs=1)
    brain = train(epochs=3)
    up, down = [0.0025, 0.005, 0.0075, 0.01], [0.01 * left / 9 for left in range(8, 0, -1)]
    assert rates == pytest.approx([*up, *down])
    assert history(tmp_path)[-1]["lr"] == rates[-1]
    assert [draw.optimizer_step for draw, *_ in brain.objective.draws if draw.training] == [
        *range(4, 12)
    ]


class Chunked(Teacher):
    takes_chunks = True


def test_the_objective_is_told_the_chunks_of_the_step(tmp_path):
    """The same after a stop; the validation has those of its key."""
    options = {"streaming": True, "valid_chunk": [4, 1]}

    def chunks_of(brain):
        fit(brain, make_signals(6))
        draws = [draw for draw, _, _ in brain.objective.draws]
        assert {draw.chunks for draw in draws if not draw.training} == {(4, 1)}
        return [draw.chunks for draw in draws if draw.training]

    straight = make_brain(tmp_path / "straight", kind=Chunked, options=options)
    expected = chunks_of(straight)
    places = [(epoch, step) for epoch in (1, 2) for step in range(1, 7)]
    assert expected == [straight.chunks.draw(3, *place) for place in places]
    assert len(set(expected)) > 3
    folder = tmp_path / "stopped"
    parts = [
        chunks_of(make_brain(folder, epochs=epochs, kind=Chunked, options=options))
        for epochs in (1, 2)
    ]
    assert parts == [expected[:6], expected[6:]]


def test_an_objective_that_knows_no_chunks_is_refused(tmp_path):
    with pytest.raises(UserError, match="streaming: teacher is not trained with chunks: its forw"):
        make_brain(tmp_path, options={"streaming": True})
    assert make_brain(tmp_path, options={"streaming": False}).chunks.tests == (None,)


@pytest.mark.parametrize("options", [{"jit": True}, {"jit_module_keys": ["objective"]}])
def test_torchscript_is_refused_and_not_ignored(tmp_path, options):
    with pytest.raises(UserError, match="--jit: an objective has no TorchScript: give --compile"):
        make_brain(tmp_path, **options)
