"""Sounds that stand for speech."""

import soundfile
import torch


def sound(num_samples, seed=0):
    """Noise that comes and goes."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(num_samples) / 16000
    loudness = 0.3 * (2 * torch.pi * 0.7 * time).sin().clamp(min=0) ** 2
    return loudness * torch.randn(num_samples, generator=generator)


def write_noise(path, duration_s, seed):
    """A file of noise at 16 kHz, and its folder."""
    path.parent.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    wav = 0.1 * torch.randn(round(16000 * duration_s), generator=generator)
    soundfile.write(path, wav.numpy(), 16000)
