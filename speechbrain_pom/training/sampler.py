"""The order of the data as a function of (seed, epoch), for one process or many."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from speechbrain_pom.data.texts import Texts
from speechbrain_pom.training.cutting import rank_by_duration
from speechbrain_pom.training.plan import Batching, plan_by_windows, plan_epoch
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import philox

ORDERS = ("random", "ascending", "descending")


class BucketBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of utterances of similar length: each utterance once per epoch, over all ranks.

    The batches of an epoch are a function of (seed, epoch) and of the durations and ids alone;
    every rank computes the same plan, takes its own part of it, and has the same number of
    batches. At each step the ranks get batches of similar length and size. A batch is limited
    either by its padded duration (longest utterance x number of utterances) or by its number of
    utterances.

    ``order="random"`` moves each utterance within a window of the ranking by length, cuts the
    result into batches, and shuffles these; both change every epoch. ``"ascending"`` and
    ``"descending"`` sort by duration, ties by id, and repeat in every epoch.

    It stands as `batch_sampler` of a `DataLoader`, and as ``Brain.train_sampler`` (which calls
    `set_epoch`). As it shares the batches out itself, it must not be wrapped again for several
    processes.

    Arguments
    ---------
    durations_s : sequence of float
        Duration of each utterance in seconds.
    ids : sequence of str
        Id of each utterance, unique.
    max_batch_duration_s : float, optional
        Limit of the padded duration of a batch, in seconds, per rank.
    num_buckets : int
        Random order: the window is 1 / num_buckets of the whole audio (paper: 150), and at least
        two batches, so that small data sets are mixed too. More buckets, less padding.
    batch_size : int, optional
        Number of utterances in a batch. Exactly one of this and ``max_batch_duration_s``.
    order : str
        ``"random"``, ``"ascending"`` or ``"descending"``.
    seed : int
        Seed of the run.
    rank : int
        Rank of this process.
    world_size : int
        Number of processes.
    batches_per_step : int, optional
        Elastic runs: the batches of an optimizer step over all processes. The plan then depends on
        this number and not on that of the processes, which must divide it.
    shards : numpy.ndarray, optional
        (num_utterances,) which shard each utterance is in.
    shard_window : int, optional
        Random order: mix the utterances of this many shards, in an order of shards that is new in
        each epoch, before the next ones are opened. By default everything is mixed.

    Raises
    ------
    UserError
        If an argument is wrong, an utterance does not fit into a batch, or the utterances cannot
        be shared out evenly.

    Example
    -------
    >>> durations_s = [1.0, 2.0, 3.0, 4.0, 1.5, 2.5]
    >>> ids = list("abcdef")
    >>> sampler = BucketBatchSampler(durations_s, ids, max_batch_duration_s=6.0, seed=1)
    >>> sampler.set_epoch(1)
    >>> sorted(index for batch in sampler for index in batch)
    [0, 1, 2, 3, 4, 5]
    >>> list(BucketBatchSampler(durations_s, ids, batch_size=2, order="ascending", seed=1))
    [[0, 4], [1, 5], [2, 3]]
    """

    def __init__(
        self,
        durations_s: Sequence[float],
        ids: Sequence[str],
        *,
        max_batch_duration_s: float | None = None,
        num_buckets: int = 150,
        batch_size: int | None = None,
        order: str = "random",
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        batches_per_step: int | None = None,
        shards: np.ndarray | None = None,
        shard_window: int | None = None,
    ):
        super().__init__()
        self._durations_s = np.asarray(durations_s, dtype=np.float64)
        self._max_batch_duration_s = max_batch_duration_s
        self._batch_size = batch_size
        self._num_buckets = num_buckets
        self._order = order
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self.batches_per_step = batches_per_step
        self._shards, self._shard_window = shards, shard_window
        self._check_options(ids)
        columns = world_size if batches_per_step is None else batches_per_step
        self._batching = Batching(order, max_batch_duration_s, batch_size, num_buckets, columns)
        # The plan starts from this ranking, so it does not depend on the order of the manifest.
        ids = Texts.of(ids)
        self._ranking = rank_by_duration(self._durations_s, ids)
        self._check_data(ids)
        self._start_epoch, self._start = 0, 0
        self._epoch: int | None = None
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Plan the batches of an epoch, unless they are planned."""
        if epoch == self._epoch:
            return
        bits = philox("order", self._seed, epoch)
        self._epoch = None  # until the plan is whole
        data = self._ranking, self._durations_s
        if self._shard_window is None:
            plan = plan_epoch(*data, self._batching, bits)
        else:
            plan = plan_by_windows(*data, self._shards, self._shard_window, self._batching, bits)
        # In a step of several batches per rank, those side by side are similar.
        self._batches = plan.batches.reshape(-1, self._world_size)  # (steps, ranks)
        self._plan, self._epoch = plan, epoch

    def set_start(self, epoch: int, step: int) -> None:
        """Let one epoch start at its batch ``step``, to resume in the middle of it.

        The batches before it are not loaded. Other epochs start at 0. Call it before the epoch is
        iterated, before or after `set_epoch`; the last call counts.
        """
        self._start_epoch, self._start = epoch, step

    def __len__(self) -> int:
        """Count the batches of this rank in the whole epoch, skipped ones included.

        In random order epochs may differ by a batch or two.
        """
        return len(self._batches)

    def __iter__(self) -> Iterator[list[int]]:
        start = self._start if self._epoch == self._start_epoch else 0
        if not 0 <= start <= len(self):
            raise UserError(
                f"cannot start at batch {start} of epoch {self._epoch}, which has {len(self)}"
                f" batches on each of {self._world_size} ranks: resume with the data, batch size"
                " and number of processes of the interrupted run"
            )
        sequence, bounds = self._plan[:2]  # of this epoch, also after set_epoch
        mine = self._batches[start:, self._rank].tolist()
        return (sequence[bounds[b] : bounds[b + 1]].tolist() for b in mine)

    def first_batch(self) -> list[int]:
        """The utterances of the first batch of the epoch, that of rank 0, on every rank."""
        batch = self._batches[0, 0]
        return self._plan.sequence[slice(*self._plan.bounds[batch : batch + 2])].tolist()

    def summary(self) -> dict[str, float | int]:
        """Describe the batches of the current epoch.

        ``num_batches`` (of each rank), ``mean_batch_duration_s`` (audio without padding, per batch
        and rank), ``padding_share`` (padding / padded duration, over all ranks).
        """
        padded_s = self._plan.padded_s
        audio_s = self._durations_s.sum()
        return {
            "num_batches": len(self),
            "mean_batch_duration_s": float(audio_s / self._batches.size),
            "padding_share": float(1 - audio_s / padded_s),
        }

    def _check_options(self, ids: Sequence[str]) -> None:
        if len(ids) != len(self._durations_s):
            raise UserError(
                f"{len(self._durations_s)} durations with {len(ids)} ids: give one id per duration"
            )
        limits = {
            "max_batch_duration_s": self._max_batch_duration_s,
            "batch_size": self._batch_size,
        }
        given = {name: limit for name, limit in limits.items() if limit is not None}
        if len(given) != 1:
            raise UserError(f"give exactly one of max_batch_duration_s and batch_size: {limits}")
        numbers = {
            "num_buckets": self._num_buckets,
            "batches_per_step": 1 if self.batches_per_step is None else self.batches_per_step,
            "shard_window": 1 if self._shard_window is None else self._shard_window,
        }
        for name, value in {**given, **numbers}.items():
            if not value > 0:
                raise UserError(f"{name} = {value} must be above 0")
        if self._order not in ORDERS:
            raise UserError(f"order = {self._order!r} does not exist: choose one of {ORDERS}")
        if not 0 <= self._rank < self._world_size:
            raise UserError(
                f"rank = {self._rank} does not exist among world_size = {self._world_size}:"
                " ranks count from 0"
            )
        if self.batches_per_step is not None and self.batches_per_step % self._world_size:
            raise UserError(
                f"batches_per_step = {self.batches_per_step} cannot be shared out evenly among"
                f" {self._world_size} processes: use a number of processes that divides it"
            )
        if self._shard_window is not None and (self._shards is None or self._order != "random"):
            raise UserError(
                f"shard_window = {self._shard_window} needs data in shards and random order: leave"
                " it out"
            )

    def _check_data(self, ids: Texts) -> None:
        wrong = np.flatnonzero(~(np.isfinite(self._durations_s) & (self._durations_s > 0)))
        if len(wrong):
            raise UserError(
                f"utterance {ids[wrong[0]]!r} has a duration of {self._durations_s[wrong[0]]} s:"
                " remove it, or correct the manifest"
            )
        if (twice := ids.first_repeated()) is not None:
            raise UserError(f"utterance id {twice!r} occurs more than once: ids must be unique")
        if len(ids) < self._world_size:
            raise UserError(
                f"{len(ids)} utterances are too few for {self._world_size} processes:"
                " use fewer processes or more data"
            )
        if self._max_batch_duration_s is not None:
            longest = self._ranking[-1]
            if self._durations_s[longest] > self._max_batch_duration_s:
                raise UserError(
                    f"utterance {ids[longest]!r} lasts {self._durations_s[longest]:g} s, more than"
                    f" max_batch_duration_s = {self._max_batch_duration_s:g}: raise this limit, or"
                    " leave out utterances of that length"
                )
