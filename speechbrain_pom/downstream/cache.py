"""The hidden states of a frozen upstream, kept in memory: each utterance is encoded once.

They are exact as long as nothing changes the waveforms: no augmentation, no cuts. What an
utterance gets in one batch or another differs by rounding alone, so a run with the cache is the
run without it up to rounding, and continues bit by bit like it: the pass that encodes is the same
at every start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from torch import nn

from speechbrain_pom.encoder.lengths import padding_mask
from speechbrain_pom.probe.pooling import batches_of
from speechbrain_pom.utils.errors import UserError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class StateCache:
    """Hidden states by utterance.

    Arguments
    ---------
    max_gib : float
        Refused beyond.
    dtype : str
        "fp32", or "fp16" for half of the memory and a relative error of 5e-4.

    Raises
    ------
    UserError
        For another dtype; in `fill`, for what would not fit.

    Example
    -------
    >>> cache = StateCache()
    >>> cache.add(["a", "b"], [torch.ones(2, 3, 4)], torch.tensor([3, 1]))
    >>> states, num_frames = cache.batch(["b", "a"])
    >>> states.shape, num_frames, states[0, 0].sum().item()
    (torch.Size([2, 1, 3, 4]), tensor([1, 3]), 4.0)
    """

    def __init__(self, max_gib: float = 4.0, dtype: str = "fp32") -> None:
        if dtype not in DTYPES:
            raise UserError(f"cache_dtype is {dtype!r}: choose {' or '.join(DTYPES)}")
        self.max_gib, self.dtype = max_gib, DTYPES[dtype]
        self._states: dict[str, torch.Tensor] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._states

    def check_size(self, upstream: nn.Module, datasets: Mapping[str, DynamicItemDataset]) -> None:
        """Refuse data whose states would take more memory than is allowed.

        Arguments
        ---------
        upstream : torch.nn.Module
        datasets : dict of str to DynamicItemDataset
        """
        rows = {key: row for dataset in datasets.values() for key, row in dataset.data.items()}
        frames = sum(upstream.num_frames(int(row["num_samples"])) for row in rows.values())
        numbers = frames * upstream.num_states * upstream.d_model
        size_gib = numbers * self.dtype.itemsize / 2**30
        if size_gib > self.max_gib:
            raise UserError(
                f"max_cache_gib is {self.max_gib:g}, but {len(rows)} utterances x "
                f"{upstream.num_states} layers x {upstream.d_model} numbers in each frame take "
                f"{size_gib:.3g} GiB: raise it, give --cache_dtype fp16, or encode in every epoch "
                "with --cache_states False"
            )

    def fill(
        self,
        upstream: nn.Module,
        dataset: DynamicItemDataset,
        *,
        max_batch_duration_s: float,
        num_workers: int = 0,
        title: str | None = None,
    ) -> None:
        """Encode the utterances of a dataset, the longest first.

        Arguments
        ---------
        upstream : torch.nn.Module
            In eval mode.
        dataset : DynamicItemDataset
            With `sig`.
        max_batch_duration_s : float
            Padding included.
        num_workers : int
        title : str, optional
            Of the progress bar; None for no bar.
        """
        options = {"num_workers": num_workers, "title": title}
        layers = list(range(upstream.num_states))
        for batch in batches_of(dataset, max_batch_duration_s, **options):
            wavs, relative = (part.to(upstream.device) for part in batch.sig)
            with torch.no_grad():
                states, num_frames = upstream(wavs, relative, layers=layers)
            self.add(batch.id, states, num_frames)

    def add(
        self, ids: Sequence[str], states: Sequence[torch.Tensor], num_frames: torch.Tensor
    ) -> None:
        """Keep the states of a batch.

        Arguments
        ---------
        ids : sequence of str
        states : sequence of torch.Tensor
            (B, T, d_model) for each layer.
        num_frames : torch.Tensor
            (B,) integers: the valid frames.
        """
        for row, (key, length) in enumerate(zip(ids, num_frames.tolist(), strict=True)):
            kept = torch.stack([state[row, :length] for state in states])
            self._states[key] = kept.to("cpu", self.dtype)

    def lengths(self, ids: Sequence[str]) -> torch.Tensor:
        """Frames (B,) of some utterances."""
        return torch.tensor([self._states[key].shape[1] for key in ids])

    def batch(
        self, ids: Sequence[str], spans: Sequence[tuple[int, int]] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The states of some utterances.

        Arguments
        ---------
        ids : sequence of str
        spans : sequence of (int, int), optional
            First frame, and the one after the last, of a part of each utterance.

        Returns
        -------
        states : torch.Tensor
            (B, num_states, T, d_model) in fp32, zero in padding, on the CPU.
        num_frames : torch.Tensor
            (B,) integers.
        """
        found = [self._states[key] for key in ids]
        if spans is not None:
            found = [one[:, a:b] for one, (a, b) in zip(found, spans, strict=True)]
        lengths = torch.tensor([one.shape[1] for one in found])
        padded = torch.zeros(len(found), found[0].shape[0], int(lengths.max()), found[0].shape[2])
        for row, one in enumerate(found):
            padded[row, :, : one.shape[1]] = one
        return padded, lengths


def random_spans(
    lengths: torch.Tensor, longest: int, positions: Sequence[float]
) -> list[tuple[int, int]]:
    """The part of at most `longest` units of each utterance, at positions from 0 to 1.

    >>> random_spans(torch.tensor([10, 3]), 4, [0.99, 0.5])
    [(6, 10), (0, 3)]
    """
    spans = []
    for length, position in zip(lengths.tolist(), positions, strict=True):
        room = max(0, length - longest)
        start = min(room, int(position * (room + 1)))
        spans.append((start, min(length, start + longest)))
    return spans


def cut_waveforms(
    wavs: torch.Tensor, spans: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Parts of waveforms (B, samples), padded to the longest, and their lengths (B,).

    >>> cut_waveforms(torch.tensor([[1.0, 2, 3], [4, 5, 0]]), [(1, 3), (0, 1)])
    (tensor([[2., 3.],
            [4., 0.]]), tensor([2, 1]))
    """
    lengths = torch.tensor([stop - start for start, stop in spans], device=wavs.device)
    starts = torch.tensor([start for start, _ in spans], device=wavs.device)
    longest = int(lengths.max())
    index = starts.unsqueeze(1) + torch.arange(longest, device=wavs.device)
    cut = wavs.gather(1, index.clamp(max=wavs.shape[1] - 1))
    return cut.masked_fill(padding_mask(lengths, longest), 0.0), lengths
