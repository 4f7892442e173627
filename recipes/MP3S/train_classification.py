#!/usr/bin/env python3
"""MP3S classification: intent, emotion, keywords, speakers, from the layers of a frozen encoder.

    python recipes/MP3S/train_classification.py hparams/mp3s_classification.yaml --train_csv a.csv

Reads the encoder that `pretrained` names. Without --data_folder it continues the demo of
train_bestrq.py. The same command resumes. Any key of the YAML is an option; --help lists them.
"""

from pathlib import Path

import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.words import mini_words
from speechbrain_pom.data.prepare import prepare_data
from speechbrain_pom.downstream.answers import write_answers
from speechbrain_pom.downstream.classes import ClassesBrain
from speechbrain_pom.downstream.data import task_datasets
from speechbrain_pom.downstream.metrics import CLASSIFICATION_METRICS
from speechbrain_pom.downstream.start import build_model, check_start, upstream_of
from speechbrain_pom.probe import prepare_probe
from speechbrain_pom.probe.metrics import format_scores
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.utils.errors import exit_on_user_error

logger = get_logger(__name__)


class ClassificationBrain(ClassesBrain):
    """A head on the states of an encoder that tells classes of utterances apart."""

    task_metrics = CLASSIFICATION_METRICS

    def compute_objectives(self, predictions, batch, stage):
        """Cross-entropy."""
        logits, _ = predictions
        labels = self.count_answers(logits, batch, stage)
        return torch.nn.functional.cross_entropy(logits, labels)

    def end_test(self):
        """Write the answers and their figures."""
        if not if_main_process():
            return
        summary = self.scores.summary(self.hparams.num_bootstrap)
        logger.info("%s: %s", self.test_name, format_scores(summary))
        folder = Path(self.hparams.output_folder)
        write_answers(folder / f"answers_{self.test_name}.csv", self.scores.answers())
        self.report(self.test_name, summary)


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=mini_words)
    hparams = experiment.hparams
    upstream = upstream_of(hparams)
    data = run_on_main(prepare_data, args=[hparams, prepare_probe, prepare_probe])
    datasets = task_datasets(data, hparams["data_folder"], hparams["max_duration_s"])
    class_names = sorted({row["label"] for row in datasets["train"].data.values()})
    model = build_model(hparams, upstream, len(class_names))
    check_start(hparams["output_folder"], model, data.train)
    brain = ClassificationBrain(
        modules={"model": model},
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.class_names = class_names
    brain.encode(datasets)
    sampler = brain.training_batches(datasets["train"], launch)
    if if_main_process():
        logger.info(describe(experiment, brain.batch_facts(sampler)))
    return brain, experiment, datasets, list(data.tests), sampler


def main():
    """Train, then test the checkpoint with the fewest errors in validation."""
    with exit_on_user_error():
        brain, experiment, datasets, tests, train_sampler = prepare_run()
    brain.train_and_test(datasets, tests, train_sampler)
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
