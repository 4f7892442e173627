"""What the recipes of downstream tasks share: states, optimizers, annealing, results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.schedulers import LinearScheduler, update_learning_rate
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.downstream.cache import StateCache, cut_waveforms, random_spans
from speechbrain_pom.downstream.model import DownstreamModel
from speechbrain_pom.runs.launch import Launch
from speechbrain_pom.training.augmentation import batch_waveforms
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.dataset import make_sampler
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.utils.files import write_atomically
from speechbrain_pom.utils.seeding import philox, uniform

logger = get_logger(__name__)
RESULTS_FILE = "results.json"


class DownstreamBrain(ExactBrain):
    """Trains a `DownstreamModel`, given as `modules["model"]`.

    Checkpoints hold the head and the weights of the layers, and the upstream if it is fine-tuned.

    Arguments
    ---------
    *args, **kwargs
        As for `ExactBrain`. `hparams` needs `cache_states`, `max_cache_gib`, `cache_dtype`,
        `max_batch_duration_s`, `num_workers`, `upstream`, `pretrained`, `head_optimizer`,
        `weights_optimizer`, `encoder_optimizer` and the annealing of each, and may have `crop_s`.
    """

    #: What a task needs of an utterance besides its audio; of a subclass.
    batch_keys: Sequence[str] = ("label",)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        #: The model itself, without what distributes it.
        self.model: DownstreamModel = self.modules.model
        self.cache: StateCache | None = None
        self.checkpointer.add_recoverable("head", self.model.head)
        self.checkpointer.add_recoverable("layer_sum", self.model.layer_sum)
        if not self.model.freeze:
            self.checkpointer.add_recoverable("model", self.model.upstream.checkpoint_modules)
            self.checkpointer.add_recoverable("normalize", self.model.upstream.features)

    def encode(self, datasets: Mapping[str, DynamicItemDataset]) -> None:
        """Fill the cache, if there is one; then no audio is read any more."""
        if self.hparams.cache_states:
            self.cache = StateCache(self.hparams.max_cache_gib, self.hparams.cache_dtype)
            self.cache.check_size(self.model.upstream, datasets)
            self.modules.eval()
            for name, dataset in datasets.items():
                dataset.set_output_keys(["id", "sig"])
                self.cache.fill(
                    self.model.upstream,
                    dataset,
                    max_batch_duration_s=self.hparams.max_batch_duration_s,
                    num_workers=self.hparams.num_workers,
                    title=name if if_main_process() and not self.noprogressbar else None,
                )
        for dataset in datasets.values():
            audio = [] if self.hparams.cache_states else ["sig"]
            dataset.set_output_keys(["id", "duration", *self.batch_keys, *audio])

    def inputs_of(
        self, batch: PaddedBatch, stage: sb.Stage
    ) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """What `DownstreamModel.forward` is called with, cut in training if `crop_s` says so.

        Arguments
        ---------
        batch : PaddedBatch
        stage : speechbrain.Stage

        Returns
        -------
        inputs : torch.Tensor
            Waveforms (B, samples), or states (B, num_states, T, d_model).
        lengths : torch.Tensor
            (B,) integers, in samples or frames.
        are_states : bool
        """
        crop_s = getattr(self.hparams, "crop_s", None) if stage == sb.Stage.TRAIN else None
        positions = []
        if crop_s is not None:
            keys = (("crop", self.hparams.seed, self.epoch, key) for key in batch.id)
            positions = [float(uniform(philox(*key), 1)[0]) for key in keys]
        if self.cache is not None:
            spans = None
            if crop_s is not None:
                lengths = self.cache.lengths(batch.id)
                longest = self.model.upstream.num_frames(self._samples(crop_s))
                spans = random_spans(lengths, longest, positions)
            states, num_frames = self.cache.batch(batch.id, spans)
            return states.to(self.device), num_frames.to(self.device), True
        wavs, num_samples = batch_waveforms(batch.sig, self.device, None)
        if crop_s is not None:
            spans = random_spans(num_samples, self._samples(crop_s), positions)
            wavs, num_samples = cut_waveforms(wavs, spans)
        return wavs, num_samples, False

    def _samples(self, duration_s):
        return round(duration_s * self.hparams.sample_rate)

    def compute_forward(
        self, batch: PaddedBatch, stage: sb.Stage
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The head's outputs and the valid frames of the utterances."""
        # Not every process need have a batch of the validation: none waits for the others there.
        model = self.modules.model if stage == sb.Stage.TRAIN else self.model
        return model(*self.inputs_of(batch, stage))

    def batch_audio_s(self, batch: PaddedBatch) -> float:
        """Seconds of audio in a batch, which may not have been read again."""
        return sum(map(float, batch.duration))

    def init_optimizers(self) -> None:
        """One optimizer for the head, one for the weights of the layers, one for the encoder."""
        parts = {
            "head": self.model.head,
            "weights": self.model.layer_sum,
            "encoder": self.model.upstream,
        }
        self.optimizers_dict = {}
        for name, part in parts.items():
            trained = [weight for weight in part.parameters() if weight.requires_grad]
            if trained:
                optimizer = getattr(self.hparams, f"{name}_optimizer")(trained)
                self.optimizers_dict[name] = optimizer
                self.checkpointer.add_recoverable(f"{name}_optimizer", optimizer)

    def anneal(self, loss: float, epoch: int, hold: bool = False) -> dict[str, float]:
        """Anneal the learning rates.

        Arguments
        ---------
        loss : float
            Of the validation.
        epoch : int
        hold : bool
            Whether they stay as they are.

        Returns
        -------
        dict of str to float
            Those that were used in the epoch.
        """
        rates = {}
        for name, optimizer in self.optimizers_dict.items():
            annealing = getattr(self.hparams, f"{name}_annealing")
            rates[f"lr_{name}"] = optimizer.param_groups[0]["lr"]
            if not hold:
                by_epoch = isinstance(annealing, LinearScheduler)
                update_learning_rate(optimizer, annealing(epoch if by_epoch else loss)[1])
        return rates

    def end_validation(self, stats: dict[str, float], epoch: int, hold: bool = False) -> None:
        """Anneal, log and save.

        Arguments
        ---------
        stats : dict of str to float
            Of the validation, with its `loss`.
        epoch : int
        hold : bool
            As `anneal`.
        """
        rates = self.anneal(stats["loss"], epoch, hold)
        weights = " ".join(f"{weight:.3f}" for weight in self.model.layer_weights())
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "steps": self.optimizer_step, **rates, "layer_weights": weights},
            train_stats=self.train_stats,
            valid_stats=stats,
        )
        self.save_epoch(stats)

    def training_batches(self, dataset: DynamicItemDataset, launch: Launch) -> BucketBatchSampler:
        """The batches of training, in the order that `sorting` names."""
        return make_sampler(
            dataset,
            batch_size=self.hparams.batch_size,
            num_buckets=1,
            order=self.hparams.sorting,
            seed=self.hparams.seed,
            rank=launch.rank,
            world_size=launch.world_size,
        )

    def in_order(self, dataset: DynamicItemDataset) -> dict:
        """What a loader of validation and tests is made with: the longest utterances first."""
        sampler = make_sampler(
            dataset, batch_size=self.hparams.valid_batch_size, order="descending", seed=0
        )
        return {"batch_sampler": sampler, "num_workers": self.num_workers}

    @property
    def num_workers(self) -> int:
        """Processes that read; none where the states are in memory."""
        return 0 if self.cache is not None else self.hparams.num_workers

    def train_and_test(
        self,
        datasets: Mapping[str, DynamicItemDataset],
        tests: Sequence[str],
        train_sampler: BucketBatchSampler,
    ) -> None:
        """Train, then test the checkpoint that was best in validation.

        Arguments
        ---------
        datasets : dict of str to DynamicItemDataset
            train, valid, and the tests by name.
        tests : sequence of str
            Names of the tests.
        train_sampler : BucketBatchSampler
        """
        self.fit(
            self.hparams.epoch_counter,
            datasets["train"],
            datasets["valid"],
            train_loader_kwargs={"batch_sampler": train_sampler, "num_workers": self.num_workers},
            valid_loader_kwargs=self.in_order(datasets["valid"]),
        )
        for name in tests:
            self.test_name = name
            self.evaluate(
                datasets[name],
                **self.task_metrics.checkpoint_key(),
                test_loader_kwargs=self.in_order(datasets[name]),
            )

    def report(self, name: str, figures: dict) -> None:
        """Add the results of a test to the JSON with all of them.

        Arguments
        ---------
        name : str
            Of the test.
        figures : dict
        """
        path = Path(self.hparams.output_folder) / RESULTS_FILE
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        results |= {
            "upstream": self.hparams.upstream,
            "head": self.hparams.head,
            "frozen": self.model.freeze,
            "layer_weights": self.model.layer_weights(),
            name: figures,
        }
        write_atomically(path, json.dumps(results, indent=1) + "\n")
