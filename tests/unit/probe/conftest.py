"""A tiny encoder with random weights, and corpora of noise."""

import numpy as np
import pytest
import soundfile

from tests.helpers.encoders import build_encoder


@pytest.fixture
def encoder():
    """PoM, d_model 16, 2 layers."""
    return build_encoder(norm_type="sentence")


@pytest.fixture
def write_audio():
    """Function of a path and a number of samples: a file of noise at 16 kHz."""

    def write(path, num_samples=4000):
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.RandomState(num_samples).uniform(-0.5, 0.5, num_samples)
        soundfile.write(path, noise, 16000)

    return write
