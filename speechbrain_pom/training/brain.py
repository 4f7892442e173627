"""SpeechBrain's Brain, with training as a function of seed, epoch and step.

Everything that the recipes share and that SpeechBrain has no seam for is here, in one subclass:
recipes keep SpeechBrain's shape and may override any method.
"""

import math
import time
from collections.abc import Iterable

import speechbrain as sb
import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.runs.metrics import TaskMetrics
from speechbrain_pom.training.chunks import Chunks, ChunkSampler
from speechbrain_pom.training.elastic import ElasticBrain, note_batches, noted_batches
from speechbrain_pom.training.layer_statistics import LayerStatistics
from speechbrain_pom.training.progress import (
    EpochProgress,
    describe_steps,
    gradient_metrics,
    training_metrics,
)
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.training.saving import save_after_epoch, save_within_epoch
from speechbrain_pom.training.sharding import clip_gradients
from speechbrain_pom.training.skipping import SkippedSteps
from speechbrain_pom.training.stopping import StopRequest, leave_signals_to_parent
from speechbrain_pom.training.sums import EpochSums, keep_in_checkpoints
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import seed_step

logger = get_logger(__name__)


@sb.utils.checkpoints.register_checkpoint_hooks
class ExactBrain(ElasticBrain):
    """A `speechbrain.Brain` that can be stopped and resumed anywhere without changing the run.

    Differences to `speechbrain.Brain`:

    - the order of the data comes from a `BucketBatchSampler`, which resumes without loading what
      is skipped; noise, dropout and augmentation are seeded by (seed, epoch, step, rank);
    - the last gradient accumulation window of an epoch, if shorter, is stepped and rescaled;
    - `on_optimizer_step_start` is called before each step (a schedule there sets the rate of
      that very step), `on_optimizer_step_end` after each step that was taken, and the gradient
      norm covers all parameters;
    - a gradient that is not finite skips the step and names the utterances; more than
      `nonfinite_patience` of those in a row end the run;
    - training ends exactly at `optimizer_step_limit`, and then does nothing when run again;
    - `task_metrics` says what is logged, and which checkpoint is the best one;
    - `sums` over the epoch are in the checkpoints, so that averages continue;
    - `batches_per_step` makes a step the same for any number of processes (`ElasticBrain`);
    - `fsdp: True` shards what is trained (`ShardingBrain`);
    - `batch_chunks` says which dynamic chunks a batch is encoded with (`streaming: True`).

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.Brain`. `hparams` needs `seed` and `sample_rate`.

    Raises
    ------
    UserError
        If `--compile_module_keys` names no module of the run.
    """

    task_metrics: TaskMetrics  # of a subclass

    def __init__(self, *args, run_opts: dict | None = None, **kwargs) -> None:
        if isinstance(run_opts, dict) and run_opts.get("ckpt_interval_steps", 0) > 0:
            # SpeechBrain takes one of the two: steps asked for replace the YAML's minutes.
            run_opts = {"ckpt_interval_minutes": 0, **run_opts}
        super().__init__(*args, run_opts=run_opts, **kwargs)
        self._check_modules_to_compile()
        self.sums = EpochSums()
        if self.checkpointer is not None:
            keep_in_checkpoints(self.checkpointer, "sums", self.sums)
        self.chunks = ChunkSampler.of_run(vars(self.hparams), self.modules)
        self.tested_chunks: Chunks = None  # one of `self.chunks.tests`, set by a recipe
        self.skipped_steps = SkippedSteps(self.nonfinite_patience)
        self.epoch_trained = False
        self.stop_request = StopRequest()  # active during `fit`

    def make_dataloader(
        self,
        dataset: torch.utils.data.Dataset,
        stage: sb.Stage,
        ckpt_prefix: str | None = None,
        **loader_kwargs: object,
    ) -> torch.utils.data.DataLoader:
        """Make a loader over a `BucketBatchSampler`, given as `batch_sampler`.

        That of the stage TRAIN decides the epochs. No position is stored under `ckpt_prefix`: the
        sampler knows it from epoch and step.

        Raises
        ------
        UserError
            If the dataset is empty.
        """
        if len(dataset) == 0:  # its losses and metrics would be means of nothing
            raise UserError(f"there is no utterance to use in stage {stage.name}: give other data")
        if stage == sb.Stage.TRAIN:
            self.train_dataset, self.train_sampler = dataset, loader_kwargs["batch_sampler"]
        loader_kwargs.setdefault("worker_init_fn", leave_signals_to_parent)
        return sb.dataio.dataloader.make_dataloader(dataset, **loader_kwargs)

    def fit(self, *args, **kwargs) -> None:
        """Train; see `speechbrain.Brain.fit`. SIGTERM and Ctrl-C save and end the process."""
        with StopRequest() as self.stop_request:
            super().fit(*args, **kwargs)

    def end_if_asked(self) -> None:
        """End the process if a signal asked for it; what was to be saved is saved."""
        if self.stop_request.agreed(self.device):
            logger.warning(
                "Ended by %s after %d optimizer steps; the same command resumes",
                self.stop_request.signal_name,
                self.optimizer_step,
            )
            raise SystemExit(128 + self.stop_request.signal_number)

    def on_fit_start(self) -> None:
        """Build optimizers, resume, cut the logs to where the checkpoint is, and say where."""
        super().on_fit_start()
        train_logger = getattr(self.hparams, "train_logger", None)
        if train_logger is not None:
            train_logger.resume(self.hparams.epoch_counter.current)
            train_logger.declare(self.task_metrics)
        self.layer_statistics = LayerStatistics.of_run(self.modules, vars(self.hparams))
        self.layer_statistics.resume(self.optimizer_step)
        if self.optimizer_step:
            where = f"at batch {self.step} of its next epoch" if self.step else "at an epoch's end"
            logger.info("Resumed after %d optimizer steps, %s", self.optimizer_step, where)

    def on_optimizer_step_start(self) -> None:
        """Called before each optimizer step that is taken: the place of a schedule."""

    def on_optimizer_step_end(self) -> None:
        """Called after each optimizer step that was taken, with the new weights.

        The place of an average of the weights: `on_fit_batch_end` is also called with
        `should_step=True` for a step that was skipped.
        """

    def compile_if_asked(self, module: torch.nn.Module) -> bool:
        """Let a module compile itself, with `--compile` and its options: for a `_compile`.

        Arguments
        ---------
        module : torch.nn.Module
            One of `modules`; its `compile` chooses which of its parts make a graph.

        Returns
        -------
        bool
            Whether that was asked for.
        """
        asked = bool(self.compile or self.compile_module_keys)
        if asked:
            module.compile(
                mode=self.compile_mode,
                fullgraph=self.compile_using_fullgraph,
                dynamic=self.compile_using_dynamic_shape_tracing,
            )
        return asked

    def _check_modules_to_compile(self):
        unknown = sorted(set(self.compile_module_keys or ()) - set(self.modules))
        if unknown:
            raise UserError(
                f"--compile_module_keys {' '.join(unknown)}: there is no such module here: "
                f"name {' or '.join(self.modules)} (or give --compile alone)"
            )

    def set_train_mode(self) -> None:
        """Called before each training epoch; override to keep frozen modules in eval mode."""
        self.modules.train()

    def batch_chunks(self, stage: sb.Stage) -> Chunks:
        """The chunks that a batch of a stage is encoded with; None: the full context."""
        if stage == sb.Stage.TRAIN:
            return self.chunks.draw(self.hparams.seed, self.epoch, *self.place)
        return self.chunks.valid if stage == sb.Stage.VALID else self.tested_chunks

    def batch_audio_s(self, batch: PaddedBatch) -> float:
        """Seconds of audio in a batch, without padding; override for other batches than `sig`."""
        num_samples = (batch.sig.lengths * batch.sig.data.shape[1]).round().sum()
        return float(num_samples) / self.hparams.sample_rate

    def accumulation_window(self) -> tuple[int, bool]:
        """How many batches the current optimizer step collects, and whether this is the last."""
        factor, num_batches = self.grad_accumulation_factor, len(self.train_sampler)
        first = (self.step - 1) // factor * factor
        size = min(factor, num_batches - first)
        return size, self.step == first + size

    def fit_batch(self, batch: PaddedBatch) -> torch.Tensor:
        """Forward, backward and, at the end of an accumulation window, one optimizer step.

        Returns
        -------
        torch.Tensor
            The detached loss, on the CPU.
        """
        window, should_step = self.accumulation_window()
        self.begin_statistics()
        seed_step(self.hparams.seed, self.epoch, *self.place)
        self.on_fit_batch_start(batch, should_step)
        looked_at = self.layer_statistics.of_batch(
            self.optimizer_step, is_first=(self.step - 1) % self.grad_accumulation_factor == 0
        )
        with self.no_sync(not should_step), looked_at:
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.scaler.scale(loss / window).backward()
        self.window_ids += batch.id
        if should_step:
            self.optimizers_step()
            self.window_ids = []
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step:
            self.merge_statistics()
        return loss.detach().cpu()

    def optimizers_step(self) -> None:
        """Clip, check and apply the gradients."""
        optimizers = self.freeze_optimizers(self.optimizers_dict)
        for optimizer in optimizers.values():
            self.scaler.unscale_(optimizer)
        parameters = [
            parameter
            for optimizer in optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        max_norm = self.max_grad_norm if self.max_grad_norm > 0 else math.inf
        grad_norm = clip_gradients(parameters, max_norm)
        if math.isfinite(grad_norm):
            self.on_optimizer_step_start()
            for optimizer in optimizers.values():
                self.scaler.step(optimizer)
            self.optimizer_step += 1
            self.skipped_steps.reset()
            self.sums.add(grad_norm=grad_norm, num_steps=1)
            self.on_optimizer_step_end()
        elif self.scaler.is_enabled():  # fp16 finds its loss scale by overflowing now and then
            self.sums.add(num_overflows=1)
        else:
            place = f"epoch {self.epoch}, batch {self.step}"
            self.skipped_steps.add(grad_norm, self.window_ids, place)
        self.scaler.update()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _fit_train(self, train_set, epoch, enable):
        self.epoch = epoch
        self.window_ids = []
        self.epoch_trained = not self._optimizer_step_limit_exceeded
        if not self.epoch_trained:
            return
        self.on_stage_start(sb.Stage.TRAIN, epoch)
        self.set_train_mode()
        self.zero_grad(set_to_none=True)
        self.train_sampler.set_epoch(epoch)
        self.train_sampler.set_start(epoch, self.step)
        bar = {"total": len(train_set), "initial": self.step, "desc": f"Epoch {epoch}"}
        bar |= {"disable": not enable, "colour": self.tqdm_barcolor["train"]}
        with EpochProgress(self.sums, self.world_size, **bar) as progress:
            self._fit_batches(progress.timed(train_set), progress)
        self.zero_grad(set_to_none=True)
        self.sums.all_reduce()
        self.avg_train_loss = self.sums.ratio("batch_loss", "num_batches")
        self.on_stage_end(sb.Stage.TRAIN, self.avg_train_loss, epoch)
        self.avg_train_loss = 0.0
        self.sums.reset()
        self.step = 0

    def _fit_batches(self, batches: Iterable, progress: EpochProgress):
        """Train on the batches of an epoch, with the checkpoints within it."""
        last_save, steps_at_save = time.time(), self.optimizer_step
        for batch in batches:
            self.step += 1
            loss = self.fit_batch(batch)
            self.avg_train_loss = progress.add(loss, self.batch_audio_s(batch), self.optimizer_step)
            if self._optimizer_step_limit_exceeded:
                break
            if self.debug and self.step >= self.debug_batches:
                break
            if not self.accumulation_window()[1]:
                continue  # checkpoints lie between optimizer steps
            stopping = self.stop_request.agreed(self.device)
            if stopping or self._should_save_intra_epoch_ckpt(
                last_save, self.optimizer_step - steps_at_save
            ):
                save_within_epoch(self.checkpointer, self._checkpoint_meta())
                last_save, steps_at_save = time.time(), self.optimizer_step
                self.end_if_asked()

    def _fit_valid(self, valid_set, epoch, enable):
        if self.epoch_trained:
            super()._fit_valid(valid_set, epoch, enable)
            self.end_if_asked()
        elif if_main_process():
            logger.info(
                "optimizer_step_limit (%d steps) was reached before: nothing left to train",
                self.optimizer_step_limit,
            )

    def grad_norm_figure(self) -> dict[str, float]:
        """The mean gradient norm over the steps of the epoch, before clipping: `grad_norm`."""
        return gradient_metrics(self.sums)

    def train_summary(self) -> dict[str, float]:
        """What every recipe reports of a training epoch (`TRAINING_METRICS`), at its end."""
        return training_metrics(self.sums, self.world_size, self.device)

    def batch_facts(self, sampler: BucketBatchSampler) -> dict[str, str]:
        """What a step of this run consists of, for the table of options."""
        return describe_steps(sampler, self.world_size, self.grad_accumulation_factor)

    def save_epoch(self, stats: dict[str, float]) -> None:
        """Save at the end of an epoch, with the validation's statistics in the checkpoint.

        The newest checkpoint and, by `task_metrics`, the best ones are kept.
        """
        save_after_epoch(
            self.checkpointer,
            {**stats, **self._checkpoint_meta()},
            num_to_keep=self.hparams.num_checkpoints_to_keep,
            best_by=self.task_metrics.checkpoint_key(),
        )

    @sb.utils.checkpoints.mark_as_saver
    def _save_place(self, path):
        self._save(path)
        if self.batches_per_step is not None:
            note_batches(path, self.step * self.world_size)

    @sb.utils.checkpoints.mark_as_loader
    def _load_place(self, path, end_of_epoch):
        self._recover(path, end_of_epoch)
        if self.batches_per_step is not None:
            self.step = noted_batches(path) // self.world_size

    def _checkpoint_meta(self):
        return {"optimizer_step": self.optimizer_step}
