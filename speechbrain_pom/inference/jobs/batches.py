"""Files of similar length through a model at once, for GPUs; each gets what it gets alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.inference.jobs.pool import in_words
from speechbrain_pom.utils.errors import UserError

GROUP_SIZE = 64  # files that a process takes at a time, to choose batches from


def check_batch_s(batch_s: float | None) -> None:
    """Refuse a --batch_s that cannot be."""
    if batch_s is not None and not batch_s > 0:
        raise UserError(f"--batch_s is {batch_s}: give seconds, more than 0")


@dataclass
class BatchWorker:
    """Works on a group of files: long ones one by one, the others in batches.

    Where a batch fails, its files are tried one by one, so that errors are those of a file.

    Arguments
    ---------
    encoder : SpeechEncoder
    alone : callable
        `alone(file, reader)`: the result of one file.
    together : callable
        `together(files, readers, wavs, num_samples)`: the results of several, from their waveforms
        (B, samples), padded on the right, on the encoder's device.
    longest_s, batch_s : float
        Seconds of the files of batches, and of a batch with its padding.

    Raises
    ------
    UserError
        If a batch would change what the encoder computes.
    """

    encoder: SpeechEncoder
    alone: Callable[[Path, AudioReader], Any]
    together: Callable[[list[Path], list[AudioReader], Tensor, Tensor], list]
    longest_s: float
    batch_s: float

    def __post_init__(self) -> None:
        if self.encoder.padding != "exact":
            raise UserError(
                f"--batch_s: the model was trained with padding {self.encoder.padding}, and its "
                "frames depend on the batch: leave it out"
            )

    def __call__(self, files: Sequence[Path]) -> list[tuple[Path, Any, str | None]]:
        """(file, result, error in words) of each."""
        found = []
        with ExitStack() as stack:
            readers = {}
            for file in files:
                try:
                    readers[file] = stack.enter_context(AudioReader(file))
                except Exception as error:
                    found.append((file, None, in_words(error)))
            for batch in self._batches(readers):
                found += self._work(batch, [readers[file] for file in batch])
        return found

    def _batches(self, readers) -> Iterator[list[Path]]:
        """From the longest to the shortest, so that little is padding."""
        batch: list[Path] = []
        for file in sorted(readers, key=lambda file: -readers[file].num_samples):
            longest_s = readers[batch[0] if batch else file].duration_s
            if batch and (
                longest_s > self.longest_s or (len(batch) + 1) * longest_s > self.batch_s
            ):
                yield batch
                batch = []
            batch.append(file)
        if batch:
            yield batch

    def _work(self, files, readers):
        if len(files) > 1:
            try:
                num_samples = torch.tensor([reader.num_samples for reader in readers])
                wavs = torch.zeros(len(files), int(num_samples.max()))
                for row, reader in zip(wavs, readers, strict=True):
                    row[: reader.num_samples] = reader.read(0, reader.num_samples)
                given = wavs.to(self.encoder.device), num_samples.to(self.encoder.device)
                results = self.together(files, readers, *given)
                return [(file, one, None) for file, one in zip(files, results, strict=True)]
            except Exception:
                return [self._try(*one) for one in zip(files, readers, strict=True)]
        return [self._try(files[0], readers[0])]

    def _try(self, file, reader):
        try:
            return file, self.alone(file, reader), None
        except Exception as error:
            return file, None, in_words(error)
