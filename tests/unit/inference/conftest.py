"""A recogniser with random weights that says something of noise."""

import pytest
import torch

from tests.helpers.sounds import sound


@pytest.fixture
def recogniser(tiny_recogniser):
    """One that says something of noise: about half of the frames are blanks."""
    head, wav = tiny_recogniser.head, sound(64_000).unsqueeze(0)
    with torch.no_grad():
        head.weight *= 4
        head.bias[1] += 0.5  # spaces
        frames, _ = tiny_recogniser.encoder(wav, chunks=(8, None))
        outputs = head(frames)[0]
        head.bias[0] += (outputs[:, 1:].amax(-1) - outputs[:, 0]).median() + 0.5
    return tiny_recogniser
