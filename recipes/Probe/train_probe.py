#!/usr/bin/env python3
"""What a frozen encoder knows: speakers or keywords, by a linear probe on a sum of its layers.

    python recipes/Probe/train_probe.py hparams/probe.yaml --data_folder /path/to/LibriSpeech

Probes the encoder that `pretrained` names. Without --data_folder it probes the demo of
train_bestrq.py. The same command resumes. Any key of the YAML is an option; --help lists them.
"""

import json
from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.words import mini_words
from speechbrain_pom.data.prepare import prepare_data
from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.probe import (
    ClassificationScores,
    equal_error_rate,
    prepare_probe,
)
from speechbrain_pom.probe.frozen import load_frozen_encoder
from speechbrain_pom.probe.metrics import PROBE_METRICS, format_scores
from speechbrain_pom.probe.pooling import (
    Statistics,
    check_cache_size,
    encode_dataset,
    layer_means,
)
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.record import check_fingerprint, record_fingerprint
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.dataset import audio_dataset, make_sampler
from speechbrain_pom.utils.errors import exit_on_user_error
from speechbrain_pom.utils.files import sha256_of, write_atomically

logger = get_logger(__name__)


class ProbeBrain(ExactBrain):
    """A frozen encoder, of which each utterance is encoded once, and the probe that is trained."""

    task_metrics = PROBE_METRICS

    def encode(self, datasets):
        """Encode what training and tests need, and standardise by the training utterances."""
        self.cache = {}
        statistics = Statistics()
        names = datasets if self.hparams.cache_features else ["train"]
        self.modules.eval()
        for name in names:
            for ids, states in encode_dataset(
                self.modules.encoder,
                datasets[name],
                max_batch_duration_s=self.hparams.max_batch_duration_s,
                num_workers=self.hparams.num_workers,
                title=name if if_main_process() and not self.noprogressbar else None,
            ):
                if name == "train":
                    statistics.add(states)
                if self.hparams.cache_features:
                    self.cache.update(zip(ids, states, strict=True))
        self.hparams.probe.set_statistics(statistics)

    def layer_means(self, batch):
        """The means of all layers (B, num_layers + 1, d_model)."""
        if self.hparams.cache_features:
            return torch.stack([self.cache[key] for key in batch.id]).to(self.device)
        wavs, lengths = (part.to(self.device) for part in batch.sig)
        return layer_means(self.modules.encoder, wavs, lengths)

    def compute_forward(self, batch, stage):
        """Logits (B, classes)."""
        return self.modules.probe(self.layer_means(batch))

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy; outside of training the answers are kept."""
        classes = self.class_names
        labels = torch.tensor([classes.index(name) for name in batch.label], device=self.device)
        answers = predictions.argmax(-1)
        if stage == sb.Stage.TRAIN:
            self.sums.add(num_wrong=(answers != labels).sum(), num_utterances=len(labels))
        else:
            self.scores.append(batch.id, [classes[index] for index in answers], batch.label)
        return torch.nn.functional.cross_entropy(predictions.float(), labels)

    def batch_audio_s(self, batch):
        """Seconds of audio in a batch, which may not have been read again."""
        return sum(map(float, batch.duration))

    def init_optimizers(self):
        """One optimizer, for the probe alone."""
        self.optimizer = self.hparams.optimizer(self.modules.probe.parameters())
        self.optimizers_dict = {"opt_class": self.optimizer}
        self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def set_train_mode(self):
        """The frozen encoder has no dropout."""
        super().set_train_mode()
        self.modules.encoder.eval()

    def on_stage_start(self, stage, epoch=None):
        """Begin to count answers."""
        self.scores = ClassificationScores()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log and save after validation; report after a test."""
        if stage == sb.Stage.TRAIN:
            error_rate = 100 * self.sums.ratio("num_wrong", "num_utterances")
            self.train_stats = {
                "loss": stage_loss,
                "error_rate": error_rate,
                **self.grad_norm_figure(),
            }
        elif stage == sb.Stage.VALID:
            valid_stats = {"loss": float(stage_loss), "error_rate": self.scores.error_rate()}
            weights = " ".join(f"{weight:.3f}" for weight in self.hparams.probe.layer_weights())
            self.hparams.train_logger.log_stats(
                {"epoch": epoch, "steps": self.optimizer_step, "layer_weights": weights},
                train_stats=self.train_stats,
                valid_stats=valid_stats,
            )
            self.save_epoch(valid_stats)
        elif if_main_process():
            summary = self.scores.summary(self.hparams.num_bootstrap)
            logger.info("%s: %s", self.test_name, format_scores(summary))
            self.report({self.test_name: summary})

    def verify(self, dataset, loader):
        """Equal error rate of speakers that training did not have, with the tested probe."""
        embeddings = {}
        self.modules.eval()
        with torch.no_grad():
            for batch in self.make_dataloader(dataset, sb.Stage.TEST, **loader):
                vectors = self.hparams.probe.embed(self.layer_means(batch)).cpu()
                embeddings.update(zip(batch.id, vectors, strict=True))
        speakers = {key: row["label"] for key, row in dataset.data.items()}
        figures = equal_error_rate(embeddings, speakers, self.hparams.num_trials)
        if if_main_process():
            logger.info(
                "verification: equal error rate {eer:.2f} %, {num_same} trials of one speaker and "
                "{num_different} of two, {num_speakers} speakers".format(**figures)
            )
            self.report({"verification": figures})

    def report(self, figures):
        """Add to the JSON with all results."""
        path = Path(self.hparams.output_folder) / "results.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        results |= {
            "task": self.hparams.task,
            "random_encoder": self.hparams.random_encoder,
            "layer_weights": self.hparams.probe.layer_weights(),
            **figures,
        }
        write_atomically(path, json.dumps(results, indent=1) + "\n")


