"""Sounds that stand for speech."""

import torch


def sound(num_samples, seed=0):
    """Noise that comes and goes."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16000
    loudness = 0.3 * (2 * torch.pi * 0.7 * time).sin().clamp(min=0) ** 2
    return loudness * torch.randn(num_samples, generator=generator)
