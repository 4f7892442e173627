#!/usr/bin/env python3
"""BEST-RQ pretraining (arXiv 2202.01855) of a SpeechBrain encoder with any token mixer.

    python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --data_folder /path/to/LibriSpeech

Without --data_folder a small model is trained on synthetic speech in a few minutes. The same
command resumes. Any key of the YAML is an option; --help lists them.
"""

from pathlib import Path

import speechbrain as sb
import torch.nn.functional as F
from librispeech_prepare import prepare_pretraining
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.make import demo_corpus
from speechbrain_pom.objectives import bestrq
from speechbrain_pom.objectives.bestrq.metrics import METRICS
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.metrics import TaskMetrics
from speechbrain_pom.runs.record import check_fingerprint
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.costs import TRAINING_METRICS, learning_rate
from speechbrain_pom.training.dataset import audio_dataset, leave_out, make_sampler
from speechbrain_pom.training.sums import keep_in_checkpoints
from speechbrain_pom.utils.errors import exit_on_user_error

logger = get_logger(__name__)


class BestRQBrain(ExactBrain):
    """Predicts the codes of masked frames."""

    task_metrics = TaskMetrics(
        "BEST-RQ", (*METRICS, learning_rate(), *TRAINING_METRICS), use="newest"
    )

    def compute_forward(self, batch, stage):
        """Logits and target codes of the masked positions, (N, V) and (N,)."""
        hparams = self.hparams
        training = stage == sb.Stage.TRAIN
        wavs, lengths = batch.sig.data.to(self.device), batch.sig.lengths.to(self.device)
        num_samples = (lengths * wavs.shape[1]).round().long()
        encoder = self.modules.encoder
        feats, num_frames = encoder.features(wavs, num_samples, hparams.epoch_counter.current)
        mask = bestrq.sample_masks(
            num_frames.tolist(),
            batch.id,
            mask_prob=hparams.mask_prob,
            mask_length=hparams.mask_length,
            scope=hparams.mask_scope,
            seed=hparams.seed,
            epoch=self.epoch if training else None,
            step=self.step,
            rank=self.rank,
        ).to(self.device)
        mask = F.pad(mask, (0, feats.shape[1] - mask.shape[1]))
        predicted = bestrq.predicted_positions(mask, num_frames, hparams.stride)  # (B, T/stride)
        quantizer = self.modules.Quantizer
        stacked = bestrq.stack_frames(feats, hparams.stride)[predicted]
        targets = bestrq.nearest_codes(stacked, quantizer.P, quantizer.CB)

        noise = bestrq.sample_noise(
            feats,
            batch.id,
            mean=hparams.noise_mean,
            std=hparams.noise_std,
            seed=None if training else hparams.seed,
        )
        encoded, _ = encoder.encode(bestrq.apply_noise(feats, mask, noise), num_frames)
        self.statistics.update_frames(mask.sum(), num_frames.sum())
        return self.modules.linear(encoded[predicted]), targets

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy over the masked positions of the batch."""
        logits, targets = predictions
        loss_sum = F.cross_entropy(logits.float(), targets, reduction="sum")
        self.statistics.update(logits.detach(), targets, loss_sum.detach())
        return loss_sum / len(targets)

    def on_optimizer_step_start(self):
        """The learning rate of this step."""
        self.hparams.noam_annealing(self.optimizer)

    def on_fit_start(self):
        """Resume, and check that the targets are still those of the run."""
        self.train_statistics = bestrq.CodeStatistics(self.hparams.cb_vocab)
        keep_in_checkpoints(self.checkpointer, "train_statistics", self.train_statistics)
        super().on_fit_start()
        check_fingerprint(
            self.hparams.output_folder,
            quantizer=bestrq.quantizer_fingerprint(self.modules.Quantizer),
        )

    def on_stage_start(self, stage, epoch=None):
        """Fresh statistics for the stage, unless it is resumed."""
        self.statistics = bestrq.CodeStatistics(self.hparams.cb_vocab)
        if stage == sb.Stage.TRAIN:
            if self.step == 0:
                self.train_statistics.reset()
            self.statistics = self.train_statistics

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log, draw and save at the end of the validation of an epoch."""
        self.statistics.all_reduce()
        stats = self.statistics.summary()
        if stage == sb.Stage.TRAIN:
            self.train_stats = {**stats, **self.train_summary()}
            return
        collapse = bestrq.find_collapse(stats, self.hparams.cb_vocab)
        if collapse:
            logger.warning(collapse)
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


def dataio_prepare(hparams, rank, world_size):
    """Datasets and samplers of training and validation."""
    manifest_folder = Path(hparams["output_folder"]) / "manifests"
    keys = ("data_layout", "train_splits", "valid_split", "valid_share", "train_csv", "valid_csv")
    manifests = run_on_main(
        prepare_pretraining,
        args=[hparams["data_folder"], manifest_folder],
        kwargs={key: hparams[key] for key in (*keys, "max_bad_share", "check_data")},
    )
    train_data = maskable_dataset(
        manifests["train"], hparams, min_duration_s=hparams["min_duration_s"]
    )
    valid_data = maskable_dataset(manifests["valid"], hparams)
    shared = {"seed": hparams["seed"], "rank": rank, "world_size": world_size}
    train_sampler = make_sampler(
        train_data,
        max_batch_duration_s=hparams["max_batch_duration_s"],
        num_buckets=hparams["num_buckets"],
        **shared,
    )
    valid_sampler = make_sampler(
        valid_data,
        max_batch_duration_s=hparams["valid_batch_duration_s"],
        order="descending",
        **shared,
    )
    return train_data, valid_data, train_sampler, valid_sampler


def maskable_dataset(manifest, hparams, min_duration_s=0.0):
    """A dataset of the utterances of which something can be masked and predicted."""
    dataset = audio_dataset(
        manifest,
        hparams["data_folder"],
        min_duration_s=min_duration_s,
        max_duration_s=hparams["max_duration_s"],
    )
    frames = {
        key: bestrq.num_feature_frames(
            int(row["num_samples"]), hparams["sample_rate"], hparams["hop_length"]
        )
        for key, row in dataset.data.items()
    }
    bad = bestrq.find_unmaskable(frames, hparams["mask_length"])
    return leave_out(dataset, bad, "are too short for a mask")


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=demo_corpus)
    hparams = experiment.hparams
    bestrq.check_mask_options(
        hparams["mask_prob"], hparams["mask_length"], hparams["stride"], hparams["mask_scope"]
    )
    train_data, valid_data, train_sampler, valid_sampler = dataio_prepare(
        hparams, launch.rank, launch.world_size
    )
    brain = BestRQBrain(
        modules=hparams["modules"],
        opt_class=hparams["optimizer"],
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    facts = brain.batch_facts(train_sampler)
    if if_main_process():
        logger.info(describe(experiment, facts))
    return brain, experiment, train_data, valid_data, train_sampler, valid_sampler


def main():
    """Pretrain."""
    with exit_on_user_error():
        brain, experiment, train_data, valid_data, train_sampler, valid_sampler = prepare_run()
    num_workers = brain.hparams.num_workers
    brain.fit(
        brain.hparams.epoch_counter,
        train_data,
        valid_data,
        train_loader_kwargs={"batch_sampler": train_sampler, "num_workers": num_workers},
        valid_loader_kwargs={"batch_sampler": valid_sampler, "num_workers": num_workers},
    )
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