def dataio_prepare(hparams):
    """Datasets with classes, checked: train, valid, the tests by name, and perhaps trials."""
    data = run_on_main(prepare_data, args=[hparams, prepare_probe, prepare_probe])
    paths = {"train": data.train, "valid": data.valid, **data.tests}
    if data.trials is not None:
        paths["trials"] = data.trials
    datasets = {name: audio_dataset(path, hparams["data_folder"]) for name, path in paths.items()}
    return datasets, data


def training_view(dataset, hparams):
    """The dataset as training and tests read it: without audio where the encoder is not run."""
    keys = ["id", "duration", "label"]
    if hparams["cache_features"]:
        return DynamicItemDataset(dataset.data, output_keys=keys)
    dataset.set_output_keys([*keys, "sig"])
    return dataset


def check_start(output_folder, encoder, data):
    """Resume only what was begun with this encoder and these utterances and classes."""
    hashes = {"encoder": hash_of_tensors(encoder), "training_data": sha256_of(data.train)}
    if any(Path(output_folder).glob("save/CKPT+*")):
        check_fingerprint(output_folder, **hashes)
    record_fingerprint(output_folder, **hashes)


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=mini_words)
    hparams = experiment.hparams
    encoder = load_frozen_encoder(
        hparams["pretrained"], random_encoder=hparams["random_encoder"], seed=hparams["seed"]
    )
    datasets, data = dataio_prepare(hparams)
    check_start(hparams["output_folder"], encoder, data)
    if hparams["cache_features"]:
        check_cache_size(sum(map(len, datasets.values())), encoder, hparams["max_cache_gib"])
    class_names = sorted({row["label"] for row in datasets["train"].data.values()})
    hparams["probe"] = hparams["probe"](encoder.num_layers + 1, encoder.d_model, len(class_names))
    hparams["checkpointer"].add_recoverable("probe", hparams["probe"])
    brain = ProbeBrain(
        modules={"encoder": encoder, "probe": hparams["probe"]},
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.class_names = class_names
    options = {"batch_size": hparams["batch_size"], "num_buckets": 1, "seed": hparams["seed"]}
    ranks = {"rank": launch.rank, "world_size": launch.world_size}
    sampler = make_sampler(datasets["train"], **options, **ranks)
    if if_main_process():
        logger.info(describe(experiment, brain.batch_facts(sampler)))
    return brain, experiment, datasets, list(data.tests), sampler


def main():
    """Encode, train the probe, then test the checkpoint with the fewest errors in validation."""
    with exit_on_user_error():
        brain, experiment, datasets, tests, train_sampler = prepare_run()
        brain.encode(datasets)
    hparams = brain.hparams
    views = {name: training_view(dataset, vars(hparams)) for name, dataset in datasets.items()}
    workers = 0 if hparams.cache_features else hparams.num_workers

    def in_order(name):
        sampler = make_sampler(
            views[name], batch_size=hparams.batch_size, order="descending", seed=0
        )
        return {"batch_sampler": sampler, "num_workers": workers}

    brain.fit(
        hparams.epoch_counter,
        views["train"],
        views["valid"],
        train_loader_kwargs={"batch_sampler": train_sampler, "num_workers": workers},
        valid_loader_kwargs=in_order("valid"),
    )
    for name in tests:
        brain.test_name = name
        brain.evaluate(
            views[name], **PROBE_METRICS.checkpoint_key(), test_loader_kwargs=in_order(name)
        )
    if "trials" in views:
        brain.verify(views["trials"], in_order("trials"))
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
