"""What pretraining minimises: the contract of an objective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from speechbrain_pom.encoder.compiling import compile_encoder
from speechbrain_pom.runs.metrics import Metric


@dataclass(frozen=True)
class Draw:
    """Where a batch is in training: all that its random numbers may depend on.

    Random numbers of torch's global generators (`torch.rand`, dropout) are seeded by these
    coordinates before each batch of training; others come from
    `speechbrain_pom.utils.seeding.philox`.

    Arguments
    ---------
    seed : int
        Seed of the run.
    epoch : int
        From 1; of a validation, the epoch that it belongs to.
    step : int
        Batch within the epoch, from 1.
    rank : int
        Rank of this process.
    training : bool
        False in validation, whose random numbers should depend on the seed and the utterance
        alone: it is then a function of the weights.
    optimizer_step : int
        Optimizer steps that were taken before, for what changes over the run, as a temperature.
    chunks : tuple of (int, int or None), optional
        With `streaming: True` the dynamic chunks to encode the batch with, as `SpeechEncoder` takes
        them; None: the full context.

    Example
    -------
    >>> Draw(seed=1000, epoch=2, step=17)
    Draw(seed=1000, epoch=2, step=17, rank=0, training=True, optimizer_step=0, chunks=None)
    """

    seed: int
    epoch: int
    step: int = 0
    rank: int = 0
    training: bool = True
    optimizer_step: int = 0
    chunks: tuple[int, int | None] | None = None


class Outcome(NamedTuple):
    """What an objective makes of a batch.

    Arguments
    ---------
    loss_sum : torch.Tensor
        Scalar with gradient: the loss, summed over what is predicted.
    weight : int or torch.Tensor
        What the sum is divided by to be minimised, such as the number of predicted frames.
    sums : dict of str to torch.Tensor or float
        Statistics that add up over batches and processes, without gradient: scalars, or vectors
        of one length. `Objective.summary` is given their sums.

    Example
    -------
    >>> Outcome(torch.tensor(6.0), 4, {"num_correct": torch.tensor(3)}).loss
    tensor(1.5000)
    """

    loss_sum: torch.Tensor
    weight: int | torch.Tensor
    sums: dict[str, torch.Tensor | float]

    @property
    def loss(self) -> torch.Tensor:
        """What is minimised."""
        return self.loss_sum / self.weight


class Objective(nn.Module):
    """Something that pretraining can minimise: an encoder, and what is trained beside it.

    A subclass gives `name`, `metrics`, `forward` and `summary`, checks its options in its
    constructor, and may override the rest. `PretrainingBrain` trains it: data, order, precision,
    several processes, checkpoints, logs and resuming need nothing of the objective.

    Whether masks come before the front end (BEST-RQ: noise takes the place of features) or after
    it (wav2vec 2.0: a vector takes the place of frames) is up to `forward`, which calls the parts
    of the encoder itself: `encoder.features`, then `encoder.encode`, or `encoder.embed` and
    `encoder.contextualise` in its place.

    All parameters that require a gradient have to take part in each loss: several processes
    average their gradients, and wait for each of them.

    Arguments
    ---------
    encoder : SpeechEncoder
        Saved and loaded by itself; its features are normalised.

    Example
    -------
    >>> class Reconstruction(Objective):
    ...     name = "reconstruction"
    ...     metrics = (Metric("loss", better="lower", panel="Loss"),)
    ...
    ...     def __init__(self, encoder):
    ...         super().__init__(encoder)
    ...         self.decoder = nn.Linear(4, 8)
    ...
    ...     def forward(self, wavs, num_samples, ids, draw):
    ...         error = (self.decoder(self.encoder(wavs)) - wavs).square()
    ...         sums = {"error": error.detach().sum(), "num": error.numel()}
    ...         return Outcome(error.sum(), error.numel(), sums)
    ...
    ...     def summary(self, sums):
    ...         return {"loss": sums["error"] / sums["num"]}
    >>> objective = Reconstruction(nn.Linear(8, 4))
    >>> objective(torch.randn(2, 8), torch.tensor([8, 8]), ["a", "b"], Draw(1, 1)).loss.shape
    torch.Size([])
    >>> list(objective.recoverables())
    ['decoder']
    """

    #: Of the objective, for titles and tables.
    name: str
    #: What `summary` returns. `best` names the one by which a checkpoint is the best.
    metrics: tuple[Metric, ...]
    best: str = "loss"
    #: Whether `forward` passes `draw.chunks` on to the encoder: `streaming: True` needs that.
    takes_chunks: bool = False

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(
        self, wavs: torch.Tensor, num_samples: torch.Tensor, ids: Sequence[str], draw: Draw
    ) -> Outcome:
        """The loss and the statistics of a batch.

        Arguments
        ---------
        wavs : torch.Tensor
            (B, samples), padded on the right.
        num_samples : torch.Tensor
            (B,) integers: the length of each utterance.
        ids : sequence of str
            (B,) utterance ids.
        draw : Draw
            Where the batch is in training.

        Returns
        -------
        Outcome
        """
        raise NotImplementedError

    def summary(self, sums: Mapping[str, float | torch.Tensor]) -> dict[str, float]:
        """The metrics of a stage, from the sums over all its batches and processes.

        Raises
        ------
        UserError
            If nothing was predicted in the stage.
        """
        raise NotImplementedError

    def unusable(self, num_samples: int) -> str | None:
        """Why an utterance of this length cannot be used, e.g. too short; None if it can be."""
        return None

    def warning(self, stats: Mapping[str, float]) -> str | None:
        """What is alarming about the metrics of a validation, as one line; None if nothing is."""
        return None

    def fingerprints(self) -> dict[str, str]:
        """Hashes of what must stay the same when a run is resumed, such as fixed targets."""
        return {}

    def recoverables(self) -> dict[str, nn.Module]:
        """What checkpoints keep besides the encoder: name of the file to module."""
        return {name: part for name, part in self.named_children() if part is not self.encoder}

    def compile(self, *args, **kwargs) -> None:
        """Compile both halves of the encoder, and the parts beside it, as `torch.compile` does.

        Features and the drawing of masks belong in no graph.
        """
        compile_encoder(self.encoder, *args, **kwargs)
        for part in self.recoverables().values():
            part.compile(*args, **kwargs)

    def on_optimizer_step_end(self) -> None:
        """Called after each optimizer step that was taken: the place to move an EMA teacher."""
