"""Exported models: a folder of data alone, for this package, SpeechBrain and model hubs.

`hyperparams.yaml` and `encoder.yaml` say what the model is, the `.safetensors` files have the
weights, `units.json` (and `pieces.model`) the units of a fine-tuned model, `README.md` is the
model card.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.tag import Tag
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from speechbrain_pom._version import __version__
from speechbrain_pom.ctc import tokenizers as units
from speechbrain_pom.encoder.architecture import as_text
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.loading import ENCODER_FILE, is_export
from speechbrain_pom.encoder.weights import (
    FORMAT_KEY,
    FORMAT_VERSION,
    SHARED_FILE,
    WEIGHTS_SUFFIX,
    file_of_part,
    read_weights,
)
from speechbrain_pom.inference.recogniser import EXPORTED_HEAD_FILE, SpeechRecogniser
from speechbrain_pom.runs.checkpoints import HPARAMS_FILE
from speechbrain_pom.utils.disks import check_name, why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import (
    publish_folder,
    sha256_of,
    temporary_beside,
    write_atomically,
)

ENCODER_HPARAMS_FILE = "encoder.yaml"
STREAMING_HPARAMS_FILE = "streaming.yaml"
CARD_FILE = "README.md"
FILES = {HPARAMS_FILE, ENCODER_HPARAMS_FILE, ENCODER_FILE, EXPORTED_HEAD_FILE, CARD_FILE}
FILES |= {units.UNITS_FILE, units.MODEL_FILE, STREAMING_HPARAMS_FILE}
# For transformers: all weights in one file, and what its classes read.
FILES |= {SHARED_FILE, "config.json", "preprocessor_config.json", "tokenizer_config.json"}
RUN_KEY = "run"

_OPENING = """\
# Written by speechbrain-pom {version}, for {door}.from_hparams of SpeechBrain.
# The weights are beside this file, as safetensors.

plugin: !apply:speechbrain_pom.register

"""
_LAYERS = """\
# last, or a hidden state: 0 (input of the first layer), 1, ...
layers: {layers}

"""
_AUDIO = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
  sample_rate: {sample_rate}

"""
_EMBEDDINGS = """\
embeddings: !new:speechbrain_pom.inference.speechbrain_interface.Embeddings
  encoder: !ref <encoder>
modules: {encoder: !ref <embeddings>}

pretrainer: !new:speechbrain_pom.inference.speechbrain_interface.SafePretrainer
  loadables: {encoder: !ref <encoder>}
  sha256:
"""
_LOG_PROBS = """\
tokenizer: !new:speechbrain_pom.inference.speechbrain_interface.Tokenizer
recogniser: !new:speechbrain_pom.inference.speechbrain_interface.LogProbs
  encoder: !ref <encoder>
  head: !ref <head>
  units: !ref <tokenizer>
modules: {encoder: !ref <recogniser>}
decoding_function: !name:speechbrain_pom.inference.speechbrain_interface.greedy_labels
  blank_index: 0

pretrainer: !new:speechbrain_pom.inference.speechbrain_interface.SafePretrainer
  loadables: {encoder: !ref <encoder>, head: !ref <head>, tokenizer: !ref <tokenizer>}
  sha256:
"""
_STREAMING = """\
tokenizer: !new:speechbrain_pom.inference.speechbrain_interface.Tokenizer
chunked_encoder: !new:speechbrain_pom.inference.speechbrain_streaming.ChunkedEncoder
  encoder: !ref <encoder>
modules: {enc: !ref <chunked_encoder>, proj_enc: !ref <head>}
fea_streaming_extractor: !new:speechbrain_pom.inference.speechbrain_streaming.Samples
  samples_per_frame: SAMPLES_PER_FRAME
make_decoder_streaming_context: !name:speechbrain_pom.inference.speechbrain_streaming.LastLabels
decoding_function: !name:speechbrain_pom.inference.speechbrain_streaming.new_labels
  blank_index: 0
make_tokenizer_streaming_context: !name:speechbrain_pom.inference.speechbrain_streaming.OpenWord
tokenizer_decode_streaming: !name:speechbrain_pom.inference.speechbrain_streaming.new_text

pretrainer: !new:speechbrain_pom.inference.speechbrain_interface.SafePretrainer
  loadables: {encoder: !ref <encoder>, head: !ref <head>, tokenizer: !ref <tokenizer>}
  sha256:
"""


