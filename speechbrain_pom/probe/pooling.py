"""Means over time of all layers of a frozen encoder, once per utterance.

A weighted sum over the layers and a mean over time commute, and so does standardising each
dimension: means of the layers, (layers + 1) x d_model numbers per utterance, are all that a probe
ever needs of an utterance, whatever weights it learns. They are exact as long as nothing changes
the waveforms, hence no augmentation.
"""

import time
from collections.abc import Iterator

import torch
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataloader import make_dataloader
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.training.dataset import make_sampler
from speechbrain_pom.utils.errors import UserError

logger = get_logger(__name__)


def layer_means(
    encoder: SpeechEncoder, wavs: torch.Tensor, lengths: torch.Tensor | None = None
) -> torch.Tensor:
    """The mean of each layer's frames over the valid ones."""
    with torch.no_grad():
        states, num_frames = encoder(wavs, lengths, layers=range(encoder.num_layers + 1))
        # Frames of padding are zero.
        sums = torch.stack([state.float().sum(1) for state in states], dim=1)
    return sums / num_frames.view(-1, 1, 1)


def encode_dataset(
    encoder: SpeechEncoder,
    dataset: DynamicItemDataset,
    *,
    max_batch_duration_s: float,
    num_workers: int = 0,
    title: str | None = None,
) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Encode all utterances of a dataset, the longest first."""
    for batch in batches_of(dataset, max_batch_duration_s, num_workers=num_workers, title=title):
        wavs, lengths = (part.to(encoder.device) for part in batch.sig)
        yield batch.id, layer_means(encoder, wavs, lengths).cpu()


def batches_of(
    dataset: DynamicItemDataset,
    max_batch_duration_s: float,
    *,
    num_workers: int = 0,
    title: str | None = None,
) -> Iterator[PaddedBatch]:
    """The utterances of a dataset once, the longest first; the log says how fast they went."""
    sampler = make_sampler(
        dataset, max_batch_duration_s=max_batch_duration_s, order="descending", seed=0
    )
    loader = make_dataloader(dataset, batch_sampler=sampler, num_workers=num_workers)
    begun_s = time.perf_counter()
    yield from tqdm(loader, desc=title, disable=title is None, dynamic_ncols=True)
    if if_main_process():
        audio_s = sum(float(row["duration"]) for row in dataset.data.values())
        wall_s = time.perf_counter() - begun_s
        logger.info(
            "Encoded %d utterances (%.1f min) in %.1f s: %.0f times real time",
            len(dataset),
            audio_s / 60,
            wall_s,
            audio_s / wall_s,
        )


class Statistics:
    """Mean and standard deviation per layer and dimension, summed in fp64.

    Example
    -------
    >>> statistics = Statistics()
    >>> statistics.add(torch.tensor([[[1.0, 5.0]], [[3.0, 5.0]]]))
    >>> statistics.mean(), statistics.std()
    (tensor([[2., 5.]]), tensor([[1., 1.]]))
    """

    def __init__(self):
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, states: torch.Tensor) -> None:
        """Count in utterances."""
        states = states.double()
        self._count += len(states)
        self._sum = self._sum + states.sum(0)
        self._squares = self._squares + states.square().sum(0)

    def mean(self) -> torch.Tensor:
        """(num_states, d_model)"""
        return (self._sum / self._count).float()

    def std(self) -> torch.Tensor:
        """(num_states, d_model); 1 where a dimension does not vary."""
        variance = self._squares / self._count - (self._sum / self._count).square()
        scale = self._squares / self._count
        return torch.where(variance > 1e-10 * scale, variance.clamp(min=0).sqrt(), 1.0).float()


def check_cache_size(num_utterances: int, encoder: SpeechEncoder, max_cache_gib: float) -> None:
    """Refuse a cache that would take more memory than is allowed."""
    num_states = encoder.num_layers + 1
    size_gib = num_utterances * num_states * encoder.d_model * 4 / 2**30
    if size_gib > max_cache_gib:
        raise UserError(
            f"max_cache_gib is {max_cache_gib:g}, but {num_utterances} utterances x {num_states} "
            f"layers x {encoder.d_model} numbers take {size_gib:.3g} GiB: raise it, or encode in "
            "every epoch with --cache_features False"
        )
