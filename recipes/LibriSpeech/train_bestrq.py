#!/usr/bin/env python3
"""Pretraining of a SpeechBrain encoder with any token mixer: BEST-RQ (arXiv 2202.01855).

    python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --data_folder /path/to/LibriSpeech

Without --data_folder a small model is trained on synthetic speech in a few minutes. The same
command resumes. Any key of the YAML is an option; --help lists them. What is minimised is the
YAML's `objective`: a YAML with another one trains that (docs/adding_an_objective.md).
"""

from librispeech_prepare import prepare_pretraining

from speechbrain_pom.data.mini_corpus.make import demo_corpus
from speechbrain_pom.objectives.data import pretraining_data
from speechbrain_pom.objectives.pretraining import make_brain
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.utils.errors import exit_on_user_error


def main():
    """Pretrain; a bad call ends with one line and exit code 2 before the first step."""
    with exit_on_user_error():
        experiment, launch = start_experiment(__file__, demo_data=demo_corpus)
        train, valid = pretraining_data(experiment.hparams, launch, prepare_pretraining)
        brain = make_brain(experiment, train.sampler)
    brain.fit(
        brain.hparams.epoch_counter,
        train.dataset,
        valid.dataset,
        train_loader_kwargs=train.loader,
        valid_loader_kwargs=valid.loader,
    )
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
