"""A recipe in SpeechBrain's own style: `python train.py hparams.yaml --data_folder FOLDER`."""

import sys

import speechbrain as sb
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.utils.distributed import ddp_init_group, if_main_process


class EnergyBrain(sb.Brain):
    """Predicts the energy of each frame."""

    def compute_forward(self, batch, stage):
        frames, lengths = batch.to(self.device).frames
        return self.modules.head(self.modules.encoder(frames, lengths))

    def compute_objectives(self, predictions, batch, stage):
        frames, lengths = batch.frames
        energy = frames.square().mean(-1, keepdim=True)
        return sb.nnet.losses.mse_loss(predictions, energy, lengths)

    def on_stage_end(self, stage, stage_loss, epoch):
        self.last_loss = stage_loss


def dataio_prepare(hparams):
    """Random features of different lengths, the same for the same seed."""

    @sb.utils.data_pipeline.takes("num_frames")
    @sb.utils.data_pipeline.provides("frames")
    def random_frames(num_frames):
        generator = torch.Generator().manual_seed(hparams["seed"] + num_frames)
        return torch.randn(num_frames, hparams["n_mels"], generator=generator)

    utterances = {f"utt{i}": {"num_frames": 20 + i} for i in range(hparams["num_utterances"])}
    return sb.dataio.dataset.DynamicItemDataset(utterances, [random_frames], ["id", "frames"])


if __name__ == "__main__":
    hparams_file, run_opts, overrides = sb.parse_arguments(sys.argv[1:])
    ddp_init_group(run_opts)
    with open(hparams_file, encoding="utf-8") as stream:
        hparams = load_hyperpyyaml(stream, overrides)
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )
    brain = EnergyBrain(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        dataio_prepare(hparams),
        train_loader_kwargs=hparams["train_dataloader_opts"],
    )
    if if_main_process():
        mixers = [type(layer.mha_layer).__name__ for layer in hparams["Transformer"].encoder.layers]
        print(f"mixers: {' '.join(mixers)}")
        print(f"data_folder: {hparams['data_folder']!r}")
        print(f"steps: {brain.optimizer_step}, loss: {brain.last_loss:.6f}")
