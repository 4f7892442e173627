"""Pretraining of an encoder by any objective."""

from __future__ import annotations

from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.objectives.objective import Draw, Objective, Outcome
from speechbrain_pom.runs.experiment import Experiment
from speechbrain_pom.runs.metrics import TaskMetrics
from speechbrain_pom.runs.record import check_fingerprint
from speechbrain_pom.runs.report import describe
from speechbrain_pom.training.augmentation import batch_waveforms
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.costs import TRAINING_METRICS, learning_rate
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.training.sums import EpochSums, keep_in_checkpoints
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)


def pretraining_metrics(objective: Objective | type[Objective]) -> TaskMetrics:
    """What pretraining by an objective measures; later stages load its newest checkpoint."""
    return TaskMetrics(
        objective.name,
        (*objective.metrics, learning_rate(), *TRAINING_METRICS),
        best=objective.best,
        use="newest",
    )


class PretrainingBrain(ExactBrain):
    """Minimises the objective that it is given as `modules["objective"]`; knows none by name.

    Arguments
    ---------
    *args, **kwargs
        As for `ExactBrain`, with `modules={"objective": objective}`. `hparams` needs `seed`,
        `epoch_counter`, `output_folder`, `train_logger` and a schedule of the learning rate, and
        may have `wav_augment`, an `Augmenter` of SpeechBrain for the waveforms of training. The
        schedule is `lr_schedule`, of which `calculate_lr(step)` is the rate of an optimizer step,
        counted from 1 (SpeechBrain's `LinearWarmupScheduler`), or `noam_annealing`, which is called
        with the optimizer and counts itself (SpeechBrain's `NoamScheduler`).
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        #: The objective itself, without what distributes it.
        self.objective: Objective = self.modules.objective
        if self.jit or self.jit_module_keys:
            raise UserError(
                "--jit: an objective has no TorchScript: give --compile (or leave --jit out)"
            )
        if getattr(self.hparams, "streaming", False) and not self.objective.takes_chunks:
            raise UserError(
                f"streaming: {self.objective.name} is not trained with chunks: its forward has to "
                "pass draw.chunks to the encoder, and takes_chunks to be True"
            )
        self.task_metrics = pretraining_metrics(self.objective)
        self.train_statistics = EpochSums()
        keep_in_checkpoints(self.checkpointer, "train_statistics", self.train_statistics)
        self.learn_statistics_per_step(getattr(self.objective.encoder, "features", None))
        for name, part in self.objective.recoverables().items():
            self.checkpointer.add_recoverable(name, part)

    def _compile(self) -> None:
        """Leave it to the objective which of its parts make a graph."""
        self.compile_if_asked(self.objective)

    def compute_forward(self, batch: PaddedBatch, stage: sb.Stage) -> Outcome:
        """What the objective makes of a batch."""
        training = stage == sb.Stage.TRAIN
        augment = getattr(self.hparams, "wav_augment", None) if training else None
        wavs, num_samples = batch_waveforms(batch.sig, self.device, augment)
        step, rank = self.place if training else (self.step, self.rank)
        draw = Draw(
            self.hparams.seed,
            self.epoch,
            step,
            rank,
            training,
            self.optimizer_step,
            self.batch_chunks(stage),
        )
        # Not every process need have a batch of the validation: none waits for the others there.
        objective = self.modules.objective if training else self.objective
        return objective(wavs, num_samples, batch.id, draw)

    def compute_objectives(
        self, predictions: Outcome, batch: PaddedBatch, stage: sb.Stage
    ) -> torch.Tensor:
        """The loss of the batch; its statistics are added to those of the stage."""
        self.statistics.add(**predictions.sums)
        return predictions.loss

    def on_optimizer_step_start(self) -> None:
        """The learning rate of this step."""
        schedule = getattr(self.hparams, "lr_schedule", None)
        if schedule is None:
            self.hparams.noam_annealing(self.optimizer)
            return
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.calculate_lr(self.optimizer_step + 1)

    def on_optimizer_step_end(self) -> None:
        """Let the objective follow the new weights."""
        self.objective.on_optimizer_step_end()

    def on_fit_start(self) -> None:
        """Resume, and check that the targets are still those of the run."""
        super().on_fit_start()
        check_fingerprint(Path(self.hparams.output_folder), **self.objective.fingerprints())

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Fresh statistics for the stage, unless it is resumed."""
        self.statistics = EpochSums()
        if stage == sb.Stage.TRAIN:
            if self.step == 0:
                self.train_statistics.reset()
            self.statistics = self.train_statistics

    def on_stage_end(self, stage: sb.Stage, stage_loss: float, epoch: int | None = None) -> None:
        """Log, draw and save at the end of the validation of an epoch."""
        self.statistics.all_reduce()
        stats = self.objective.summary(self.statistics)
        if stage == sb.Stage.TRAIN:
            self.train_stats = {**stats, **self.train_summary()}
            return
        warning = self.objective.warning(stats)
        if warning:
            logger.warning(warning)
        self.hparams.train_logger.log_stats(
            {
                "epoch": epoch,
                "steps": self.optimizer_step,
                "lr": self.optimizer.param_groups[0]["lr"],
            },
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.save_epoch(stats)


def make_brain(experiment: Experiment, train_sampler: BucketBatchSampler) -> PretrainingBrain:
    """The Brain of a pretraining recipe; the log gets the options that are in effect."""
    hparams = experiment.hparams
    brain = PretrainingBrain(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    facts = brain.batch_facts(train_sampler)
    if if_main_process():
        logger.info(describe(experiment, facts))
    return brain
