"""Mel filter banks whose range is limited below the loudest value of the utterance, or so far.

SpeechBrain limits them to a number of decibels (`top_db`) below the loudest value of what it is
given. A stream does not know what is yet to come: its limit follows the loudest value so far.
"""

import copy
import math

import torch
from speechbrain.processing.features import spectral_magnitude
from torch import Tensor, nn

from speechbrain_pom.ops.common.graphs import is_exporting
from speechbrain_pom.ops.common.running_max import running_max
from speechbrain_pom.utils.errors import UserError

FLOORS = ("utterance", "running")


def checked_floor(floor: str) -> str:
    """A name of `FLOORS`; a `UserError` for another."""
    if floor not in FLOORS:
        raise UserError(
            f"feature_floor is {floor!r}: give utterance (below the loudest value of the whole "
            "utterance, as SpeechBrain) or running (below the loudest value so far)"
        )
    return floor


def has_floor(compute_features: nn.Module) -> bool:
    """Whether a module limits its features as SpeechBrain's `Fbank` does."""
    return hasattr(compute_features, "compute_fbanks")


def unlimited(fbank: nn.Module, wavs: Tensor, centred: bool = True) -> Tensor:
    """Filter banks in decibels without the limit of `top_db`, in fp32.

    Arguments
    ---------
    fbank : torch.nn.Module
        SpeechBrain's `Fbank`.
    wavs : torch.Tensor
        (B, samples) in fp32.
    centred : bool
        As in the `Fbank`: frame t is around sample t * hop, and zeros are beyond the ends. False:
        frame t begins with sample t * hop, and every frame is made of given samples.

    Returns
    -------
    torch.Tensor
        (B, T, num_mels)

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> fbank, wavs = Fbank(n_mels=80), 0.1 * torch.randn(1, 1600)
    >>> whole, inner = unlimited(fbank, wavs), unlimited(fbank, wavs[:, 120:], centred=False)
    >>> whole.shape, inner.shape, torch.allclose(inner[:, 0], whole[:, 2], atol=1e-4)
    (torch.Size([1, 11, 80]), torch.Size([1, 7, 80]), True)
    """
    stft, bank = fbank.compute_STFT, copy.copy(fbank.compute_fbanks)
    bank.top_db = math.inf
    if not centred:
        stft = copy.copy(stft)
        stft.center = False
    with torch.autocast(wavs.device.type, enabled=False):
        return bank(spectral_magnitude(stft(wavs)))


def limited_so_far(
    feats: Tensor, top_db: float, peak: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Limit features below the loudest value so far, frame by frame.

    Arguments
    ---------
    feats : torch.Tensor
        (B, T, num_mels) in decibels, from `unlimited`.
    top_db : float
        Decibels below the loudest value.
    peak : torch.Tensor, optional
        (B, 1, 1): the loudest value before.

    Returns
    -------
    feats : torch.Tensor
        (B, T, num_mels)
    peak : torch.Tensor
        (B, 1, 1): the loudest value up to their end.

    Example
    -------
    >>> feats = torch.tensor([[[-90.0], [0.0], [-90.0]]])
    >>> limited_so_far(feats, 80.0)[0].flatten()
    tensor([-90.,   0., -80.])
    """
    peaks = feats.amax(-1, keepdim=True)
    peaks = running_max(peaks) if is_exporting() else peaks.cummax(1).values
    if peak is not None:
        peaks = torch.maximum(peaks, peak)
    return torch.maximum(feats, peaks - top_db), peaks[:, -1:]
