"""The noise that replaces masked frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from speechbrain_pom.utils.seeding import derive_seed


def sample_noise(
    feats: torch.Tensor, ids: Sequence[str], *, mean: float, std: float, seed: int | None = None
) -> torch.Tensor:
    """Gaussian noise of the shape of the features (paper: mean 0, standard deviation 0.1).

    Arguments
    ---------
    feats : torch.Tensor
        (B, T, F).
    ids : sequence of str
        (B,) utterance ids; used with a seed.
    mean, std : float
        Mean and standard deviation of the noise.
    seed : int, optional
        None (training): from the global generators, which each step seeds. Else (validation): each
        row is a function of (seed, id) alone.

    Returns
    -------
    torch.Tensor
        (B, T, F), dtype and device of the features.

    Example
    -------
    >>> alone = sample_noise(torch.zeros(1, 5, 80), ["b"], mean=0.0, std=0.1, seed=1)
    >>> batch = sample_noise(torch.zeros(2, 9, 80), ["a", "b"], mean=0.0, std=0.1, seed=1)
    >>> torch.equal(alone[0], batch[1, :5])
    True
    """
    if seed is None:
        return torch.randn_like(feats) * std + mean
    num_frames, dim = feats.shape[1:]
    rows = []
    for utterance_id in ids:
        generator = torch.Generator().manual_seed(derive_seed("noise", seed, utterance_id))
        # Frame by frame from one stream: more padding appends, and changes no frame before it.
        rows.append(_normal_stream(num_frames * dim, generator).view(num_frames, dim))
    return torch.stack(rows).to(feats) * std + mean


def _normal_stream(size, generator):
    """Normal numbers whose first ones do not depend on how many are drawn (Box-Muller)."""
    # torch.randn switches its algorithm with the size, uniform numbers are one stream.
    uniform = torch.rand(size + size % 2, generator=generator, dtype=torch.float64).view(-1, 2)
    radius = torch.sqrt(-2 * torch.log1p(-uniform[:, 0]))
    angle = 2 * torch.pi * uniform[:, 1]
    return torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], 1).flatten()[:size]
