"""Front ends in which each utterance ends as it would alone."""

import pytest
import torch
from speechbrain.lobes.models.convolution import ConvolutionFrontEnd

from speechbrain_pom.attention.front_end import take_lengths, take_no_lengths
from speechbrain_pom.utils.errors import UserError


def build(**options):
    torch.manual_seed(0)
    sizes = {"num_blocks": 2, "num_layers_per_block": 2, "out_channels": [4, 3]}
    options = {"kernel_sizes": [5, 7], "strides": [2, 2], "residuals": [True, False], **options}
    return ConvolutionFrontEnd((8, 10, 12), **sizes, **options).eval()


@torch.no_grad()
def leak_of(front_end, *lengths):
    """How the second utterance differs in a batch, with loud padding, from itself alone."""
    feats = torch.randn(2, 64, 12)
    feats[1, 20:] *= 30
    alone, *_ = front_end(feats[1:, :20], *(length[1:] for length in lengths))
    return float((front_end(feats, *lengths)[1, :5] - alone).abs().max() / alone.abs().max())


@pytest.mark.parametrize(
    "options", [{}, {"residuals": [False, False]}, {"kernel_sizes": [3, 3]}, {"strides": [1, 4]}]
)
def test_lengths(options):
    front_end = build(**options)
    assert leak_of(front_end) > 1e-3  # SpeechBrain's own
    state, names = front_end.state_dict(), [type(part).__name__ for part in front_end.modules()]
    take_lengths(front_end)
    assert leak_of(front_end, torch.tensor([64, 20])) < 1e-5
    assert leak_of(front_end) > 1e-3  # without lengths it is as it was
    assert front_end.state_dict().keys() == state.keys()
    assert [type(part).__name__ for part in front_end.modules()] == names
    take_no_lengths(front_end)
    assert type(front_end) is ConvolutionFrontEnd


def test_other_front_ends_are_refused():
    with pytest.raises(
        UserError, match="front end is a Linear, which cannot end each utterance as"
    ):
        take_lengths(torch.nn.Linear(12, 3))
