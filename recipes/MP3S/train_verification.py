#!/usr/bin/env python3
"""MP3S speaker verification: embeddings from the layers of a frozen encoder, and their error rate.

    python recipes/MP3S/train_verification.py hparams/mp3s_verification.yaml --train_csv a.csv ...

Reads the encoder that `pretrained` names. Without --data_folder it continues the demo of
train_bestrq.py. The same command resumes. Any key of the YAML is an option; --help lists them.
"""

from pathlib import Path

import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.words import mini_words
from speechbrain_pom.data.prepare import prepare_data
from speechbrain_pom.data.trials import draw_trials, read_trials
from speechbrain_pom.downstream.answers import verification_figures, write_scores
from speechbrain_pom.downstream.classes import ClassesBrain
from speechbrain_pom.downstream.data import prepare_verification, task_datasets
from speechbrain_pom.downstream.metrics import VERIFICATION_METRICS
from speechbrain_pom.downstream.start import build_model, check_start, upstream_of
from speechbrain_pom.probe.verification import cosine_scores
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.utils.errors import exit_on_user_error

logger = get_logger(__name__)


class VerificationBrain(ClassesBrain):
    """A head that tells the training speakers apart by their embeddings."""

    task_metrics = VERIFICATION_METRICS

    def compute_objectives(self, predictions, batch, stage):
        """Loss with the angular margin, and which training speaker is the nearest."""
        cosines, _ = predictions
        labels = self.count_answers(cosines, batch, stage)
        return self.hparams.compute_cost(cosines.unsqueeze(1), labels.unsqueeze(1))

    def embed(self, dataset, loader):
        """Utterance ID to embedding, of a whole dataset without its padding."""
        embeddings = {}
        self.modules.eval()
        with torch.no_grad():
            for batch in self.make_dataloader(dataset, sb.Stage.TEST, **loader):
                frames, num_frames = self.model.frames(*self.inputs_of(batch, sb.Stage.TEST))
                vectors = self.model.head.embed(frames, num_frames).float().cpu()
                embeddings.update(zip(batch.id, vectors, strict=True))
        return embeddings

    def verify(self, datasets, tests, lists):
        """Score all trials with the checkpoint that was best in validation; report."""
        self.on_evaluate_start(**self.task_metrics.checkpoint_key())
        speakers, embeddings = {}, {}
        for name in tests:
            speakers[name] = {key: row["label"] for key, row in datasets[name].data.items()}
            embeddings |= self.embed(datasets[name], self.in_order(datasets[name]))
        everyone = {key: name for group in speakers.values() for key, name in group.items()}
        if lists:
            named = {name: read_trials(path) for name, path in lists.items()}
        else:
            named = {name: draw_trials(speakers[name], self.hparams.num_trials) for name in tests}
        for name, trials in named.items() if if_main_process() else ():
            scores = cosine_scores(trials, embeddings)
            folder = Path(self.hparams.output_folder)
            write_scores(folder / f"scores_{name}.txt", trials, scores)
            figures = verification_figures(trials, scores, everyone, self.hparams.num_bootstrap)
            logger.info("%s: %s", name, self.task_metrics.format_results(figures))
            self.report(name, figures)


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=mini_words)
    hparams = experiment.hparams
    upstream = upstream_of(hparams)
    data = run_on_main(prepare_data, args=[hparams, prepare_verification, prepare_verification])
    datasets = task_datasets(data, hparams["data_folder"], hparams["max_duration_s"])
    class_names = sorted({row["label"] for row in datasets["train"].data.values()})
    model = build_model(hparams, upstream, len(class_names))
    check_start(hparams["output_folder"], model, data.train)
    brain = VerificationBrain(
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
    return brain, experiment, datasets, data, sampler


def main():
    """Train, then score the trials with the checkpoint that has the fewest errors in validation."""
    with exit_on_user_error():
        brain, experiment, datasets, data, train_sampler = prepare_run()
    brain.train_and_test(datasets, [], train_sampler)
    brain.verify(datasets, list(data.tests), data.trial_lists)
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
