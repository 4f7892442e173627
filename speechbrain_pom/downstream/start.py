"""The model of a downstream run, and what must not change when it is continued."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechbrain_pom.downstream.model import DownstreamModel
from speechbrain_pom.downstream.upstream import LogMel, load_upstream
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.weights import hash_of_tensors
from speechbrain_pom.probe.checks import check_choice
from speechbrain_pom.runs.record import check_fingerprint, record_fingerprint
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.files import sha256_of
from speechbrain_pom.utils.seeding import seeded


def upstream_of(hparams: Mapping[str, Any]) -> SpeechEncoder | LogMel:
    """The upstream that the keys of a recipe ask for, checked against its other keys."""
    upstream = load_upstream(
        hparams["upstream"],
        hparams["pretrained"],
        freeze=hparams["freeze"],
        seed=hparams["seed"],
        log_mel={key: hparams[key] for key in ("n_mels", "stack", "f_max")},
    )
    if hparams["cache_states"] and not hparams["freeze"]:
        raise UserError(
            "cache_states is True, but freeze is False: the states change as the encoder learns; "
            "give --cache_states False"
        )
    if upstream.sample_rate != hparams["sample_rate"]:
        raise UserError(
            f"the encoder reads {upstream.sample_rate} Hz, and sample_rate is "
            f"{hparams['sample_rate']}: files are read at 16000 Hz"
        )
    return upstream


def build_model(
    hparams: Mapping[str, Any], upstream: SpeechEncoder | LogMel, num_outputs: int
) -> DownstreamModel:
    """The model of a run; the head's first weights depend on the seed and its sizes alone."""
    check_choice("head", hparams["head"], list(hparams["heads"]))
    with seeded("head", hparams["seed"]):
        head = hparams["heads"][hparams["head"]](upstream.d_model, num_outputs)
    return DownstreamModel(upstream, head, hparams["freeze"], hparams["normalise_layers"])


def check_start(output_folder: str | Path, model: DownstreamModel, train: Path) -> None:
    """Resume only what was begun with this upstream and these training utterances."""
    hashes = {"encoder": hash_of_tensors(model.upstream), "training_data": sha256_of(train)}
    if any(Path(output_folder).glob("save/CKPT+*")):
        check_fingerprint(output_folder, **hashes)
    record_fingerprint(output_folder, **hashes)
