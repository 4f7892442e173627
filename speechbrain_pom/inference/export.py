"""Exported models: a folder of data alone, for this package, SpeechBrain and model hubs.

`hyperparams.yaml` and `encoder.yaml` say what the model is, the `.safetensors` files have the
weights, `units.json` (and `pieces.model`) the units of a fine-tuned model, `README.md` is the
model card.
"""

import os
import shutil
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file

from speechbrain_pom._version import __version__
from speechbrain_pom.ctc import tokenizers as units
from speechbrain_pom.encoder.architecture import build_parts, encoder_of, read_architecture
from speechbrain_pom.inference.recogniser import SpeechRecogniser
from speechbrain_pom.inference.speechbrain_interface import (
    FORMAT_KEY,
    FORMAT_VERSION,
    WEIGHTS_SUFFIX,
    load_weights,
    read_units,
    read_weights,
)
from speechbrain_pom.runs.checkpoints import HPARAMS_FILE
from speechbrain_pom.utils.disks import check_name, why_not_written
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import (
    publish_folder,
    sha256_of,
    temporary_beside,
    write_atomically,
)

ENCODER_FILE = "encoder" + WEIGHTS_SUFFIX
HEAD_FILE = "head" + WEIGHTS_SUFFIX
ENCODER_HPARAMS_FILE = "encoder.yaml"
CARD_FILE = "README.md"
FILES = {HPARAMS_FILE, ENCODER_HPARAMS_FILE, ENCODER_FILE, HEAD_FILE, CARD_FILE}
FILES |= {units.UNITS_FILE, units.MODEL_FILE}
RUN_KEY = "run"

_OPENING = """\
# Written by speechbrain-pom {version}, for {door}.from_hparams of SpeechBrain.
# The weights are beside this file, as safetensors.

plugin: !apply:speechbrain_pom.register

"""
_ENCODER = """
# last, or a hidden state: 0 (input of the first layer), 1, ...
layers: {layers}

encoder: !new:speechbrain_pom.encoder.encoder.SpeechEncoder
  compute_features: !ref <compute_features>
  normalize: !ref <normalize>
  front_end: !ref <CNN>
  transformer: !ref <Transformer>
  layers: !ref <layers>
  padding: {padding}

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


def is_export(folder):
    """Whether a folder holds an exported model.

    Arguments
    ---------
    folder : str or pathlib.Path

    Returns
    -------
    bool

    Example
    -------
    >>> is_export("hparams")
    False
    """
    return all((Path(folder) / name).is_file() for name in (HPARAMS_FILE, ENCODER_FILE))


def load_exported_encoder(folder, layers=None):
    """Load the encoder of an export.

    Arguments
    ---------
    folder : str or pathlib.Path
    layers : str, int or sequence of int, optional
        As for `SpeechEncoder`; what the model was exported with by default.

    Returns
    -------
    SpeechEncoder

    Raises
    ------
    UserError
        If a file is missing or damaged, or does not fit.
    """
    return _encoder(Path(folder), _parts(Path(folder)), layers)


def load_exported_recogniser(folder):
    """Load the encoder of an export with its head and units.

    Arguments
    ---------
    folder : str or pathlib.Path

    Returns
    -------
    SpeechRecogniser

    Raises
    ------
    UserError
        If the model was not fine-tuned, a file is missing or damaged, or anything does not fit.
    """
    folder = Path(folder)
    parts = _parts(folder)
    if "head" not in parts:
        raise UserError(f"'{folder}' is an export without a CTC head: export a run of train_ctc.py")
    encoder = _encoder(folder, parts, None)
    load_weights(parts["head"], folder / HEAD_FILE)
    return SpeechRecogniser(encoder, parts["head"], read_units(folder))


def _parts(folder):
    hparams_file = folder / HPARAMS_FILE
    return build_parts(read_architecture(hparams_file), hparams_file)


def _encoder(folder, parts, layers):
    if layers is None:
        layers = "sum" if parts.get("weighted_sum") else "last"
    encoder = encoder_of(parts, layers)
    load_weights(encoder, folder / ENCODER_FILE)
    return encoder


def write_export(out, model, architecture, card, *, run, commit=None, overwrite=False):
    """Write a model as a folder that can be loaded, moved and shared; whole or not at all.

    Arguments
    ---------
    out : str or pathlib.Path
        The folder: new, empty, or (with `overwrite`) an export of the same run.
    model : SpeechEncoder or SpeechRecogniser
    architecture : str
        From `read_architecture`; comments are left out.
    card : str
        The model card.
    run : str
        What tells exports of this run from those of others; stored with the weights.
    commit : str, optional
        Of the code that trained it; stored with the weights.
    overwrite : bool
        Whether an export of the same run is replaced.

    Returns
    -------
    list of pathlib.Path
        The files.

    Raises
    ------
    UserError
        If the folder holds anything else, or cannot be written.
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
        _write_files(hidden, model, architecture, metadata)
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
    if not is_export(out) or read_weights(out / ENCODER_FILE)[1].get(RUN_KEY) != run:
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


def _write_files(folder, model, architecture, metadata):
    """All but the model card; the YAMLs last, with the checksums of the others."""
    tuned = isinstance(model, SpeechRecogniser)
    encoder = model.encoder if tuned else model
    _save_weights(encoder, folder / ENCODER_FILE, metadata)
    if tuned:
        _save_weights(model.head, folder / HEAD_FILE, metadata)
        model.units.save(folder)
    files = sorted(folder.iterdir())
    checksums = {path.name: f"    {path.name}: {sha256_of(path)}\n" for path in files}
    opening = _opening("WaveformEncoder", plain_yaml(architecture, without=["head"]), encoder)
    encoder_yaml = f"{opening}{_EMBEDDINGS}{checksums[ENCODER_FILE]}"
    write_atomically(folder / ENCODER_HPARAMS_FILE, encoder_yaml)
    hparams = encoder_yaml
    if tuned:
        opening = _opening("EncoderASR", plain_yaml(architecture), encoder)
        hparams = f"{opening}{_LOG_PROBS}{''.join(checksums.values())}"
    write_atomically(folder / HPARAMS_FILE, hparams)


def _save_weights(module, path, metadata):
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    save_file(state, path, metadata=metadata)


def _opening(door, architecture, encoder):
    opening = _OPENING.format(version=__version__, door=door)
    # Of hidden states that were chosen for one use, an export knows nothing.
    layers = "sum" if encoder.layers == "sum" else "last"
    return (
        opening
        + architecture
        + _ENCODER.format(layers=layers, padding=encoder.padding, sample_rate=encoder.sample_rate)
    )


def plain_yaml(text, without=()):
    """A YAML text without its comments, which may say anything about where it comes from.

    Arguments
    ---------
    text : str
        A mapping; it is not loaded, its tags stay.
    without : iterable of str
        Keys to leave out.

    Returns
    -------
    str

    Example
    -------
    >>> print(plain_yaml("model: !new:torch.nn.GELU {} # as in /home/me\\nlr: 0.1", ["lr"]))
    model: !new:torch.nn.GELU {}
    <BLANKLINE>
    """
    tree = yaml.compose(text, Loader=yaml.SafeLoader)
    tree.value = [(key, value) for key, value in tree.value if key.value not in without]
    return yaml.serialize(tree, Dumper=yaml.SafeDumper, width=4096, allow_unicode=True)
