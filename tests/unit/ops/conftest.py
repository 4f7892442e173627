"""Random inputs for the functional form."""

import itertools
from dataclasses import dataclass, field

import pytest
import torch

GROUPS = {"base": 1, "selective": 1, "frequency2": 2, "frequency3": 3}


@dataclass
class MixerInputs:
    """Arguments of `polynomial_mix` as leaves, so that their gradients can be read."""

    frames: list  # query alone, or query and key
    weights: list  # all (weight, bias) tensors, flat
    arguments: tuple
    options: dict = field(default_factory=dict)

    @property
    def leaves(self):
        return [*self.frames, *self.weights]


@pytest.fixture
def make_inputs():
    """Factory of `MixerInputs`: frames of width 7 (odd: groups of unequal width)."""

    def make(num_frames, variant="base", *, num_keys=None, batch=3, degree=3, dtype=torch.float32):
        torch.manual_seed(num_frames)
        d, expand, groups = 7, 2, GROUPS[variant]
        edges = [i * d // groups for i in range(groups + 1)]
        widths = [stop - start for start, stop in itertools.pairwise(edges)]
        branches = 1 if variant == "selective" else degree
        expanded = [branches * expand * width for width in widths]

        def leaf(*shape, scale=1.0):
            return (torch.randn(*shape, dtype=torch.float64) * scale).to(dtype).requires_grad_()

        def linears(rows, columns):
            sizes = zip(rows, columns, strict=True)
            return [(leaf(r, c, scale=c**-0.5), leaf(r)) for r, c in sizes]

        poly, gate = linears(expanded, widths), linears(expanded, widths)
        out = (leaf(d, sum(expanded), scale=sum(expanded) ** -0.5), leaf(d))
        frames = [leaf(batch, num_frames, d)]
        options = {
            "degree": degree,
            "activation": "relu_power" if variant == "selective" else "gelu_product",
        }
        if num_keys is not None:
            frames.append(leaf(batch, num_keys, d))
            options["key"] = frames[1]
        weights = [tensor for pair in (*poly, *gate, out) for tensor in pair]
        return MixerInputs(frames, weights, (frames[0], poly, gate, *out), options)

    return make


@pytest.fixture
def random_padding():
    """(batch, T) mask with one full utterance, one of a single frame, and others between."""

    def make(batch, num_frames):
        lengths = torch.randint(1, num_frames + 1, (batch,))
        lengths[0], lengths[-1] = num_frames, 1
        return torch.arange(num_frames) >= lengths.unsqueeze(1)

    return make
