"""The encoder of a probe: as pretrained, or with random weights to compare with; and its hash."""

from pathlib import Path

from speechbrain_pom.encoder.architecture import build_parts, read_architecture
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.loading import find_saved, load_encoder
from speechbrain_pom.utils.errors import UserError
from speechbrain_pom.utils.seeding import seeded


def load_frozen_encoder(
    pretrained: str | Path, *, random_encoder: bool = False, seed: int = 0
) -> SpeechEncoder:
    """Load an encoder whose weights are not trained.

    Arguments
    ---------
    pretrained : str or pathlib.Path
        As `speechbrain_pom.load_encoder` takes it.
    random_encoder : bool
        Whether all weights are made anew, as they were when pretraining began; only the
        statistics of the features stay. What it reaches is what pretraining has to beat.
    seed : int
        Seed of these weights.

    Returns
    -------
    SpeechEncoder
        In eval mode, without gradients.

    Raises
    ------
    UserError
        If there is none, or it cannot be loaded in full.
    """
    if pretrained is None:
        raise UserError(
            "pretrained is null, and a probe needs an encoder: give a run's folder by "
            "--pretrained; --random_encoder True takes its architecture with random weights"
        )
    encoder = load_encoder(pretrained)
    if random_encoder:
        encoder = _randomised(encoder, pretrained, seed)
    return encoder.requires_grad_(False).eval()


def _randomised(encoder, path, seed):
    hparams_file = find_saved(path).hparams_file
    with seeded("random encoder", seed):
        fresh = build_parts(read_architecture(hparams_file), hparams_file, "last")["encoder"]
    fresh.features.load_state_dict(encoder.features.state_dict())
    return fresh
