"""Files of frames: what a pretrained encoder gives for audio files of any number and length."""

import hashlib
import json
import os
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from speechbrain_pom.data.audio.reader import AudioReader
from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.loading import (
    ENCODER_FILE,
    LAYER_SUM_FILE,
    MODEL_FILE,
    NORMALIZE_FILE,
    find_saved,
    load_encoder,
)
from speechbrain_pom.encoder.weights import SHARED_FILE
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from speechbrain_pom.inference.jobs.batches import GROUP_SIZE, BatchWorker
from speechbrain_pom.inference.jobs.frame_files import FRAME_FORMATS, new_frames
from speechbrain_pom.inference.jobs.frame_tars import FrameTars
from speechbrain_pom.inference.jobs.ledger import Ledger, run_into_folder
from speechbrain_pom.inference.jobs.outputs import output_names, own_folder
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of
from speechbrain_pom.utils.parts import WHOLE, Part

MANIFEST_FILE = "manifest.jsonl"
TAR = "tar"
FORMATS = (*FRAME_FORMATS, TAR)


@dataclass(frozen=True)
class FrameOptions:
    """What the frames depend on besides the model and the audio.

    Arguments
    ---------
    layers : str, int or list of int
        As `load_encoder` takes it, or "sum".
    format, dtype : str
        One of `FORMATS` and one of `DTYPES`.
    window_s : float
        Longer files are encoded in windows of this length.
    overlap_s : float or None
        Overlap of the windows; None: a sixth of them.
    """

    layers: str | int | list[int]
    format: str
    dtype: str
    window_s: float
    overlap_s: float | None

    @property
    def file_format(self) -> str:
        """The format of the files, in tars too: one of `FRAME_FORMATS`."""
        return "npy" if self.format == TAR else self.format


def encode_into_folder(
    model: str | Path,
    files: list[Path],
    out: Path,
    options: FrameOptions,
    device: str,
    num_jobs: int = 1,
    part: Part = WHOLE,
    batch_s: float | None = None,
) -> int:
    """Write the frames of audio files into a folder, with a ledger; return the exit code.

    A model may be given as `load_encoder` takes it. Files that a former call finished are skipped.
    Of `files`, those of `part` are worked on; with `batch_s` several at a time.
    """
    model, digest = _identify(model)
    settings = asdict(options) | {"model": model, "model_sha256": digest}
    with own_folder(out, part):
        ledger = Ledger(out, MANIFEST_FILE, "encode", settings, part)
        _check_settings(ledger)
        names = {
            file: ledger.output_of(file) or f"{name}.{options.file_format}"
            for file, name in output_names(files).items()
        }
        mine = part.of(files)
        tars = FrameTars(ledger, part) if options.format == TAR else None
        folder = out if tars is None else tars.scratch
        with tars or nullcontext():
            return run_into_folder(
                mine,
                ledger,
                {file: [names[file]] for file in mine},
                _Encoding(model, digest, device, folder, options, names, batch_s),
                num_jobs,
                "encoded",
                None if batch_s is None else GROUP_SIZE,
                None if tars is None else tars.add,
            )


def _check_settings(ledger):
    """Refuse frames of another model, or with other options, in the same folder."""
    for entry in ledger.entries.values():
        for key in sorted(ledger.settings.keys() - {"model"}):
            there, here = entry.get(key), ledger.settings[key]
            if there != here:
                raise UserError(
                    f"--out '{ledger.folder}' holds frames with {key} {there!r}, this call has "
                    f"{here!r}: give another folder"
                )


def _identify(path):
    """The folder that a model is loaded from, and a hash of its architecture and weights."""
    # Every process loads the same checkpoint of a run that is not finished.
    folder, hparams_file, *_ = find_saved(path)
    digest = hashlib.sha256(read_architecture(hparams_file).encode())
    for name in (ENCODER_FILE, SHARED_FILE, MODEL_FILE, NORMALIZE_FILE, LAYER_SUM_FILE):
        if (folder / name).is_file():
            digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return os.path.abspath(folder), digest.hexdigest()


@dataclass(frozen=True)
class _Encoding:
    """Given to each process; when called, it loads the model."""

    model: str
    model_sha256: str
    device: str
    out: Path
    options: FrameOptions
    outputs: dict
    batch_s: float | None

    def __call__(self):
        layers = self.options.layers
        encoder = load_encoder(self.model, self.device, layers=None if layers == "sum" else layers)
        if layers == "sum" and encoder.layers != "sum":
            raise UserError(
                f"--layers sum: '{self.model}' has learnt no sum of layers: give last or numbers"
            )
        if self.batch_s is not None:
            alone, together = partial(self._encode, encoder), partial(self._together, encoder)
            longest_s = min(self.options.window_s, self.batch_s)
            return BatchWorker(encoder, alone, together, longest_s, self.batch_s)

        def work(file):
            with AudioReader(file) as reader:
                return self._encode(encoder, file, reader)

        return work

    def _encode(self, encoder, file, reader):
        """Write the frames of a file; return what the manifest says about them."""
        return self._write(encoder, file, reader, partial(_fill, encoder, reader, self.options))

    @torch.inference_mode()
    def _together(self, encoder, files, readers, wavs, num_samples):
        found, num_frames = encoder(wavs, num_samples)
        records = []
        for row, (file, reader) in enumerate(zip(files, readers, strict=True)):
            count = int(num_frames[row])
            several = isinstance(found, list)
            own = [one[row, :count] for one in found] if several else found[row, :count]
            records.append(self._write(encoder, file, reader, partial(_copy, own)))
        return records

    def _write(self, encoder, file, reader, fill):
        options = self.options
        path = self.out / self.outputs[file]
        path.parent.mkdir(parents=True, exist_ok=True)
        several = isinstance(options.layers, list)
        shape = (encoder.num_frames(reader.num_samples), encoder.d_model)
        shape = (len(options.layers), *shape) if several else shape
        how = options.file_format, options.dtype, shape, self._metadata(encoder)
        with new_frames(path, *how) as frames:
            windows = fill(list(frames) if several else frames)
        return {"num_frames": shape[-2], "duration_s": reader.duration_s, "windows": windows}

    def _metadata(self, encoder):
        return {
            "model_sha256": self.model_sha256,
            "layers": json.dumps(self.options.layers),
            "sample_rate": str(encoder.sample_rate),
            "samples_per_frame": str(encoder.samples_per_frame),
            "frame_hop_ms": f"{1000 * encoder.samples_per_frame / encoder.sample_rate:g}",
        }


def _fill(encoder, reader, options, target):
    """Encode into one fp32 tensor, or a list of them; return which windows were used, if any."""
    if reader.duration_s > options.window_s:
        how = {"window_s": options.window_s, "overlap_s": options.overlap_s}
        encode_windows(encoder, reader, **how, out=target)
        return "exact" if windows_are_exact(encoder) else "overlapping"
    with torch.inference_mode():
        wav = reader.read(0, reader.num_samples).to(encoder.device)
        found, _ = encoder(wav.unsqueeze(0))
        several = isinstance(found, list)
        return _copy([one[0] for one in found] if several else found[0], target)


def _copy(found, target):
    """Frames (T, d_model), or a list of them, into as many tensors."""
    found, target = (one if isinstance(one, list) else [one] for one in (found, target))
    for part, frames in zip(target, found, strict=True):
        part.copy_(frames)
