#!/usr/bin/env python3
"""CTC fine-tuning of a BEST-RQ encoder on characters or SentencePiece units, and its tests.

    python recipes/LibriSpeech/train_ctc.py hparams/pom_ctc.yaml --data_folder /path/to/LibriSpeech

Starts from the encoder that `pretrained` names. Without --data_folder it continues the demo of
train_bestrq.py. The same command resumes. Any key of the YAML is an option; --help lists them.
"""

import itertools
import json
from functools import partial
from pathlib import Path

import speechbrain as sb
from librispeech_prepare import prepare_finetuning
from speechbrain.nnet.losses import ctc_loss
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.ctc.decoding import blank_share, greedy_decode, make_beam_searcher
from speechbrain_pom.ctc.metrics import CTC_METRICS
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.ctc.targets import check_targets
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.data.mini_corpus.make import demo_corpus
from speechbrain_pom.data.prepare import prepare_csvs, prepare_data
from speechbrain_pom.encoder.lengths import relative_lengths
from speechbrain_pom.encoder.start import start_encoder
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.training.augmentation import batch_waveforms
from speechbrain_pom.training.brain import ExactBrain
from speechbrain_pom.training.chunks import chunk_label, describe_chunks
from speechbrain_pom.training.dataset import add_transcripts, audio_dataset, make_sampler
from speechbrain_pom.training.warm_up import LinearWarmUp
from speechbrain_pom.utils.errors import exit_on_user_error
from speechbrain_pom.utils.files import write_atomically

logger = get_logger(__name__)


class CTCBrain(ExactBrain):
    """A pretrained encoder and a head, trained with CTC; tested by beam search."""

    task_metrics = CTC_METRICS

    def compute_forward(self, batch, stage):
        """Log-probabilities (B, T, outputs) and their relative lengths (B,)."""
        hparams = self.hparams
        training = stage == sb.Stage.TRAIN
        augment = hparams.wav_augment if training else None
        wavs, num_samples = batch_waveforms(batch.sig, self.device, augment)
        log_probs, num_frames = self.modules.ctc(
            wavs,
            num_samples,
            # Pretrained statistics of the features stay as they are.
            epoch=hparams.epoch_counter.current if hparams.pretrained is None else None,
            fea_augment=hparams.fea_augment if training else None,
            chunks=self.batch_chunks(stage),
        )
        return log_probs, relative_lengths(num_frames, log_probs.shape[1])

    def compute_objectives(self, predictions, batch, stage):
        """CTC loss; decoding in validation (greedy) and test (beam search)."""
        log_probs, lengths = predictions
        tokens, token_lengths = batch.tokens
        loss = ctc_loss(
            log_probs,
            tokens.to(self.device),
            lengths,
            token_lengths.to(self.device),
            blank_index=self.hparams.units.blank_index,
        )
        if stage != sb.Stage.TRAIN:
            self.blank_shares.append(blank_share(log_probs, lengths))
            for decode, rates in self.decoders.values():
                rates.append(batch.id, decode(log_probs, lengths), batch.wrd)
        return loss

    def _compile(self):
        if not self.compile_if_asked(self.hparams.modules["ctc"]):
            super()._compile()  # --jit

    def init_optimizers(self):
        """One optimizer for the head, one for the encoder unless it is frozen."""
        hparams = self.hparams
        head = [*hparams.head.parameters(), *hparams.layer_sum.parameters()]
        self.optimizers_dict = {"head": hparams.head_optimizer(head)}
        if not hparams.freeze_encoder:
            encoder = hparams.encoder.checkpoint_modules.parameters()
            self.optimizers_dict["encoder"] = hparams.encoder_optimizer(encoder)
        for name, optimizer in self.optimizers_dict.items():
            self.checkpointer.add_recoverable(f"{name}_optimizer", optimizer)

    def on_optimizer_step_start(self):
        """Set the learning rates of a step of the warm-up."""
        rates = {name: self.annealing(name).hyperparam_value for name in self.optimizers_dict}
        self.hparams.warm_up.set_rates(self.optimizer_step, self.optimizers_dict, rates)

    def annealing(self, name):
        """The schedule of an optimizer's learning rate."""
        return getattr(self.hparams, f"{name}_annealing")

    def on_stage_start(self, stage, epoch=None):
        """Choose how the stage decodes."""
        self.blank_shares = []
        if stage == sb.Stage.VALID:
            greedy = partial(greedy_decode, units=self.hparams.units)
            self.decoders = {"greedy": (greedy, ErrorRates())}
        elif stage == sb.Stage.TEST:
            searchers = self.hparams.searchers if if_main_process() else {}
            self.decoders = {name: (search, ErrorRates()) for name, search in searchers.items()}

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log and save after validation; report after a test."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.train_summary()}
        elif self.is_all_blank():
            logger.warning("All outputs are blank: the model has not learnt to write anything yet")
        if stage == sb.Stage.VALID:
            self.end_validation(float(stage_loss), epoch)
        elif stage == sb.Stage.TEST and if_main_process():
            self.report_test()

    def is_all_blank(self):
        """Whether the stage's outputs were blank throughout."""
        return min(self.blank_shares) == 1.0

    def end_validation(self, loss, epoch):
        """Anneal the learning rates, log, save."""
        rates = self.decoders["greedy"][1].summary(num_bootstrap=1)
        learning_rates = {}
        for name, optimizer in self.optimizers_dict.items():
            learning_rates[f"lr_{name}"] = optimizer.param_groups[0]["lr"]
            # The loss hardly moves on the plateau where all outputs are blank, and a rate that is
            # halved there keeps the model on it.
            if not self.is_all_blank():
                update_learning_rate(optimizer, self.annealing(name)(loss)[1])
        if self.is_all_blank():
            logger.info("The learning rates are not annealed while all outputs are blank")
        valid_stats = {
            "loss": loss,
            "wer": rates["wer"],
            "cer": rates["cer"],
            "blank_share": sum(self.blank_shares) / len(self.blank_shares),
        }
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "steps": self.optimizer_step, **learning_rates},
            train_stats=self.train_stats,
            valid_stats=valid_stats,
        )
        self.save_epoch(valid_stats)

    def report_test(self):
        """WER and CER with intervals, the alignments, and one JSON with all test sets."""
        folder = Path(self.hparams.output_folder)
        path = folder / "results.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        places = [self.test_split]
        if self.tested_chunks is not None:
            places.append(chunk_label(self.tested_chunks))
        found = results
        for place in places:
            found = found.setdefault(place, {})
        encoder = self.hparams.encoder
        frame_s = encoder.samples_per_frame / encoder.sample_rate
        for name, (_, rates) in self.decoders.items():
            summary = rates.summary(self.hparams.num_bootstrap)
            rates.write(folder / f"wer_{'_'.join([*places, name])}.txt")
            found[name] = {**summary, **describe_chunks(self.tested_chunks, frame_s)}
            logger.info("%s: %s", ", ".join([*places, name]), CTC_METRICS.format_results(summary))
        write_atomically(path, json.dumps(results, indent=1) + "\n")