def write_export(
    out: str | Path,
    model: SpeechEncoder | SpeechRecogniser,
    architecture: str,
    card: str,
    *,
    run: str,
    commit: str | None = None,
    overwrite: bool = False,
    write_config: Callable[[Path, nn.Module, str], None] | None = None,
) -> list[Path]:
    """Write a model as a folder that can be loaded, moved and shared; whole or not at all.

    `architecture` is YAML text, `card` the README.md; `run` identifies the run that is exported: an
    export of the same run is replaced with `overwrite`, and anything else never. With
    `write_config`, which writes what another library reads besides, given the folder, the model and
    its architecture, all weights are in one file. Returns the files.
    """
    out = Path(out).resolve()
    check_name(out)
    _check_place(out, run, overwrite)
    metadata = {"format": "pt", FORMAT_KEY: FORMAT_VERSION, RUN_KEY: run}
    metadata["speechbrain_pom"] = __version__
    if commit:
        metadata["commit"] = commit
    hidden = temporary_beside(out, f"{os.getpid()}.tmp")
    try:
        hidden.mkdir(parents=True)
        _write_files(hidden, model, architecture, metadata, write_config)
        write_atomically(hidden / CARD_FILE, card)
        publish_folder(hidden, out)
    except (OSError, SafetensorError) as error:  # safetensors has its own for a full disk
        why = why_not_written(error, out.parent)
        sentence = f"cannot write '{out}' ({why}): give another folder or make room"
        raise UserError(sentence) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return sorted(out.iterdir())


def _check_place(out, run, overwrite):
    """Refuse a folder whose content would be lost."""
    if out.is_file():
        raise UserError(f"'{out}' is a file: give a folder for the export")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if not names:
        return
    if not is_export(out) or _run_of(out) != run:
        raise UserError(f"'{out}' is not empty, and holds no export of this run: give another one")
    others = sorted(names - FILES)
    if others:
        raise UserError(
            f"'{out}' also holds {', '.join(others[:3])}, which would be lost: give another folder"
        )
    if not overwrite:
        raise UserError(
            f"'{out}' holds an export of this run: replace it with --overwrite, or give another "
            "folder"
        )


def _run_of(out):
    return read_weights(file_of_part(out, "encoder"))[1].get(RUN_KEY)


def _write_files(folder, model, architecture, metadata, write_config):
    """All but the model card; the YAMLs last, with the checksums of the others."""
    tuned = isinstance(model, SpeechRecogniser)
    parts = {"encoder": model.encoder, "head": model.head} if tuned else {"encoder": model}
    encoder = parts["encoder"]
    _save_weights(parts, folder, metadata, in_one_file=write_config is not None)
    if tuned:
        model.units.save(folder)
    files = sorted(folder.iterdir())
    checksums = {path.name: f"    {path.name}: {sha256_of(path)}\n" for path in files}
    opening = _opening("WaveformEncoder", _model_tree(architecture, encoder, False), encoder)
    encoder_yaml = f"{opening}{_EMBEDDINGS}{checksums[file_of_part(folder, 'encoder').name]}"
    write_atomically(folder / ENCODER_HPARAMS_FILE, encoder_yaml)
    hparams, tree = encoder_yaml, _model_tree(architecture, encoder, tuned)
    if write_config is not None:
        write_config(folder, model, as_text(tree))
    if tuned:
        sums = "".join(checksums.values())
        hparams = f"{_opening('EncoderASR', tree, encoder)}{_LOG_PROBS}{sums}"
        if encoder.can_stream() is None or encoder.can_stream(left_s=0) is None:
            parts = _STREAMING.replace("SAMPLES_PER_FRAME", str(encoder.samples_per_frame))
            streaming = f"{_opening('StreamingASR', tree, encoder)}{parts}{sums}"
            write_atomically(folder / STREAMING_HPARAMS_FILE, streaming)
    write_atomically(folder / HPARAMS_FILE, hparams)


def _save_weights(parts, folder, metadata, in_one_file):
    """Each part's tensors in a file of its own, or all in one under the names of the parts."""
    states = {
        part: {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
        for part, module in parts.items()
    }
    if in_one_file:
        tensors = {f"{part}.{key}": states[part][key] for part in states for key in states[part]}
        save_file(tensors, folder / SHARED_FILE, metadata=metadata)
        return
    for part, state in states.items():
        save_file(state, folder / f"{part}{WEIGHTS_SUFFIX}", metadata=metadata)


def _model_tree(architecture, encoder, tuned):
    """The sections of the model as they are loaded again."""
    tree = YAML().load(architecture)
    tree["encoder"]["padding"] = encoder.padding
    if not tuned:
        tree.pop("head", None)
    return tree


def _opening(door, tree, encoder):
    tree["encoder"]["layers"] = TaggedScalar("<layers>", tag=Tag(suffix="!ref"))
    # Of hidden states that were chosen for one use, an export knows nothing.
    layers = "sum" if encoder.layers == "sum" else "last"
    return (
        _OPENING.format(version=__version__, door=door)
        + _LAYERS.format(layers=layers)
        + as_text(tree)
        + _AUDIO.format(sample_rate=encoder.sample_rate)
    )
