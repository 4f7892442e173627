"""SpeechBrain's Brain, with training as a function of seed, epoch and step.

Everything that the two recipes share and that SpeechBrain has no seam for is here, in one
subclass: recipes keep SpeechBrain's shape and may override any method.
"""

import logging
import math
import time

import speechbrain as sb
import torch
from speechbrain.core import INTRA_EPOCH_CKPT_FLAG
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_pom.pretrained import describe_encoder
from speechbrain_pom.runs.metrics import TaskMetrics
from speechbrain_pom.training.costs import peak_memory_mib
from speechbrain_pom.training.layer_statistics import LayerStatistics
from speechbrain_pom.training.stopping import StopRequest, leave_signals_to_parent
from speechbrain_pom.training.sums import EpochSums, keep_in_checkpoints
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import seed_step

logger = get_logger(__name__)


class ExactBrain(sb.Brain):
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
    - `sums` over the epoch are in the checkpoints, so that averages continue.

    Arguments
    ---------
    *args, **kwargs
        As for `speechbrain.Brain`. `hparams` needs `seed` and `sample_rate`.
    """

    task_metrics: TaskMetrics  # of a subclass

    def __init__(self, *args, run_opts=None, **kwargs):
        if isinstance(run_opts, dict) and run_opts.get("ckpt_interval_steps", 0) > 0:
            # SpeechBrain takes one of the two: steps asked for replace the YAML's minutes.
            run_opts = {"ckpt_interval_minutes": 0, **run_opts}
        super().__init__(*args, run_opts=run_opts, **kwargs)
        self.rank = getattr(self, "rank", 0)  # SpeechBrain sets it only for several processes
        self.world_size = (
            torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        )
        self.sums = EpochSums()
        if self.checkpointer is not None:
            keep_in_checkpoints(self.checkpointer, "sums", self.sums)
        self.nonfinite_in_a_row = 0
        self.epoch_trained = False
        self.stop_request = StopRequest()  # active during `fit`

    def make_dataloader(self, dataset, stage, ckpt_prefix=None, **loader_kwargs):
        """Make a loader over a `BucketBatchSampler`, given as `batch_sampler`.

        Arguments
        ---------
        dataset : Dataset
            Usually a `DynamicItemDataset`.
        stage : speechbrain.Stage
            TRAIN makes the sampler the one that decides the epochs.
        ckpt_prefix : str, optional
            Not used: no position is stored, the sampler knows it from epoch and step.
        **loader_kwargs
            For `speechbrain.dataio.dataloader.make_dataloader`.

        Returns
        -------
        torch.utils.data.DataLoader

        Raises
        ------
        UserError
            If the dataset is empty.
        """
        if len(dataset) == 0:  # its losses and metrics would be means of nothing
            raise UserError(f"there is no utterance to use in stage {stage.name}: give other data")
        if stage == sb.Stage.TRAIN:
            self.train_sampler = loader_kwargs["batch_sampler"]
        loader_kwargs.setdefault("worker_init_fn", leave_signals_to_parent)
        return sb.dataio.dataloader.make_dataloader(dataset, **loader_kwargs)

    def fit(self, *args, **kwargs):
        """Train; see `speechbrain.Brain.fit`. SIGTERM and Ctrl-C save and end the process."""
        with StopRequest() as self.stop_request:
            super().fit(*args, **kwargs)

    def end_if_asked(self):
        """End the process if a signal asked for it; what was to be saved is saved."""
        if self.stop_request.agreed(self.device):
            logger.warning(
                "Ended by %s after %d optimizer steps; the same command resumes",
                self.stop_request.signal_name,
                self.optimizer_step,
            )
            raise SystemExit(128 + self.stop_request.signal_number)

    def on_fit_start(self):
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

    def on_optimizer_step_start(self):
        """Called before each optimizer step that is taken: the place of a schedule."""

    def on_optimizer_step_end(self) -> None:
        """Called after each optimizer step that was taken, with the new weights.

        The place of an average of the weights: `on_fit_batch_end` is also called with
        `should_step=True` for a step that was skipped.
        """

    def set_train_mode(self):
        """Called before each training epoch; override to keep frozen modules in eval mode."""
        self.modules.train()

    def batch_audio_s(self, batch):
        """Seconds of audio in a batch, without padding; override for other batches than `sig`."""
        num_samples = (batch.sig.lengths * batch.sig.data.shape[1]).round().sum()
        return float(num_samples) / self.hparams.sample_rate

    def accumulation_window(self):
        """How many batches the current optimizer step collects, and whether this is the last.

        Returns
        -------
        tuple of (int, bool)
        """
        factor, num_batches = self.grad_accumulation_factor, len(self.train_sampler)
        first = (self.step - 1) // factor * factor
        size = min(factor, num_batches - first)
        return size, self.step == first + size

    def fit_batch(self, batch):
        """Forward, backward and, at the end of an accumulation window, one optimizer step.

        Arguments
        ---------
        batch : PaddedBatch
            With `id`.

        Returns
        -------
        torch.Tensor
            The detached loss, on the CPU.
        """
        window, should_step = self.accumulation_window()
        seed_step(self.hparams.seed, self.epoch, self.step, self.rank)
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
        return loss.detach().cpu()

    def optimizers_step(self):
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
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_norm))
        if math.isfinite(grad_norm):
            self.on_optimizer_step_start()
            for optimizer in optimizers.values():
                self.scaler.step(optimizer)
            self.optimizer_step += 1
            self.nonfinite_in_a_row = 0
            self.sums.add(grad_norm=grad_norm, num_steps=1)
            self.on_optimizer_step_end()
        else:
            self._skip_step(grad_norm)
        self.scaler.update()
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def _skip_step(self, grad_norm):
        if self.scaler.is_enabled():  # fp16 finds its loss scale by overflowing now and then
            self.sums.add(num_overflows=1)
            return
        self.nonfinite_in_a_row += 1
        ids = self.window_ids
        if self.world_size > 1:
            gathered = [None] * self.world_size
            torch.distributed.all_gather_object(gathered, ids)
            ids = [key for part in gathered for key in part]
        logger.warning(
            "Gradient norm %s in epoch %d, batch %d: step skipped. Utterances: %s",
            grad_norm,
            self.epoch,
            self.step,
            " ".join(ids),
        )
        if self.nonfinite_in_a_row > self.nonfinite_patience:
            raise RuntimeError(
                f"{self.nonfinite_in_a_row} steps in a row had gradients that are not finite; the "
                "weights are those of the last good step. Look at the utterances named above, or "
                "lower the learning rate"
            )

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
        last_save = time.time()
        steps_at_save = self.optimizer_step
        with tqdm(
            total=len(train_set),
            initial=self.step,
            desc=f"Epoch {epoch}",
            dynamic_ncols=True,
            disable=not enable,
            colour=self.tqdm_barcolor["train"],
        ) as progress:
            for batch in self._timed(train_set):
                self.step += 1
                loss = self.fit_batch(batch)
                self.sums.add(audio_s=self.batch_audio_s(batch), batch_loss=loss, num_batches=1)
                self.avg_train_loss = self.sums.ratio("batch_loss", "num_batches")
                progress.set_postfix_str(self._progress_text(), refresh=False)
                progress.update()
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
                    self._save_intra_epoch_ckpt()
                    last_save, steps_at_save = time.time(), self.optimizer_step
                    self.end_if_asked()
        self.zero_grad(set_to_none=True)
        self.sums.all_reduce()
        self.avg_train_loss = self.sums.ratio("batch_loss", "num_batches")
        self.on_stage_end(sb.Stage.TRAIN, self.avg_train_loss, epoch)
        self.avg_train_loss = 0.0
        self.sums.reset()
        self.step = 0

    def _timed(self, batches):
        """Yield batches, adding the time between them (loading included) to the sums."""
        start = time.perf_counter()
        for batch in batches:
            yield batch
            now = time.perf_counter()
            self.sums.add(wall_s=now - start)
            start = now

    def _progress_text(self):
        text = f"loss={self.avg_train_loss:.3f}, step={self.optimizer_step}"
        # wall_s is added after the batch: the first batch of an epoch has no throughput yet
        if not self.sums["wall_s"]:
            return text
        speed = self.world_size * self.sums.ratio("audio_s", "wall_s")
        return f"{text}, {speed:.0f}x real time"

    def grad_norm_figure(self):
        """The mean gradient norm over the steps of the epoch, before clipping.

        Returns
        -------
        dict of str to float
            `grad_norm`; empty if all steps were skipped.
        """
        if not self.sums["num_steps"]:
            return {}
        return {"grad_norm": self.sums.ratio("grad_norm", "num_steps")}

    def train_summary(self):
        """Figures of the training epoch that every recipe reports; for the end of the stage.

        Returns
        -------
        dict of str to float
            `grad_norm` as from `grad_norm_figure`, `audio_s_per_s` (throughput over all
            processes), `peak_memory_mib` (of the device; of the process on a CPU).
        """
        return {
            **self.grad_norm_figure(),
            "audio_s_per_s": self.world_size * self.sums.ratio("audio_s", "wall_s"),
            "peak_memory_mib": peak_memory_mib(self.device),
        }

    def batch_facts(self, sampler):
        """What a step of this run is, for the table of options.

        Arguments
        ---------
        sampler : BucketBatchSampler
            Of training.

        Returns
        -------
        dict of str to str
        """
        plan = sampler.summary()
        batch_s = plan["mean_batch_duration_s"]
        step_s = batch_s * self.world_size * self.grad_accumulation_factor
        return {
            "batches_per_epoch": str(plan["num_batches"]),
            "audio_per_step": f"{step_s:.0f} s ({batch_s:.0f} s x {self.world_size} processes "
            f"x accumulation {self.grad_accumulation_factor}), padding {plan['padding_share']:.1%}",
        }

    def save_epoch(self, stats: dict[str, float]) -> None:
        """Save at the end of an epoch, and keep the newest and the best checkpoints.

        Arguments
        ---------
        stats : dict of str to float
            Of the validation; stored with the checkpoint. `task_metrics` says which of them tells
            the best checkpoint.
        """
        ranking = {f"{key}s": [name] for key, name in self.task_metrics.checkpoint_key().items()}
        self.checkpointer.save_and_keep_only(
            meta={**stats, **self._checkpoint_facts()},
            num_to_keep=self.hparams.num_checkpoints_to_keep,
            importance_keys=[],  # SpeechBrain's default is one list, longer after each call
            **ranking,
        )

    def _save_intra_epoch_ckpt(self):
        self.checkpointer.save_and_keep_only(
            meta={INTRA_EPOCH_CKPT_FLAG: True, **self._checkpoint_facts()},
            end_of_epoch=False,
            num_to_keep=1,
            ckpt_predicate=lambda checkpoint: INTRA_EPOCH_CKPT_FLAG in checkpoint.meta,
            importance_keys=[],
            verbosity=logging.DEBUG,
        )

    def _checkpoint_facts(self):
        return {
            "optimizer_step": self.optimizer_step,
            "encoder": describe_encoder(vars(self.hparams)),
        }

    def _fit_valid(self, valid_set, epoch, enable):
        if self.epoch_trained:
            super()._fit_valid(valid_set, epoch, enable)
            self.end_if_asked()
        elif if_main_process():
            logger.info(
                "optimizer_step_limit (%d steps) was reached before: nothing left to train",
                self.optimizer_step_limit,
            )
