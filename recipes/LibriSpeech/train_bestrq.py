#!/usr/bin/env python3
"""Pretraining of a SpeechBrain encoder with any token mixer: BEST-RQ (arXiv 2202.01855).

    python recipes/LibriSpeech/train_bestrq.py hparams/pom.yaml --data_folder /path/to/LibriSpeech

Without --data_folder a small model is trained on synthetic speech in a few minutes. The same
command resumes. Any key of the YAML is an option; --help lists them. What is minimised is the
YAML's `objective`: a YAML with another one trains that (CONTRIBUTING.md, "Adding an objective").
"""

from librispeech_prepare import prepare_pretraining
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.mini_corpus.make import demo_corpus
from speechbrain_pom.data.prepare import prepare_csvs, prepare_data
from speechbrain_pom.objectives.pretraining import PretrainingBrain
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.training.dataset import audio_dataset, leave_out, make_sampler
from speechbrain_pom.utils.errors import exit_on_user_error

logger = get_logger(__name__)


def dataio_prepare(hparams, launch):
    """(dataset, options of its loader) of training and of validation."""
    manifests = run_on_main(prepare_data, args=[hparams, prepare_pretraining, prepare_csvs])
    shared = {"seed": hparams["seed"], "rank": launch.rank, "world_size": launch.world_size}
    train_data = usable_dataset(manifests.train, hparams, min_duration_s=hparams["min_duration_s"])
    train_sampler = make_sampler(
        train_data,
        max_batch_duration_s=hparams["max_batch_duration_s"],
        num_buckets=hparams["num_buckets"],
        **shared,
    )
    valid_data = usable_dataset(manifests.valid, hparams)
    valid_sampler = make_sampler(
        valid_data,
        max_batch_duration_s=hparams["valid_batch_duration_s"],
        order="descending",
        **shared,
    )
    num_workers = hparams["num_workers"]
    return (
        (train_data, {"batch_sampler": train_sampler, "num_workers": num_workers}),
        (valid_data, {"batch_sampler": valid_sampler, "num_workers": num_workers}),
    )


def usable_dataset(manifest, hparams, min_duration_s=0.0):
    """A dataset of the utterances that the objective can use."""
    dataset = audio_dataset(
        manifest,
        hparams["data_folder"],
        min_duration_s=min_duration_s,
        max_duration_s=hparams["max_duration_s"],
    )
    objective = hparams["objective"]
    why = {key: objective.unusable(int(row["num_samples"])) for key, row in dataset.data.items()}
    bad = {key: reason for key, reason in why.items() if reason}
    return leave_out(dataset, bad, f"cannot be used by {objective.name}")


def main():
    """Pretrain; a bad call ends with one line and exit code 2 before the first step."""
    with exit_on_user_error():
        experiment, launch = start_experiment(__file__, demo_data=demo_corpus)
        hparams = experiment.hparams
        (train_data, train_loader), (valid_data, valid_loader) = dataio_prepare(hparams, launch)
        brain = PretrainingBrain(
            modules=hparams["modules"],
            opt_class=hparams["optimizer"],
            hparams=hparams,
            run_opts=experiment.run_opts,
            checkpointer=hparams["checkpointer"],
        )
        facts = brain.batch_facts(train_loader["batch_sampler"])
        if if_main_process():
            logger.info(describe(experiment, facts))
    brain.fit(
        brain.hparams.epoch_counter,
        train_data,
        valid_data,
        train_loader_kwargs=train_loader,
        valid_loader_kwargs=valid_loader,
    )
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