def dataio_prepare(hparams, rank, world_size):
    """Datasets with waveforms and labels, checked; those of the tests; the training sampler."""
    from_csv = partial(prepare_csvs, need_transcripts=True)
    manifests = run_on_main(prepare_data, args=[hparams, prepare_finetuning, from_csv])
    paths = {"train": manifests.train, "valid": manifests.valid, **manifests.tests}
    datasets = {
        name: audio_dataset(manifest, hparams["data_folder"]) for name, manifest in paths.items()
    }
    units_folder = Path(hparams["output_folder"]) / "units"
    texts = [row["wrd"] for row in datasets["train"].data.values()]
    run_on_main(
        make_units,
        args=[hparams["tokenizer"], texts],
        kwargs={"num_pieces": hparams["num_pieces"], "folder": units_folder},
    )
    hparams["units"] = make_units(
        hparams["tokenizer"], texts, num_pieces=hparams["num_pieces"], folder=units_folder
    )
    for name in datasets:
        datasets[name] = add_transcripts(
            datasets[name],
            hparams["units"],
            bad=check_split(
                datasets[name], hparams, max(hparams["speeds"]) if name == "train" else 100
            ),
            drop=name in ("train", "valid"),
        )
    sampler = make_sampler(
        datasets["train"],
        batch_size=hparams["batch_size"],
        order=hparams["sorting"],
        batches_per_step=hparams["batches_per_step"],
        seed=hparams["seed"],
        rank=rank,
        world_size=world_size,
    )
    return datasets, list(manifests.tests), sampler


def check_split(dataset, hparams, speed):
    """Utterances whose transcript does not fit into their frames at a speed in percent."""
    rows = dataset.data
    frames = {
        key: hparams["encoder"].num_frames(int(row["num_samples"]) * 100 // speed)
        for key, row in rows.items()
    }
    texts = {key: row["wrd"] for key, row in rows.items()}
    return check_targets(hparams["units"], texts, frames, hparams["output_neurons"])


def make_searchers(hparams):
    """Beam searchers of the tests, by name."""
    options = {
        key: hparams[key] for key in ("beam_size", "beam_prune_logp", "token_prune_min_logp")
    }
    searchers = {"no_lm": make_beam_searcher(hparams["units"], **options)}
    if hparams["kenlm_model_path"] is not None:
        for key in ("kenlm_model_path", "kenlm_words_path", "alpha", "beta"):
            options[key] = hparams[key]
        searchers["lm"] = make_beam_searcher(hparams["units"], **options)
    return searchers


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=demo_corpus)
    hparams = experiment.hparams
    start_encoder(
        hparams["encoder"],
        hparams["pretrained"],
        hparams["output_folder"],
        hparams["architecture"],
    )
    datasets, tests, train_sampler = dataio_prepare(hparams, launch.rank, launch.world_size)
    hparams["searchers"] = make_searchers(hparams)
    hparams["warm_up"] = LinearWarmUp(hparams["n_warmup_steps"])
    brain = CTCBrain(
        modules=hparams["modules"],
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    if hparams["pretrained"] is None:  # else the statistics of the features stay as they are
        brain.learn_statistics_per_step(hparams["encoder"].features)
    facts = brain.batch_facts(train_sampler)
    if if_main_process():
        logger.info(describe(experiment, facts))
    return brain, experiment, datasets, tests, train_sampler


def main():
    """Fine-tune, then test the checkpoint with the best validation WER."""
    with exit_on_user_error():
        brain, experiment, datasets, tests, train_sampler = prepare_run()
    hparams = brain.hparams
    loader = {"num_workers": hparams.num_workers}

    def in_order(name):
        return make_sampler(
            datasets[name], batch_size=hparams.valid_batch_size, order="descending", seed=0
        )

    brain.fit(
        hparams.epoch_counter,
        datasets["train"],
        datasets["valid"],
        train_loader_kwargs={"batch_sampler": train_sampler, **loader},
        valid_loader_kwargs={"batch_sampler": in_order("valid"), **loader},
    )
    for split, chunks in itertools.product(tests, brain.chunks.tests):
        brain.test_split, brain.tested_chunks = split, chunks
        brain.evaluate(
            datasets[split],
            **CTC_METRICS.checkpoint_key(),
            test_loader_kwargs={"batch_sampler": in_order(split), **loader},
        )
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
