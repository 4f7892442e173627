"""How an epoch of training goes on: its progress bar, its throughput, what one step of it is."""

import time
from collections.abc import Iterable, Iterator

import torch
from tqdm import tqdm

from speechbrain_pom.training.costs import peak_memory_mib
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.training.sums import EpochSums


class EpochProgress:
    """The progress bar of an epoch; losses, seconds of audio and of time go into its sums.

    Arguments
    ---------
    sums : EpochSums
        Of the epoch; those of an interrupted one go on.
    world_size : int
        Number of processes.
    **bar
        For `tqdm`: `total`, `initial`, `desc`, `disable`, `colour`.
    """

    def __init__(self, sums: EpochSums, world_size: int, **bar: object):
        self.sums, self.world_size = sums, world_size
        self.bar = tqdm(dynamic_ncols=True, **bar)
        self._since = time.perf_counter()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._count_time()  # of a batch that ended the epoch, which may be its only one
        self.bar.close()

    def timed(self, batches: Iterable) -> Iterator:
        """Yield batches, adding the time between them (loading included) to the sums."""
        self._since = time.perf_counter()
        for batch in batches:
            yield batch
            self._count_time()

    def _count_time(self):
        now = time.perf_counter()
        self.sums.add(wall_s=now - self._since)
        self._since = now

    def add(self, loss: torch.Tensor, audio_s: float, optimizer_step: int) -> float:
        """Count a batch, move the bar, and give the mean loss of the epoch so far."""
        self.sums.add(audio_s=audio_s, batch_loss=loss, num_batches=1)
        mean_loss = self.sums.ratio("batch_loss", "num_batches")
        text = f"loss={mean_loss:.3f}, step={optimizer_step}"
        # wall_s is added after the batch: the first batch of an epoch has no throughput yet
        if self.sums["wall_s"]:
            text += f", {throughput(self.sums, self.world_size):.0f}x real time"
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update()
        return mean_loss


def throughput(sums: EpochSums, world_size: int) -> float:
    """Seconds of audio per second, over all processes."""
    return world_size * sums.ratio("audio_s", "wall_s")


def gradient_metrics(sums: EpochSums) -> dict[str, float]:
    """The mean gradient norm over the steps of an epoch; empty if all of them were skipped."""
    if not sums["num_steps"]:
        return {}
    return {"grad_norm": sums.ratio("grad_norm", "num_steps")}


def training_metrics(sums: EpochSums, world_size: int, device: str) -> dict[str, float]:
    """`TRAINING_METRICS` of an epoch."""
    return {
        **gradient_metrics(sums),
        "audio_s_per_s": throughput(sums, world_size),
        "peak_memory_mib": peak_memory_mib(device),
    }


def describe_steps(
    sampler: BucketBatchSampler, world_size: int, accumulation: int
) -> dict[str, str]:
    """What an optimizer step of a run consists of, for the table of options."""
    plan = sampler.summary()
    batch_s = plan["mean_batch_duration_s"]
    step_s = batch_s * world_size * accumulation
    return {
        "batches_per_epoch": str(plan["num_batches"]),
        "audio_per_step": f"{step_s:.0f} s ({batch_s:.0f} s x {world_size} processes "
        f"x accumulation {accumulation}), padding {plan['padding_share']:.1%}",
    }
