"""Datasets from manifests, and the samplers over them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.data_pipeline import DataPipeline
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from speechbrain_pom.data.audio.reader import read_audio
from speechbrain_pom.data.index import read_table
from speechbrain_pom.data.shards import PackedAudio, PackedTable, read_ahead
from speechbrain_pom.data.table import Table
from speechbrain_pom.training.sampler import BucketBatchSampler
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.text import MAX_NAMED, and_more

logger = get_logger(__name__)

_NOT_ALIGNED = "have more labels than CTC can align with their frames"


def audio_dataset(
    manifest: str | Path,
    data_folder: str | Path,
    *,
    min_duration_s: float = 0.0,
    max_duration_s: float = float("inf"),
) -> DynamicItemDataset:
    """A dataset of waveforms from a manifest, within a range of durations.

    Arguments
    ---------
    manifest : str or pathlib.Path
        A CSV of `prepare_librispeech` or `prepare_audio_folder`, or a Parquet index.
    data_folder : str or pathlib.Path
        What `$data_root` in the manifest stands for.
    min_duration_s, max_duration_s : float
        Utterances outside of these, in seconds, are left out; the log says how many hours.

    Returns
    -------
    DynamicItemDataset
        With `id`, `sig` (samples,) from `read_utterance`, `duration` in seconds, `wrd`.

    Raises
    ------
    UserError
        If nothing is left.
    """
    table = read_table(manifest, data_folder)
    durations_s = table.column("duration")
    fits = (durations_s >= min_duration_s) & (durations_s <= max_duration_s)
    if not fits.any():
        raise UserError(
            f"{manifest}: none of the {len(durations_s)} utterances lasts from {min_duration_s:g} "
            f"to {max_duration_s:g} s: change min_duration_s or max_duration_s"
        )
    if not fits.all() and if_main_process():
        logger.info(
            "%s: %d of %d utterances (%.2f h) last less than %g or more than %g s: left out",
            manifest,
            np.count_nonzero(~fits),
            len(fits),
            durations_s[~fits].sum() / 3600,
            min_duration_s,
            max_duration_s,
        )
    return TableDataset(table.select(fits))


class TableDataset(DynamicItemDataset):
    """A dataset of waveforms over a table: SpeechBrain's, without an object per utterance.

    Arguments
    ---------
    table : Table
        With the columns of a manifest.
    """

    def __init__(self, table: Table) -> None:
        self.data, self.data_ids = table, table.ids
        self.pipeline = DataPipeline([*table.names, "id"], [])
        self.add_dynamic_item(read_utterance, takes=["id", "wav", "num_samples"], provides="sig")
        self.set_output_keys(["id", "sig"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """The utterances of a batch; a loader asks for them so."""
        rows = [{"id": self.data_ids[index], **self.data.row(index)} for index in indices]
        if isinstance(self.data, PackedTable) and "sig" in self.pipeline.output_mapping.values():
            read_ahead([row["wav"] for row in rows])
        return [self.pipeline.compute_outputs(row) for row in rows]


def unusable(dataset: TableDataset, why: Callable[[int], str | None]) -> dict[str, str]:
    """The utterances of which `why(num_samples)` says why they cannot be used, with the reason."""
    num_samples = dataset.data.column("num_samples")
    reasons = {length: why(length) for length in np.unique(num_samples).tolist()}
    bad = [length for length, reason in reasons.items() if reason]
    places = np.flatnonzero(np.isin(num_samples, bad)) if bad else ()
    return {dataset.data_ids[place]: reasons[int(num_samples[place])] for place in places}


def leave_out(dataset: DynamicItemDataset, bad: dict[str, str], problem: str) -> DynamicItemDataset:
    """A dataset without the utterances that a stage can do nothing with; the log names them."""
    if not bad:
        return dataset
    report = _report(bad, dataset, f"{problem}, and are left out")
    kept = np.ones(len(dataset.data), dtype=bool)
    kept[[dataset.data.ids.find(key) for key in bad]] = False
    if not kept.any():
        raise UserError(f"no utterance can be used: {report}: use other data")
    if if_main_process():
        logger.warning("%s", report)
    return TableDataset(dataset.data.select(kept))


def _report(bad, dataset, problem):
    """One line with the first of the bad utterances and their number."""
    named = "; ".join(f"{key}: {reason}" for key, reason in list(bad.items())[:MAX_NAMED])
    return f"{len(bad)} of {len(dataset)} utterances {problem}: {named}{and_more(bad)}"


def read_utterance(utterance: str, path: str | PackedAudio, num_samples: int | str) -> torch.Tensor:
    """Read an utterance: 16 kHz, mono, exactly as long as its manifest says.

    Other sample rates are resampled and several channels are averaged.

    Arguments
    ---------
    utterance : str
        Its ID, for messages.
    path : str or PackedAudio
        Audio file.
    num_samples : int or str
        Samples at 16 kHz, from the manifest.

    Returns
    -------
    torch.Tensor
        (num_samples,)

    Raises
    ------
    RuntimeError
        If the file is not readable or not as long as it was when its manifest was made; in the
        middle of a run no utterance is left out silently.

    Example
    -------
    >>> import soundfile
    >>> path = str(getfixture("tmp_path") / "a.wav")
    >>> soundfile.write(path, torch.rand(44101, 2).numpy(), 44100)
    >>> read_utterance("a", path, 16001).shape
    torch.Size([16001])
    """
    advice = (
        "it changed since the data were prepared; `python -m speechbrain_pom check DATA_FOLDER` "
        "(for other layouts with --manifest) lists all such files; fix them and start again"
    )
    try:
        signal = read_audio(path.open() if isinstance(path, PackedAudio) else path)
    except (RuntimeError, OSError, UserError) as error:
        raise RuntimeError(
            f"utterance '{utterance}': audio file '{path}' cannot be read: {advice}"
        ) from error
    if len(signal) != int(num_samples):
        raise RuntimeError(
            f"utterance '{utterance}': audio file '{path}' has {len(signal)} samples, "
            f"its manifest says {num_samples}: {advice}"
        )
    return signal


def add_transcripts(
    dataset: DynamicItemDataset, units: Any, bad: dict[str, str], drop: bool
) -> DynamicItemDataset:
    """Give a dataset its labels, and report utterances that CTC cannot align: they have no loss."""
    if drop:
        dataset = leave_out(dataset, bad, _NOT_ALIGNED)
    elif bad and if_main_process():
        logger.warning("%s", _report(bad, dataset, f"{_NOT_ALIGNED}, but are scored"))
    labelled = TableDataset(dataset.data)
    labelled.add_dynamic_item(
        lambda text: torch.tensor(units.encode(text)), takes="wrd", provides="tokens"
    )
    labelled.set_output_keys(["id", "sig", "wrd", "tokens"])
    return labelled


def make_sampler(dataset: DynamicItemDataset, **options) -> BucketBatchSampler:
    """A `BucketBatchSampler` over a dataset with durations."""
    if isinstance(dataset, TableDataset):
        if options.get("shard_window") is not None and isinstance(dataset.data, PackedTable):
            options["shards"] = dataset.data.column("shard")
        return BucketBatchSampler(dataset.data.column("duration"), dataset.data_ids, **options)
    durations_s = [float(dataset.data[key]["duration"]) for key in dataset.data_ids]
    return BucketBatchSampler(durations_s, dataset.data_ids, **options)
