"""The data of pretraining: what an objective can use, and the order in which it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import run_on_main

from speechbrain_pom.data.prepare import Manifests, prepare_csvs, prepare_data
from speechbrain_pom.runs.launch import Launch
from speechbrain_pom.training.dataset import audio_dataset, leave_out, make_sampler, unusable
from speechbrain_pom.training.sampler import BucketBatchSampler

Hparams = Mapping[str, Any]


class Part(NamedTuple):
    """The data of a stage.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With `id` and `sig`.
    sampler : BucketBatchSampler
        Its batches on this process.
    num_workers : int
        Processes that read ahead.
    """

    dataset: DynamicItemDataset
    sampler: BucketBatchSampler
    num_workers: int

    @property
    def loader(self) -> dict[str, Any]:
        """Options of the loader, as `Brain.fit` takes them."""
        return {"batch_sampler": self.sampler, "num_workers": self.num_workers}


def pretraining_data(
    hparams: Hparams, launch: Launch, from_layout: Callable[[Hparams, Path], Manifests]
) -> tuple[Part, Part]:
    """Prepare the data of a pretraining recipe.

    Arguments
    ---------
    hparams : dict
        Of the recipe: the keys of `prepare_data`, `objective`, `seed`, `num_workers`,
        `max_batch_duration_s`, `valid_batch_duration_s`, `num_buckets`, `min_duration_s` (of
        training alone) and `max_duration_s`.
    launch : Launch
        This process among those of the run.
    from_layout : callable
        Of the recipe: `from_layout(hparams, manifest_folder)` makes the manifests of
        `data_folder`.

    Returns
    -------
    train, valid : Part
        Random batches of similar lengths, and the longest first.

    Raises
    ------
    UserError
        If the data cannot be prepared, or nothing of them can be used.
    """
    manifests = run_on_main(prepare_data, args=[hparams, from_layout, prepare_csvs])
    shared = {"seed": hparams["seed"], "rank": launch.rank, "world_size": launch.world_size}
    train_data = usable_dataset(manifests.train, hparams, min_duration_s=hparams["min_duration_s"])
    train_sampler = make_sampler(
        train_data,
        max_batch_duration_s=hparams["max_batch_duration_s"],
        num_buckets=hparams["num_buckets"],
        batches_per_step=hparams.get("batches_per_step"),
        shard_window=hparams.get("shard_window"),
        **shared,
    )
    valid_data = usable_dataset(manifests.valid, hparams)
    valid_sampler = make_sampler(
        valid_data,
        max_batch_duration_s=hparams["valid_batch_duration_s"],
        order="descending",
        **shared,
    )
    return (
        Part(train_data, train_sampler, hparams["num_workers"]),
        Part(valid_data, valid_sampler, hparams["num_workers"]),
    )


def usable_dataset(
    manifest: str | Path, hparams: Hparams, min_duration_s: float = 0.0
) -> DynamicItemDataset:
    """A dataset of the utterances of a manifest that the objective can use."""
    dataset = audio_dataset(
        manifest,
        hparams["data_folder"],
        min_duration_s=min_duration_s,
        max_duration_s=hparams["max_duration_s"],
    )
    objective = hparams["objective"]
    bad = unusable(dataset, objective.unusable)
    return leave_out(dataset, bad, f"cannot be used by {objective.name}")
