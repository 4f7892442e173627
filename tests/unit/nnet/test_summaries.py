"""Mixers that see a sequence through a summary: parts add up, and any frames can be mixed by it."""

import pytest
import torch

from speechbrain_pom.nnet.fastformer import Fastformer
from speechbrain_pom.nnet.polynomial import PolynomialMixer
from speechbrain_pom.nnet.summary_mixing import SummaryMixing
from speechbrain_pom.ops.common.sums import moved

MIXERS = {
    **{
        f"PoM {variant} {degree}": (PolynomialMixer, (degree, 2, variant))
        for variant in ("base", "selective", "frequency2", "frequency3")
        for degree in (1, 3)
    },
    "PoM, reference": (PolynomialMixer, (2, 2, "frequency2", False, "reference")),
    "SummaryMixing": (SummaryMixing, (2, "full", [12, 8], 6, 10, 14)),
    "SummaryMixing lite": (SummaryMixing, (2, "lite")),
    "Fastformer": (Fastformer, (2,)),
}
DTYPES = {torch.float32: 1e-5, torch.float64: 1e-12}

every_mixer = pytest.mark.parametrize("name", MIXERS)
both_dtypes = pytest.mark.parametrize("dtype", DTYPES)


def build(name, dtype=torch.float32):
    kind, options = MIXERS[name]
    mixer = kind(12, *options).to(dtype).eval()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return mixer


def summary_of(mixer, parts, padding=None):
    """In as many passes over the parts as the mixer needs."""
    masks = [None] * len(parts) if padding is None else padding
    summary = None
    for _ in range(mixer.num_passes):
        total = None
        for part, mask in zip(parts, masks, strict=True):
            found = mixer.summarise(part, key_padding_mask=mask, earlier=summary)
            total = found if total is None else total + found
        summary = total
    return summary


def assert_close(found, expected, dtype):
    assert found.dtype == expected.dtype
    assert (found - expected).abs().max() <= DTYPES[dtype] * expected.abs().max()


@pytest.mark.parametrize("num_frames", [1, 63, 500])
@both_dtypes
@every_mixer
@torch.no_grad()
def test_mixing_with_the_summary_of_the_whole_is_forward(name, dtype, num_frames):
    mixer, frames = build(name, dtype), torch.randn(3, num_frames, 12, dtype=dtype)
    summary = summary_of(mixer, [frames])
    expected, _ = mixer(frames)
    assert_close(mixer.mix(frames, summary), expected, dtype)
    middle = slice(num_frames // 3, num_frames // 2 + 1)
    assert_close(mixer.mix(frames[:, middle], summary), expected[:, middle], dtype)


@pytest.mark.parametrize("sizes", [[63], [1] * 5 + [58], [20, 43], [62, 1]])
@both_dtypes
@every_mixer
@torch.no_grad()
def test_summaries_of_parts_add_up_to_that_of_the_whole(name, dtype, sizes):
    mixer, frames = build(name, dtype), 3 * torch.randn(3, 63, 12, dtype=dtype)
    summary = summary_of(mixer, frames.split(sizes, dim=1))
    whole = summary_of(mixer, [frames])
    assert type(summary) is type(whole)
    assert_close(summary.mean(), whole.mean(), dtype)
    assert_close(mixer.mix(frames, summary), mixer(frames)[0], dtype)


@every_mixer
@torch.no_grad()
def test_padding_does_not_count_whatever_it_holds(name):
    mixer, frames = build(name), torch.randn(3, 63, 12)
    padding = torch.arange(63) >= torch.tensor([[63], [20], [1]])  # whole parts are padding
    expected, _ = mixer(frames, key_padding_mask=padding)
    dirty = frames.masked_fill(padding.unsqueeze(-1), torch.nan)
    summary = summary_of(mixer, dirty.split(16, dim=1), padding.split(16, dim=1))
    found = mixer.mix(frames, summary)
    assert_close(found[~padding], expected[~padding], torch.float32)


@every_mixer
@torch.no_grad()
def test_a_part_alone_is_not_enough(name):
    mixer, frames = build(name), torch.randn(1, 63, 12)
    found = mixer.mix(frames, summary_of(mixer, [frames[:, :30]]))
    expected, _ = mixer(frames)
    assert (found - expected).abs().max() > 1e-3 * expected.abs().max()


@every_mixer
@torch.no_grad()
def test_a_summary_of_another_dtype_serves_as_well(name):
    """Sums over hours are added up in float64."""
    mixer, frames = build(name), torch.randn(2, 63, 12)
    summary = None
    for _ in range(mixer.num_passes):
        parts = [mixer.summarise(part, earlier=summary) for part in frames.split(10, dim=1)]
        total = moved(parts[0], torch.float64)
        for part in parts[1:]:
            total = total + moved(part, "cpu", torch.float64)
        summary = total
    assert all(part is None or part.dtype == torch.float64 for part in summary)
    assert_close(mixer.mix(frames, summary), mixer(frames)[0], torch.float32)


@torch.no_grad()
def test_scores_that_differ_by_hundreds_between_parts():
    """exp would overflow without the peaks, and the mean over all parts be that of one."""
    mixer = build("Fastformer")
    frames = torch.cat([torch.randn(1, 20, 12), 500 * torch.randn(1, 20, 12)], dim=1)
    summary = summary_of(mixer, frames.split(7, dim=1))
    assert torch.isfinite(mixer.mix(frames, summary)).all()
    assert_close(mixer.mix(frames, summary), mixer(frames)[0], torch.float32)


@every_mixer
def test_gradients_pass_through_the_summary(name):
    mixer = build(name, torch.float64)
    frames = torch.randn(2, 15, 12, dtype=torch.float64, requires_grad=True)
    leaves = [frames, *mixer.parameters()]
    outputs = mixer.mix(frames, summary_of(mixer, frames.split(4, dim=1))), mixer(frames)[0]
    found, expected = (
        torch.autograd.grad(output.square().sum(), leaves, materialize_grads=True)
        for output in outputs
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@every_mixer
def test_a_padding_mask_of_another_kind_is_refused(name):
    with pytest.raises(ValueError, match="give a boolean mask of shape"):
        build(name).summarise(torch.randn(2, 5, 12), key_padding_mask=torch.zeros(2, 5))
