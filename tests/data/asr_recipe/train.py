"""Joint CTC and attention speech recognition, by the building blocks and keys of SpeechBrain's own
LibriSpeech recipe: `python train.py conformer.yaml --data_folder LibriSpeech`.

Tests run this where no checkout of SpeechBrain is at hand (see `tests/recipes/test_asr_recipe.py`).
"""

import sys
from pathlib import Path

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.dataio.sampler import DynamicBatchSampler
from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.data_pipeline import provides, takes
from speechbrain.utils.distributed import ddp_init_group


class Recogniser(sb.Brain):
    """A front end, a Transformer with encoder and decoder, and two output layers."""

    def compute_forward(self, batch, stage):
        batch = batch.to(self.device)
        wavs, lengths = batch.sig
        epoch = self.hparams.epoch_counter.current
        feats = self.modules.normalize(self.hparams.compute_features(wavs), lengths, epoch=epoch)
        encoded, decoded = self.modules.Transformer(
            self.modules.CNN(feats),
            batch.tokens_bos[0],
            lengths,
            pad_idx=self.hparams.pad_index,
        )
        p_ctc = self.hparams.log_softmax(self.modules.ctc_lin(encoded))
        p_seq = self.hparams.log_softmax(self.modules.seq_lin(decoded))
        hypotheses = None
        if stage == sb.Stage.TEST:
            hypotheses = self.hparams.test_search(encoded.detach(), lengths)[0]
        elif stage == sb.Stage.VALID and epoch % self.hparams.valid_search_interval == 0:
            hypotheses = self.hparams.valid_search(encoded.detach(), lengths)[0]
        return p_ctc, p_seq, lengths, hypotheses

    def compute_objectives(self, predictions, batch, stage):
        p_ctc, p_seq, lengths, hypotheses = predictions
        seq = self.hparams.seq_cost(p_seq, batch.tokens_eos[0], length=batch.tokens_eos[1])
        ctc = self.hparams.ctc_cost(p_ctc, batch.tokens[0], lengths, batch.tokens[1])
        if hypotheses is not None:
            words = [self.hparams.tokenizer.decode_ids(ids).split(" ") for ids in hypotheses]
            self.errors.append(batch.id, words, [text.split(" ") for text in batch.wrd])
        weight = self.hparams.ctc_weight
        return weight * ctc.sum() + (1 - weight) * seq.sum()

    def on_stage_start(self, stage, epoch=None):
        self.errors = self.hparams.error_rate_computer()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == sb.Stage.VALID:
            self.checkpointer.save_and_keep_only(
                meta={"loss": float(stage_loss)},
                min_keys=["loss"],
                num_to_keep=self.hparams.avg_checkpoints,
            )
        elif stage == sb.Stage.TEST:
            with open(self.wer_file, "w", encoding="utf-8") as stream:
                self.errors.write_stats(stream)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if should_step:
            self.hparams.noam_annealing(self.optimizer)

    def on_evaluate_start(self, max_key=None, min_key=None):
        super().on_evaluate_start()
        found = self.checkpointer.find_checkpoints(min_key="loss")
        self.hparams.model.load_state_dict(average_checkpoints(found, recoverable_name="model"))
        self.hparams.model.eval()


def dataset(hparams, path):
    """Utterances of a CSV file with audio and token IDs."""
    tokenizer = hparams["tokenizer"]

    @takes("wav")
    @provides("sig")
    def audio(wav):
        return sb.dataio.dataio.read_audio(wav)

    @takes("wrd")
    @provides("wrd", "tokens", "tokens_bos", "tokens_eos")
    def tokens(wrd):
        yield wrd
        ids = tokenizer.encode_as_ids(wrd)
        yield torch.LongTensor(ids)
        yield torch.LongTensor([hparams["bos_index"], *ids])
        yield torch.LongTensor([*ids, hparams["eos_index"]])

    keys = ["id", "sig", "wrd", "tokens", "tokens_bos", "tokens_eos"]
    replacements = {"data_root": hparams["data_folder"]}
    utterances = DynamicItemDataset.from_csv(csv_path=path, replacements=replacements)
    utterances.add_dynamic_item(audio)
    utterances.add_dynamic_item(tokens)
    utterances.set_output_keys(keys)
    return utterances


def main():
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    with open(hparams_file, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    ddp_init_group(run_opts)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    train, valid = (dataset(hparams, hparams[f"{part}_csv"]) for part in ("train", "valid"))
    brain = Recogniser(
        modules=hparams["modules"],
        opt_class=hparams["Adam"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    sampler = DynamicBatchSampler(
        train, length_func=lambda row: row["duration"], **hparams["dynamic_batch_sampler_train"]
    )
    brain.fit(
        hparams["epoch_counter"],
        train,
        valid,
        train_loader_kwargs={"batch_sampler": sampler, "num_workers": hparams["num_workers"]},
        valid_loader_kwargs=hparams["test_dataloader_opts"],
    )
    for path in hparams["test_csv"]:
        brain.wer_file = Path(hparams["output_folder"]) / f"wer_{Path(path).stem}.txt"
        brain.evaluate(dataset(hparams, path), test_loader_kwargs=hparams["test_dataloader_opts"])


if __name__ == "__main__":
    main()
