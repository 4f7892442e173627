"""`encode`: the frames of a pretrained encoder for audio files of any number and length."""

import hashlib
import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from speechbrain_pom.data.audio_reader import AudioReader
from speechbrain_pom.data.layout import file_stamp
from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.loading import LAYER_SUM_FILE, find_saved, load_encoder
from speechbrain_pom.encoder.windows.overlapping import encode_windows, windows_are_exact
from speechbrain_pom.inference.audio_jobs import (
    add_job_arguments,
    choose_device,
    find_audio,
    own_folder,
    report_failures,
    run_jobs,
)
from speechbrain_pom.inference.export import ENCODER_FILE, is_export
from speechbrain_pom.inference.frame_files import DTYPES, FORMATS, new_frames
from speechbrain_pom.inference.frame_manifest import MANIFEST_FILE, FrameManifest
from speechbrain_pom.pretrained import MODEL_FILE, NORMALIZE_FILE
from speechbrain_pom.runs.checkpoints import HPARAMS_FILE
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of

EPILOG = f"""\
  python -m speechbrain_pom encode results/bestrq recordings --out frames
  python -m speechbrain_pom encode exported a.flac b.mp3 --out frames --layers 4,8 --jobs 4

Files of any sample rate, number of channels and length; folders are searched for audio. Of each
file DIR/NAME.npy (or .safetensors, with the tensor "frames") holds the frames, (T, d_model), or
(L, T, d_model) for several layers; NAME is its path below the folder that all files share.
DIR/{MANIFEST_FILE} has a line for each finished file: file, output, num_frames, duration_s, windows
(null: a single pass; exact; overlapping: see speechbrain_pom/encoder/windows/overlapping.py), and
the model and options.

A call that is repeated goes on where it was stopped: files that are in the manifest are skipped,
unless they have changed. The model always computes in fp32, and what it computes on CPUs does not
depend on --jobs.

Exit code 0: all is well; 1: some files failed (they are named); 2: the call cannot work."""


