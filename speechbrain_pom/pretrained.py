"""Encoders from checkpoints: found, compared in full, and loaded strictly."""

from pathlib import Path

import yaml
from speechbrain.utils.checkpoints import METAFNAME
from speechbrain.utils.logger import get_logger

from speechbrain_pom.encoder.weights import read_tensors
from speechbrain_pom.runs.record import (
    check_fingerprint,
    read_fingerprint,
    record_fingerprint,
)
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of

logger = get_logger(__name__)

# What a checkpoint says of its encoder and features. The second group leaves no trace in the
# shapes of the tensors, so its values are compared.
SHAPING_KEYS = ("attention_type", "d_model", "num_encoder_layers", "d_ffn", "cnn_channels")
SILENT_KEYS = (
    *("nhead", "positional_encoding", "padding"),
    *("sample_rate", "n_fft", "hop_length", "n_mels", "f_min", "f_max"),
)
FROM_SCRATCH = "from scratch"
MODEL_FILE = "model.ckpt"
NORMALIZE_FILE = "normalize.ckpt"
CHECKPOINT_FILES = (METAFNAME, MODEL_FILE, NORMALIZE_FILE)


def describe_encoder(hparams):
    """What identifies an encoder and its features, for the meta data of a checkpoint.

    Arguments
    ---------
    hparams : dict
        Of the run; keys that it lacks are left out.

    Returns
    -------
    dict

    Example
    -------
    >>> describe_encoder({"d_model": 488, "lr": 0.001})
    {'d_model': 488}
    """
    return {key: hparams[key] for key in SHAPING_KEYS + SILENT_KEYS if key in hparams}


def find_checkpoint(path):
    """The newest checkpoint of a run.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's output folder, its `save` folder, or one `CKPT+...` folder.

    Returns
    -------
    pathlib.Path
        A folder with `model.ckpt` and `normalize.ckpt`.

    Raises
    ------
    UserError
        If there is none.
    """
    found = find_checkpoints(path)
    if not found:
        problem = "holds no checkpoint with an encoder" if Path(path).exists() else "does not exist"
        raise UserError(
            f"pretrained: '{path}' {problem}: give a run's folder or one CKPT+... folder "
            f"(with {', '.join(CHECKPOINT_FILES)}) by --pretrained, or --pretrained null to start "
            "from scratch"
        )
    return found[-1]


def find_checkpoints(path):
    """All checkpoints with an encoder.

    Arguments
    ---------
    path : str or pathlib.Path
        A run's output folder, its `save` folder, or one `CKPT+...` folder.

    Returns
    -------
    list of pathlib.Path
        The oldest first.
    """
    path = Path(path)
    candidates = [path, *path.glob("CKPT+*"), *path.glob("save/CKPT+*")]
    found = [
        folder
        for folder in candidates
        if all((folder / name).is_file() for name in CHECKPOINT_FILES)
    ]
    return sorted(found, key=lambda folder: read_meta(folder).get("unixtime", 0.0))


def read_meta(checkpoint):
    """The meta data that were stored with a checkpoint.

    Arguments
    ---------
    checkpoint : pathlib.Path
        A `CKPT+...` folder.

    Returns
    -------
    dict
    """
    return yaml.safe_load((checkpoint / METAFNAME).read_text(encoding="utf-8")) or {}


def load_pretrained(checkpoint, *, model, normalize, encoder):
    """Load an encoder and the statistics of its features, all of it or nothing.

    Arguments
    ---------
    checkpoint : pathlib.Path
        From `find_checkpoint`.
    model : torch.nn.Module
        Front end and encoder, as the pretraining recipe saves them.
    normalize : torch.nn.Module
        SpeechBrain's `InputNormalization`.
    encoder : dict
        What this run's encoder is, from `describe_encoder`.

    Returns
    -------
    str
        SHA-256 of the encoder's file.

    Raises
    ------
    UserError
        If any tensor is missing, left over, or of another shape; if what the shapes do not show
        (heads, positions, features) differs; if there are no statistics of the features; or if
        a file is damaged or holds more than tensors.
    """
    described = read_meta(checkpoint).get("encoder", {})
    silent = {
        key: (described[key], encoder[key])
        for key in SILENT_KEYS
        if key in described and key in encoder and described[key] != encoder[key]
    }
    if silent:
        differing = ", ".join(
            f"{key} {theirs} (here {ours})" for key, (theirs, ours) in silent.items()
        )
        raise UserError(f"pretrained: {checkpoint} was made with {differing}: set these alike")
    path = checkpoint / MODEL_FILE
    state = read_tensors(path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        theirs, ours = (
            {key: side[key] for key in SHAPING_KEYS if key in side} for side in (described, encoder)
        )
        problems = str(error).splitlines()[1:]
        first = problems[0].strip() if problems else str(error)
        raise UserError(
            f"pretrained: {checkpoint} is {theirs or 'unknown'}, this run is {ours}: set these "
            f"alike, or choose another checkpoint ({first[:200]})"
        ) from error
    normalize.load_statistics(checkpoint / NORMALIZE_FILE)
    return sha256_of(path)


def initialise_encoder(hparams):
    """Start a run from the encoder that `pretrained` names, or say loudly that there is none.

    A run that is resumed has its encoder in its own checkpoints: the pretrained one is then not
    read again (it may have been trained on, or deleted), unless another is named.

    Arguments
    ---------
    hparams : dict
        Of the run: `pretrained`, `model`, `normalize`, `output_folder`, and what
        `describe_encoder` takes.

    Raises
    ------
    UserError
        If it cannot be loaded in full, or is not what this folder's run began with.
    """
    folder = Path(hparams["output_folder"])
    name = None if hparams["pretrained"] is None else str(Path(hparams["pretrained"]).resolve())
    source = name or FROM_SCRATCH
    resumed = any(folder.glob("save/CKPT+*"))
    if resumed and read_fingerprint(folder, "pretrained_from") == source:
        logger.info("The encoder is in this run's checkpoints (begun: %s)", source)
        return
    fingerprint = FROM_SCRATCH
    if name is None:
        logger.warning("pretrained is null: training FROM SCRATCH, no pretrained encoder")
    else:
        checkpoint = find_checkpoint(hparams["pretrained"])
        fingerprint = load_pretrained(
            checkpoint,
            model=hparams["encoder"].checkpoint_modules,
            normalize=hparams["encoder"].features,
            encoder=describe_encoder(hparams),
        )
        logger.info("Pretrained encoder: %s (sha256 %s)", checkpoint, fingerprint[:12])
    if resumed:
        check_fingerprint(folder, pretrained=fingerprint)
    record_fingerprint(folder, pretrained=fingerprint, pretrained_from=source)
