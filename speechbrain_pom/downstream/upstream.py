"""What a downstream task reads: the layers of an encoder, or log-mel features as a baseline.

MP3S and SUPERB call it the upstream. All kinds are called alike, `upstream(wavs, lengths, layers)`,
and have `num_states`, `d_model`, `num_frames`, `sample_rate` and `device`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from speechbrain.lobes.features import Fbank
from torch import nn

from speechbrain_pom.encoder.arguments import lengths_in_samples
from speechbrain_pom.encoder.encoder import SpeechEncoder
from speechbrain_pom.encoder.features import FeatureExtractor
from speechbrain_pom.encoder.lengths import padding_mask
from speechbrain_pom.encoder.loading import load_encoder
from speechbrain_pom.probe.frozen import load_frozen_encoder
from speechbrain_pom.utils.errors import UserError

UPSTREAMS = ("pretrained", "random", "log_mel")


class LogMel(nn.Module):
    """Log-mel features in the place of an encoder: what its layers have to beat.

    As many frames at a time as make the rate of an encoder. Each utterance is shifted and scaled as
    a whole: with a mean of zero in each band nothing would be left to heads that read the mean over
    time.

    Arguments
    ---------
    n_mels : int
    stack : int
        Feature frames (10 ms) in a frame.
    sample_rate : int
    f_max : float, optional
        Upper end of the filters in Hz; None for half of the sample rate.

    Example
    -------
    >>> upstream = LogMel()
    >>> states, num_frames = upstream(torch.randn(2, 16000), torch.tensor([16000, 8000]), [0])
    >>> states[0].shape, num_frames, upstream.num_frames(8000)
    (torch.Size([2, 26, 320]), tensor([26, 13]), 13)
    """

    num_states = 1

    def __init__(
        self,
        n_mels: int = 80,
        stack: int = 4,
        sample_rate: int = 16000,
        f_max: float | None = None,
    ) -> None:
        super().__init__()
        fbank = Fbank(sample_rate=sample_rate, n_mels=n_mels, f_max=f_max or sample_rate / 2)
        self.features = FeatureExtractor(fbank, None, stack)
        self.stack = stack
        self.d_model = n_mels * stack
        self.register_buffer("_place", torch.zeros(1), persistent=False)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the waveforms, in Hz."""
        return self.features.sample_rate

    @property
    def device(self) -> torch.device:
        """Device of the module."""
        return self._place.device

    def num_frames(self, num_samples: int | torch.Tensor) -> int | torch.Tensor:
        """The number of frames of an utterance, from its number of samples."""
        return (self.features.num_frames(num_samples) + self.stack - 1) // self.stack

    def forward(
        self,
        wavs: torch.Tensor,
        lengths: torch.Tensor | None = None,
        layers: Sequence[int] = (0,),
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The one state in a list, (B, T, d_model), zero in padding, and (B,) valid frames."""
        num_samples = lengths_in_samples(wavs, lengths, self.sample_rate)
        feats = _standardised(*self.features(wavs, num_samples))
        return [feats.unflatten(1, (-1, self.stack)).flatten(2)], self.num_frames(num_samples)


def _standardised(feats, num_frames):
    """Mean 0 and variance 1 over the valid frames and all bands; zero in padding."""
    padding = padding_mask(num_frames, feats.shape[1]).unsqueeze(-1)
    count = (num_frames * feats.shape[2]).view(-1, 1, 1)
    centred = feats - feats.sum((1, 2), keepdim=True) / count
    centred = centred.masked_fill(padding, 0.0)
    power = centred.square().sum((1, 2), keepdim=True) / count
    return centred / power.sqrt().clamp(min=1e-5)


def load_upstream(
    kind: str,
    pretrained: str | Path | None,
    *,
    freeze: bool = True,
    seed: int = 0,
    log_mel: dict | None = None,
) -> SpeechEncoder | LogMel:
    """Load what a task reads.

    Arguments
    ---------
    kind : str
        "pretrained"; "random", the same architecture with random weights; or "log_mel".
    pretrained : str or pathlib.Path, optional
        As `speechbrain_pom.load_encoder` takes it; not for log-mel features.
    freeze : bool
        False: it is fine-tuned. A frozen one has neither gradients nor dropout.
    seed : int
        Of random weights.
    log_mel : dict, optional
        Arguments of `LogMel`.

    Returns
    -------
    SpeechEncoder or LogMel

    Raises
    ------
    UserError
        If there is no such kind or encoder, or features were to be trained.

    Example
    -------
    >>> load_upstream("log_mel", None).d_model
    320
    """
    if kind not in UPSTREAMS:
        raise UserError(f"upstream is {kind!r}: choose {' or '.join(UPSTREAMS)}")
    if kind == "log_mel":
        if not freeze:
            raise UserError("freeze is False, but log-mel features have nothing to train")
        return LogMel(**(log_mel or {})).eval()
    if freeze or kind == "random":
        encoder = load_frozen_encoder(pretrained, random_encoder=kind == "random", seed=seed)
    elif pretrained is None:
        raise UserError("pretrained is null: give the folder of an encoder's run by --pretrained")
    else:
        encoder = load_encoder(pretrained)
    return encoder.requires_grad_(not freeze).eval()