def add_arguments(parser):
    """Add the arguments of `encode`.

    Arguments
    ---------
    parser : argparse.ArgumentParser
        Of the subcommand.
    """
    parser.epilog = EPILOG
    add = parser.add_argument
    add("model", metavar="MODEL", help="run, CKPT+... folder in it, or exported folder")
    add("files", metavar="FILE", nargs="+", help="audio files and folders")
    add("--out", metavar="DIR", required=True, help="folder to write to; made if needed")
    add("--format", choices=FORMATS, default="npy", help="(default: %(default)s)")
    add(
        "--layers",
        default="last",
        metavar="LAYERS",
        help="last; sum, the learnt sum of a model fine-tuned with it; or numbers of hidden states "
        "such as 0 (input of the first layer) or 4,8 (default: %(default)s)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="of the files (default: %(default)s)")
    add(
        "--window_s",
        type=float,
        default=300.0,
        metavar="S",
        help="longer files are encoded in windows of so many seconds (default: %(default)s)",
    )
    add("--overlap_s", type=float, metavar="S", help="of windows (default: a sixth of them)")
    add_job_arguments(parser)


def run(args):
    """Encode the files, and name those that failed.

    Arguments
    ---------
    args : argparse.Namespace
        Of a parser with `add_arguments`.

    Returns
    -------
    int
        0, or 1 if a file failed.

    Raises
    ------
    ValueError
        For a bad call.
    """
    options = _options(args)
    files = find_audio(args.files)
    out = Path(args.out)
    model, digest = _identify(args.model)
    settings = asdict(options) | {"model": model, "model_sha256": digest}
    with own_folder(out):
        manifest = FrameManifest(out, settings)
        outputs = manifest.plan(files, options.format)
        todo = [file for file in files if not manifest.has(file)]
        failures = run_jobs(
            todo,
            _Encoding(model, digest, choose_device(args.device), out, options, outputs),
            args.jobs,
            "encode",
            on_result=manifest.add,
        )
        manifest.write()
    skipped = f", {len(files) - len(todo)} were finished before" if len(todo) < len(files) else ""
    print(f"{out}: {len(todo) - len(failures)} of {len(files)} files encoded{skipped}")
    return report_failures(failures)


@dataclass(frozen=True)
class _Options:
    """All that the frames depend on, beside the model and the audio."""

    layers: str | int | list
    format: str
    dtype: str
    window_s: float
    overlap_s: float | None


def _options(args):
    layers = args.layers
    if layers not in ("last", "sum"):
        numbers = layers.split(",")
        if not all(number.isdecimal() for number in numbers):
            raise UserError(f"--layers {layers}: give last, sum, or numbers such as 4,8")
        layers = [int(number) for number in numbers]
        layers = layers if len(layers) > 1 else layers[0]
    if args.dtype == "bfloat16" and args.format == "npy":
        raise UserError("--dtype bfloat16: NumPy has no such type: add --format safetensors")
    if not (math.isfinite(args.window_s) and args.window_s > 0):
        raise UserError(f"--window_s is {args.window_s}: give seconds, more than 0")
    if args.overlap_s is not None and not 0 <= args.overlap_s < args.window_s:
        raise UserError(
            f"--overlap_s is {args.overlap_s:g}, --window_s is {args.window_s:g}: give an overlap "
            "of at least 0 that is shorter than the window"
        )
    return _Options(layers, args.format, args.dtype, args.window_s, args.overlap_s)


def _identify(path):
    """The folder that a model is loaded from, and a hash of its architecture and weights."""
    if is_export(path):
        folder, hparams_file = Path(path), Path(path) / HPARAMS_FILE
    else:  # of a run that still goes on, every process loads the same checkpoint
        folder, hparams_file, *_ = find_saved(path)
    digest = hashlib.sha256(read_architecture(hparams_file).encode())
    for name in (ENCODER_FILE, MODEL_FILE, NORMALIZE_FILE, LAYER_SUM_FILE):
        if (folder / name).is_file():
            digest.update(f"{name} {sha256_of(folder / name)}\n".encode())
    return os.path.abspath(folder), digest.hexdigest()


@dataclass(frozen=True)
class _Encoding:
    """What each process is given: called, it loads the model."""

    model: str
    model_sha256: str
    device: str
    out: Path
    options: _Options
    outputs: dict

    def __call__(self):
        layers = self.options.layers
        encoder = load_encoder(self.model, self.device, layers=None if layers == "sum" else layers)
        if layers == "sum" and encoder.layers != "sum":
            raise UserError(
                f"--layers sum: '{self.model}' has learnt no sum of layers: give last or numbers"
            )
        return lambda file: self._encode(encoder, file)

    def _encode(self, encoder, file):
        """Write the frames of a file; returns what the manifest says of them."""
        options = self.options
        stamp = file_stamp(file)
        path = self.out / self.outputs[file]
        path.parent.mkdir(parents=True, exist_ok=True)
        several = isinstance(options.layers, list)
        with AudioReader(file) as reader:
            num_frames = encoder.num_frames(reader.num_samples)
            shape = (num_frames, encoder.d_model)
            shape = (len(options.layers), *shape) if several else shape
            with new_frames(
                path, options.format, options.dtype, shape, self._metadata(encoder)
            ) as frames:
                windows = _fill(encoder, reader, list(frames) if several else frames, options)
            return {
                "output": self.outputs[file],
                "num_frames": num_frames,
                "duration_s": reader.duration_s,
                "windows": windows,
                "stamp": stamp,
            }

    def _metadata(self, encoder):
        return {
            "model_sha256": self.model_sha256,
            "layers": json.dumps(self.options.layers),
            "sample_rate": str(encoder.sample_rate),
            "samples_per_frame": str(encoder.samples_per_frame),
            "frame_hop_ms": f"{1000 * encoder.samples_per_frame / encoder.sample_rate:g}",
        }


def _fill(encoder, reader, target, options):
    """Encode into one fp32 tensor, or a list of them; returns which windows were used, if any."""
    if reader.duration_s > options.window_s:
        how = {"window_s": options.window_s, "overlap_s": options.overlap_s}
        encode_windows(encoder, reader, **how, out=target)
        return "exact" if windows_are_exact(encoder) else "overlapping"
    with torch.inference_mode():
        wav = reader.read(0, reader.num_samples).to(encoder.device)
        found, _ = encoder(wav.unsqueeze(0))
        found, target = (one if isinstance(one, list) else [one] for one in (found, target))
        for part, frames in zip(target, found, strict=True):
            part.copy_(frames[0])
    return None
