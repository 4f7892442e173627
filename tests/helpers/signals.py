"""A few signals, and Brains that are trained on them."""

import torch
from speechbrain.dataio.dataset import DynamicItemDataset

from speechbrain_pom.training.sampler import BucketBatchSampler

SAMPLE_RATE = 100


def make_signals(num_utterances, seed=0):
    """Utterance id to noise (samples,), each a little longer than the one before."""
    generator = torch.Generator().manual_seed(seed)
    return {
        f"utt{index:02d}": torch.randn(60 + 7 * index, generator=generator)
        for index in range(num_utterances)
    }


def fit(brain, signals, batch_size=1):
    """Train and validate a Brain on signals."""
    dataset = DynamicItemDataset({key: {"sig": signal} for key, signal in signals.items()})
    dataset.set_output_keys(["id", "sig"])
    durations_s = [len(signal) / SAMPLE_RATE for signal in signals.values()]

    def loader(order):
        sampler = BucketBatchSampler(
            durations_s, list(signals), batch_size=batch_size, order=order, seed=3
        )
        return {"batch_sampler": sampler}

    brain.fit(
        brain.hparams.epoch_counter,
        dataset,
        dataset,
        train_loader_kwargs=loader("random"),
        valid_loader_kwargs=loader("descending"),
    )
    return brain
