"""What classification and the training of verification share: which class a head chooses."""

from __future__ import annotations

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_pom.downstream.brain import DownstreamBrain
from speechbrain_pom.probe.metrics import ClassificationScores


class ClassesBrain(DownstreamBrain):
    """Trains a head with an output for each class, and counts its answers.

    A subclass calls `count_answers` in `compute_objectives`, and gives `task_metrics` with `loss`
    and `error_rate`. `class_names` is set before training.
    """

    class_names: list[str]

    def count_answers(
        self, outputs: torch.Tensor, batch: PaddedBatch, stage: sb.Stage
    ) -> torch.Tensor:
        """Note which classes have the largest outputs.

        Arguments
        ---------
        outputs : torch.Tensor
            (B, classes).
        batch : PaddedBatch
            With `label`, names of classes.
        stage : speechbrain.Stage

        Returns
        -------
        torch.Tensor
            (B,) integers: the numbers of the right classes.
        """
        numbers = [self.class_names.index(name) for name in batch.label]
        labels = torch.tensor(numbers, device=self.device)
        answers = outputs.argmax(-1)
        if stage == sb.Stage.TRAIN:
            self.sums.add(num_wrong=(answers != labels).sum(), num_utterances=len(labels))
        else:
            self.scores.append(batch.id, [self.class_names[i] for i in answers], batch.label)
        return labels

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """Begin to count answers."""
        self.scores = ClassificationScores()

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float | torch.Tensor, epoch: int | None = None
    ) -> None:
        """Log and save after validation; `end_test` after a test."""
        if stage == sb.Stage.TRAIN:
            error_rate = 100 * self.sums.ratio("num_wrong", "num_utterances")
            figures = {"loss": stage_loss, "error_rate": error_rate}
            self.train_stats = figures | self.train_summary()
        elif stage == sb.Stage.VALID:
            stats = {"loss": float(stage_loss), "error_rate": self.scores.error_rate()}
            self.end_validation(stats, epoch)
        else:
            self.end_test()

    def end_test(self) -> None:
        """Report on a test, whose answers are in `scores`; of a subclass that has tests."""
