#!/usr/bin/env python3
"""MP3S speech recognition: CTC on a learnt sum of the layers of a frozen (or fine-tuned) encoder.

    python recipes/MP3S/train_asr.py hparams/mp3s_asr.yaml --data_folder /path/to/LibriSpeech

Reads the encoder that `pretrained` names. Without --data_folder it continues the demo of
train_bestrq.py. The same command resumes. Any key of the YAML is an option; --help lists them.
"""

from functools import partial
from pathlib import Path

import speechbrain as sb
from speechbrain.nnet.losses import ctc_loss
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from speechbrain_pom.ctc.decoding import blank_share, greedy_decode, make_beam_searcher
from speechbrain_pom.ctc.scoring import ErrorRates
from speechbrain_pom.ctc.targets import check_targets
from speechbrain_pom.ctc.tokenizer_store import make_units
from speechbrain_pom.data.mini_corpus.make import demo_corpus
from speechbrain_pom.data.prepare import prepare_csvs, prepare_data
from speechbrain_pom.downstream.brain import DownstreamBrain
from speechbrain_pom.downstream.data import prepare_recognition, task_datasets
from speechbrain_pom.downstream.metrics import RECOGNITION_METRICS
from speechbrain_pom.downstream.start import build_model, check_start, upstream_of
from speechbrain_pom.encoder.lengths import relative_lengths
from speechbrain_pom.probe.checks import check_choice
from speechbrain_pom.runs.folder import mark_finished
from speechbrain_pom.runs.report import describe
from speechbrain_pom.runs.start import start_experiment
from speechbrain_pom.training.dataset import add_transcripts
from speechbrain_pom.utils.errors import exit_on_user_error

logger = get_logger(__name__)


class RecognitionBrain(DownstreamBrain):
    """A head on the states of an encoder, trained with CTC."""

    task_metrics = RECOGNITION_METRICS
    batch_keys = ("wrd", "tokens")

    def compute_forward(self, batch, stage):
        """Log-probabilities (B, T, outputs) and their relative lengths (B,)."""
        logits, num_frames = super().compute_forward(batch, stage)
        return logits.log_softmax(-1), relative_lengths(num_frames, logits.shape[1])

    def compute_objectives(self, predictions, batch, stage):
        """CTC loss; in validation and tests the texts are kept."""
        log_probs, lengths = predictions
        tokens, token_lengths = (part.to(self.device) for part in batch.tokens)
        loss = ctc_loss(
            log_probs, tokens, lengths, token_lengths, blank_index=self.units.blank_index
        )
        if stage != sb.Stage.TRAIN:
            self.blank_shares.append(blank_share(log_probs, lengths))
            self.rates.append(batch.id, self.decode(log_probs, lengths), batch.wrd)
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Validation decodes greedily, tests as `decoding` says."""
        self.blank_shares, self.rates = [], ErrorRates()
        self.decode = partial(greedy_decode, units=self.units)
        if stage == sb.Stage.TEST and self.searcher is not None:
            self.decode = self.searcher

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Log and save after validation; report after a test."""
        if stage == sb.Stage.TRAIN:
            self.train_stats = {"loss": stage_loss, **self.train_summary()}
            return
        all_blank = min(self.blank_shares) == 1.0
        if all_blank:
            logger.warning("All outputs are blank: the model has not learnt to write anything yet")
        if stage == sb.Stage.VALID:
            rates = self.rates.summary(num_bootstrap=1)
            stats = {
                "loss": float(stage_loss),
                "wer": rates["wer"],
                "cer": rates["cer"],
                "blank_share": sum(self.blank_shares) / len(self.blank_shares),
            }
            # On the plateau where all outputs are blank the loss hardly moves.
            self.end_validation(stats, epoch, hold=all_blank)
        elif if_main_process():
            self.report_test()

    def report_test(self):
        """WER and CER with intervals, and the alignments."""
        name = "greedy"
        if self.searcher is not None:
            name = "no_lm" if self.hparams.kenlm_model_path is None else "lm"
        summary = self.rates.summary(self.hparams.num_bootstrap)
        self.rates.write(Path(self.hparams.output_folder) / f"wer_{self.test_name}_{name}.txt")
        logger.info("%s, %s: %s", self.test_name, name, self.task_metrics.format_results(summary))
        self.report(self.test_name, {name: summary})


def dataio_prepare(hparams, upstream):
    """Datasets with transcripts, checked: train, valid, the tests by name; units; manifests."""
    from_csv = partial(prepare_csvs, need_transcripts=True)
    data = run_on_main(prepare_data, args=[hparams, prepare_recognition, from_csv])
    datasets = task_datasets(data, hparams["data_folder"], hparams["max_duration_s"])
    texts = [row["wrd"] for row in datasets["train"].data.values()]
    options = {"num_pieces": hparams["num_pieces"]}
    options["folder"] = Path(hparams["output_folder"]) / "units"
    run_on_main(make_units, args=[hparams["tokenizer"], texts], kwargs=options)
    units = make_units(hparams["tokenizer"], texts, **options)
    for name, dataset in datasets.items():
        rows = dataset.data
        frames = {key: upstream.num_frames(int(row["num_samples"])) for key, row in rows.items()}
        texts = {key: row["wrd"] for key, row in rows.items()}
        bad = check_targets(units, texts, frames, hparams["output_neurons"])
        drop = name in ("train", "valid")
        datasets[name] = add_transcripts(dataset, units, bad=bad, drop=drop)
    return datasets, units, data


def make_searcher(hparams, units):
    """The beam search of the tests; None for greedy decoding."""
    check_choice("decoding", hparams["decoding"], ("greedy", "beam"))
    if hparams["decoding"] == "greedy":
        return None
    keys = ["beam_size", "beam_prune_logp", "token_prune_min_logp"]
    if hparams["kenlm_model_path"] is not None:
        keys += ["kenlm_model_path", "kenlm_words_path", "alpha", "beta"]
    return make_beam_searcher(units, **{key: hparams[key] for key in keys})


def prepare_run():
    """Everything before the first step; a bad call ends here with one line and exit code 2."""
    experiment, launch = start_experiment(__file__, demo_data=demo_corpus)
    hparams = experiment.hparams
    upstream = upstream_of(hparams)
    datasets, units, data = dataio_prepare(hparams, upstream)
    searcher = make_searcher(hparams, units)
    model = build_model(hparams, upstream, hparams["output_neurons"])
    check_start(hparams["output_folder"], model, data.train)
    brain = RecognitionBrain(
        modules={"model": model},
        hparams=hparams,
        run_opts=experiment.run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.units, brain.searcher = units, searcher
    brain.encode(datasets)
    sampler = brain.training_batches(datasets["train"], launch)
    if if_main_process():
        logger.info(describe(experiment, brain.batch_facts(sampler)))
    return brain, experiment, datasets, list(data.tests), sampler


def main():
    """Train, then test the checkpoint with the best validation WER."""
    with exit_on_user_error():
        brain, experiment, datasets, tests, train_sampler = prepare_run()
    brain.train_and_test(datasets, tests, train_sampler)
    mark_finished(experiment, brain.world_size)


if __name__ == "__main__":
    main()
