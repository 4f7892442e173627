"""Runs whose number of processes may change: a batch is known by its number over all of them."""

from pathlib import Path

import torch
import yaml
from speechbrain.dataio.batch import PaddedBatch
from torch import nn

from speechbrain_pom.training.augmentation import batch_waveforms
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.training.sharding import ShardingBrain
from speechbrain_pom.utils.errors import UserError

_KEY = "batches_of_all"


def batch_number(step: int, rank: int, world_size: int) -> int:
    """The number of a batch in its epoch over all processes, from 1.

    >>> [batch_number(step, rank, 2) for step in (1, 2) for rank in (0, 1)]
    [1, 2, 3, 4]
    """
    return (step - 1) * world_size + rank + 1


def note_batches(path: str | Path, num_batches: int) -> None:
    """Add to the file of a Brain how many batches of the epoch all processes have had."""
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{_KEY}: {num_batches}\n")


def noted_batches(path: str | Path) -> int:
    """What `note_batches` wrote.

    Raises
    ------
    UserError
        If the checkpoint is of a run that was not elastic.
    """
    noted = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if _KEY not in noted:
        raise UserError(
            f"{path}: this run was begun without batches_per_step: continue it without, or choose "
            "another --output_folder"
        )
    return noted[_KEY]


class ElasticBrain(ShardingBrain):
    """A Brain whose steps are the same for any number of processes, with `batches_per_step`.

    A step then consists of so many batches of all processes together, and what a batch draws is a
    function of its number. Without the option batches are counted in each process.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.Brain`. `hparams` may have `batches_per_step`.
    """

    train_dataset: torch.utils.data.Dataset  # once training has begun
    train_sampler: BucketBatchSampler

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.rank = getattr(self, "rank", 0)  # SpeechBrain sets it only for several processes
        self.world_size = (
            torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        )
        #: Of elastic runs: batches of a step over all processes, whatever their number.
        self.batches_per_step = getattr(self.hparams, "batches_per_step", None)
        if self.batches_per_step is not None:
            self.grad_accumulation_factor = self.batches_per_step // self.world_size
        self._step_statistics = None

    @property
    def place(self) -> tuple[int, int]:
        """Step and rank of a batch, of which its random choices are a function.

        Of elastic runs: the batch's number in the epoch over all processes, and 0.
        """
        if self.batches_per_step is None:
            return self.step, self.rank
        return batch_number(self.step, self.rank, self.world_size), 0

    def learn_statistics_per_step(self, features: nn.Module | None) -> None:
        """Let elastic runs update the statistics of a `FeatureExtractor` once per step.

        Without `batches_per_step`, or without global statistics, nothing changes.
        """
        if self.batches_per_step is not None and features is not None:
            self._step_statistics = features.collect_per_step()

    def begin_statistics(self) -> None:
        """Before a batch: first statistics, if there are none yet, from the epoch's first batch."""
        statistics = self._step_statistics
        if statistics is None or statistics.features.has_statistics:
            return
        items = [self.train_dataset[index] for index in self.train_sampler.first_batch()]
        with torch.no_grad():
            statistics.begin(*batch_waveforms(PaddedBatch(items).sig, self.device, None))

    def merge_statistics(self) -> None:
        """After a step: update the statistics with those of its batches; a collective call."""
        if self._step_statistics is not None:
            self._step_statistics.merge()
