"""The encoder that a run starts from: a pretrained one, or its own architecture from scratch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from speechbrain.utils.logger import get_logger

from speechbrain_pom.encoder.architecture import read_architecture
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.loading import CHECKPOINT_FILES, fill_encoder, find_saved
from speechbrain_pom.runs.checkpoints import HPARAMS_FILE
from speechbrain_pom.runs.record import check_fingerprint, read_fingerprint, record_fingerprint
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of
from speechbrain_pom.utils.hub import is_address

logger = get_logger(__name__)

FROM_SCRATCH = "from scratch"


def encoder_section(
    pretrained: str | Path | None,
    architecture: str | Path | None = None,
    architecture_overrides: Mapping | None = None,
    output_folder: str | Path | None = None,
    dropout: float | None = None,
) -> CommentedMap:
    """The section `encoder` of a run's hparams file, called by it as `!applyref`.

    HyperPyYAML puts it in the place of the call where it resolves references, so that the
    hyperparams.yaml of the run and its checkpoints have the architecture in full. A run that is
    resumed has its own there, and reads no other file.

    Arguments
    ---------
    pretrained : str, pathlib.Path or None
        As `load_encoder` takes it. None: from scratch.
    architecture : str or pathlib.Path, optional
        From scratch: an hparams file, or a run's folder, of which only the architecture is taken.
        With a pretrained checkpoint that has no hyperparams.yaml: the one that it belongs to.
    architecture_overrides : dict, optional
        Other values for keys of that file.
    output_folder : str or pathlib.Path, optional
        Folder of the run.
    dropout : float, optional
        Of the Transformer, in place of the architecture's.

    Returns
    -------
    CommentedMap
        A YAML node that builds a `SpeechEncoder` with random weights.

    Raises
    ------
    UserError
        If there is no such model or file, or both are given.

    Example
    -------
    >>> section = encoder_section(None, "hparams/pom.yaml", {"d_model": 96}, dropout=0.0)
    >>> section["transformer"]["d_model"], section["transformer"]["dropout"]
    (96, 0.0)
    """
    if output_folder is not None and _has_begun(output_folder):
        text = _read(Path(output_folder) / HPARAMS_FILE)
    elif pretrained is not None and not _is_bare(pretrained):
        if architecture is not None or architecture_overrides:
            raise UserError(
                f"pretrained is '{pretrained}', which has its own architecture: leave out "
                "architecture and architecture_overrides, or give --pretrained null to start from "
                "scratch"
            )
        text = _read(_find_pretrained(pretrained).hparams_file)
    elif pretrained is not None and architecture is None:
        raise UserError(
            f"pretrained is '{pretrained}', which has no {HPARAMS_FILE}: give that of its run, or "
            "another hparams file that says what it is, as --architecture FILE"
        )
    else:
        text = _architecture_from_scratch(architecture, architecture_overrides or {})
    section = YAML().load(text)["encoder"]
    if dropout is not None:
        section["transformer"]["dropout"] = dropout
    return section


def _has_begun(output_folder: str | Path) -> bool:
    folder = Path(output_folder)
    return (folder / HPARAMS_FILE).is_file() and any(folder.glob("save/CKPT+*"))


def _is_bare(pretrained: str | Path) -> bool:
    """Whether it is a checkpoint without the hparams file that says what it is."""
    path = Path(pretrained)
    places = [path, *([path.parent.parent] if path.parent.name == "save" else [])]
    is_checkpoint = all((path / name).is_file() for name in CHECKPOINT_FILES)
    return is_checkpoint and not any((place / HPARAMS_FILE).is_file() for place in places)


def _find_pretrained(pretrained: str | Path, architecture: str | Path | None = None):
    try:
        return find_saved(pretrained, architecture if _is_bare(pretrained) else None)
    except UserError as error:
        raise UserError(
            f"pretrained: {error}; --pretrained null --architecture FILE starts from scratch"
        ) from error


def _architecture_from_scratch(architecture: str | Path | None, overrides: Mapping) -> str:
    if architecture is None:
        raise UserError(
            "pretrained is null: give the architecture of the encoder, an hparams file as "
            "--architecture hparams/pom.yaml or a run's folder"
        )
    path = Path(architecture)
    if not path.is_dir():
        return _read(path, overrides)
    if overrides:
        raise UserError(
            f"architecture is '{path}', a run whose values are settled: give an hparams file to "
            "override some of them by architecture_overrides"
        )
    return _read(find_saved(path).hparams_file)


def _read(hparams_file: Path, overrides: Mapping | None = None) -> str:
    """`read_architecture`, once for each file: a start resolves its references several times."""
    values = (overrides or {}).items()
    if not hparams_file.is_file() or not all(
        isinstance(value, (str, int, float, type(None))) for _, value in values
    ):
        return read_architecture(hparams_file, overrides)
    typed = tuple((key, type(value), value) for key, value in values)
    return _read_once(hparams_file, hparams_file.read_bytes(), typed)


@functools.lru_cache(maxsize=32)
def _read_once(hparams_file: Path, _content: bytes, overrides: tuple) -> str:
    return read_architecture(hparams_file, {key: value for key, _, value in overrides})


def start_encoder(
    encoder: SpeechEncoder,
    pretrained: str | Path | None,
    output_folder: str | Path,
    architecture: str | Path | None = None,
) -> None:
    """Load the weights that a run starts from, or say loudly that there are none.

    A run that is resumed has its encoder in its own checkpoints: the pretrained one is then not
    read again (it may have been trained on, or deleted), unless another is named. `architecture`
    is as for `encoder_section`. A `UserError` if it cannot be loaded in full, or is not what this
    folder's run began with.
    """
    folder = Path(output_folder)
    source = _source(pretrained)
    resumed = any(folder.glob("save/CKPT+*"))
    if resumed and read_fingerprint(folder, "pretrained_from") == source:
        logger.info("The encoder is in this run's checkpoints (begun: %s)", source)
        return
    fingerprint = FROM_SCRATCH
    if pretrained is None:
        logger.warning("pretrained is null: training FROM SCRATCH, no pretrained encoder")
    else:
        saved = _find_pretrained(pretrained, architecture)
        fill_encoder(encoder, saved)
        fingerprint = sha256_of(saved.encoder_file)
        logger.info("Pretrained encoder: %s (sha256 %s)", saved.checkpoint, fingerprint[:12])
    if resumed:
        check_fingerprint(folder, pretrained=fingerprint)
    record_fingerprint(folder, pretrained=fingerprint, pretrained_from=source)


def _source(pretrained):
    if pretrained is None:
        return FROM_SCRATCH
    return str(pretrained if is_address(pretrained) else Path(pretrained).resolve())
