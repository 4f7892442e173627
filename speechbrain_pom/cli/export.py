"""`export`: a trained model as a folder of data, for SpeechBrain and model hubs; or as ONNX."""

import argparse
from pathlib import Path

from speechbrain_pom.deploy.onnx_files import check_target, write_onnx, write_onnx_stream
from speechbrain_pom.deploy.onnx_runs import described
from speechbrain_pom.encoder.loading import find_saved, load_encoder
from speechbrain_pom.encoder.streaming.geometry import DEFAULT_CHUNK_S
from speechbrain_pom.inference.recogniser import load_recogniser
from speechbrain_pom.reports.export import FORMS, describe_choice, export_model, is_finetuned
from speechbrain_pom.reports.model_card import loading_snippet
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.hub import check_repository, push_model

EPILOG = """\
  python -m speechbrain_pom export results/ctc_pom/1000 exported/ctc_pom --licence apache-2.0
  python -m speechbrain_pom export RUN exported/model --format transformers --push org/model
  python -m speechbrain_pom export RUN model.onnx --onnx
  python -m speechbrain_pom export RUN stream.onnx --onnx --streaming --chunk_s 0.32 --left_s 1.28

The folder holds hyperparams.yaml, weights as safetensors, the units of a fine-tuned model and a
model card (README.md): no pickles, no paths of this machine. SpeechBrain loads it with
EncoderASR.from_hparams (fine-tuned) and WaveformEncoder.from_hparams. With --format transformers
AutoModel, AutoModelForCTC and pipelines load it too, after `import speechbrain_pom.hf`.

With --onnx the model is one file: waveforms and lengths in, frames or log-probabilities out, or
with --streaming a chunk and a state in and out. onnxruntime has computed with it what the model
computes (within 1e-4) before it gets its name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "run",
        metavar="RUN",
        help="output folder of a run (its newest checkpoint, or after fine-tuning the one with "
        "the best WER), or one CKPT+... folder; with --onnx an export too",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write; with --onnx a file, NAME.onnx")
    parser.add_argument("--licence", help="such as apache-2.0 (default: not stated)")
    parser.add_argument("--language", help="of the speech, such as en")
    parser.add_argument(
        "--format",
        choices=(*FORMS, "onnx"),
        default=FORMS[0],
        help="transformers: for its AutoModel too; needs the extra [hf]; onnx: one file; needs the "
        "extra [onnx] (default: %(default)s)",
    )
    parser.add_argument(
        "--onnx", dest="format", action="store_const", const="onnx", help="as --format onnx"
    )
    parser.add_argument(
        "--streaming", action="store_true", help="of ONNX: the step of a stream, with its state"
    )
    parser.add_argument(
        "--chunk_s", type=float, help=f"of --streaming: seconds of a chunk ({DEFAULT_CHUNK_S})"
    )
    parser.add_argument(
        "--left_s",
        type=float,
        help="of --streaming: seconds that a frame sees before its chunk (all of the past)",
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="push the folder to the Hugging Face hub besides"
    )
    parser.add_argument(
        "--private", action="store_true", help="a model that --push makes is private"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an export of the same run, or an ONNX file",
    )


def run(args: argparse.Namespace) -> int:
    """Export a model, and say what was written and how it is loaded."""
    saved = find_saved(args.run)
    if args.format == "onnx":
        return _export_onnx(args, saved)
    if args.streaming or args.chunk_s is not None or args.left_s is not None:
        raise UserError("--streaming, --chunk_s and --left_s are of ONNX: give --onnx too")
    if saved.is_export:
        raise UserError(f"'{args.run}' is an export already: give a run or one of its checkpoints")
    if args.push is not None:
        check_repository(args.push)
    print(f"checkpoint: {saved.checkpoint}{describe_choice(saved)}")
    given = args.licence, args.language, args.overwrite, args.format
    paths = export_model(saved, args.out, *given)
    for path in paths:
        print(f"{path.stat().st_size:12,} bytes  {Path(args.out) / path.name}")
    print(f"\n{loading_snippet(is_finetuned(saved), args.out, args.format)}")
    if args.push is not None:
        print(f"\npushed: {push_model(args.out, args.push, args.private)}")
    return 0


def _export_onnx(args, saved):
    """Write the ONNX file of a model, or of a step of its streams."""
    if args.push is not None or args.private:
        raise UserError("--push and --private are of folders, not of ONNX files: leave them out")
    times = {"chunk_s": args.chunk_s, "left_s": args.left_s}
    times = {name: value for name, value in times.items() if value is not None}
    if times and not args.streaming:
        raise UserError(f"--{' and --'.join(times)} without --streaming: give it too")
    check_target(args.out, args.overwrite)
    facts = {"licence": args.licence, "language": args.language}
    facts = {name: value for name, value in facts.items() if value is not None}
    if not saved.is_export:
        print(f"checkpoint: {saved.checkpoint}{describe_choice(saved)}")
    load = load_recogniser if is_finetuned(saved) else load_encoder
    write = write_onnx_stream if args.streaming else write_onnx
    path = write(load(args.run, "cpu"), args.out, overwrite=args.overwrite, facts=facts, **times)
    print(f"{path.stat().st_size:12,} bytes  {args.out}\n\n{described(path)}")
    return 0
