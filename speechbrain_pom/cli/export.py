"""`export`: a trained model as a folder of data, for SpeechBrain and for model hubs."""

import argparse
from pathlib import Path

from speechbrain_pom.encoder.loading import find_saved
from speechbrain_pom.reports.export import FORMS, describe_choice, export_model, is_finetuned
from speechbrain_pom.reports.model_card import loading_snippet
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.hub import check_repository, push_model

EPILOG = """\
  python -m speechbrain_pom export results/ctc_pom/1000 exported/ctc_pom --licence apache-2.0
  python -m speechbrain_pom export RUN exported/model --format transformers --push org/model

The folder holds hyperparams.yaml, weights as safetensors, the units of a fine-tuned model and a
model card (README.md): no pickles, no paths of this machine. SpeechBrain loads it with
EncoderASR.from_hparams (fine-tuned) and WaveformEncoder.from_hparams. With --format transformers
AutoModel, AutoModelForCTC and pipelines load it too, after `import speechbrain_pom.hf`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `export`."""
    parser.epilog = EPILOG
    parser.add_argument(
        "run",
        metavar="RUN",
        help="output folder of a run (its newest checkpoint, or after fine-tuning the one with "
        "the best WER), or one CKPT+... folder",
    )
    parser.add_argument("out", metavar="OUT", help="folder to write")
    parser.add_argument("--licence", help="such as apache-2.0 (default: not stated)")
    parser.add_argument("--language", help="of the speech, such as en")
    parser.add_argument(
        "--format",
        choices=FORMS,
        default=FORMS[0],
        help="transformers: for its AutoModel too; needs the extra [hf] (default: %(default)s)",
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="push the folder to the Hugging Face hub besides"
    )
    parser.add_argument(
        "--private", action="store_true", help="a model that --push makes is private"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an export of the same run"
    )


def run(args: argparse.Namespace) -> int:
    """Export a model, and say what was written and how it is loaded."""
    saved = find_saved(args.run)
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
