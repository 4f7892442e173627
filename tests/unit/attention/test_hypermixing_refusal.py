"""HyperMixing mixes all frames: masks are refused in mixed encoders, and warned of in its own."""

import logging

import pytest
import torch
from speechbrain.utils.dynamic_chunk_training import DynChunkTrainConfig

from speechbrain_pom.attention import masks

MESSAGE = (
    "hypermixing cannot honour a causal or chunk mask: it mixes all frames; set causal: False and "
    "no dynamic chunks, or choose another type"
)
WARNING = (
    "attention_type hypermixing ignores causal and chunk masks (SpeechBrain's own): this model "
    "sees the future; choose another type for streaming"
)
CHUNKS = DynChunkTrainConfig(4, 1)


@pytest.fixture
def warnings(caplog):
    """The warnings of a process that has not warned yet."""
    masks._say_once.cache_clear()
    caplog.set_level(logging.WARNING)
    return caplog


def sees_the_future(model, **options):
    """Whether the first frames depend on the last one."""
    frames = torch.randn(1, 24, 20)
    changed = frames.clone()
    changed[:, -1] += 1
    with torch.no_grad():
        first, second = model.encode(frames, **options), model.encode(changed, **options)
    return not torch.equal(first[:, :4], second[:, :4])


@pytest.mark.parametrize("encoder_module", ["conformer", "transformer", "branchformer"])
@pytest.mark.parametrize(
    "spec", ["hypermixing + PoM", "PoM + hypermixing", "regularMHA + hypermixing"]
)
def test_mixed_encoders_refuse_causal_masks(build_asr, spec, encoder_module):
    model = build_asr(spec, encoder_module=encoder_module, causal=True)
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the text is compared
        model.encode(torch.randn(1, 24, 20))
    assert str(error.value) == MESSAGE


def test_mixed_encoders_refuse_chunk_masks_only_when_there_are_any(build_asr, warnings):
    model = build_asr("hypermixing + PoM")
    with pytest.raises(ValueError, match="hypermixing cannot honour a causal or chunk mask"):
        model.encode(torch.randn(1, 24, 20), dynchunktrain_config=CHUNKS)
    assert model.encode(torch.randn(1, 24, 20)).shape == (1, 24, 16)
    assert warnings.messages == []


@pytest.mark.parametrize("spec", ["hypermixing", "hypermixing*2"])
def test_alone_it_is_speechbrains_own_with_a_warning(build_asr, warnings, spec):
    model = build_asr(spec)
    assert model.encode(torch.randn(1, 24, 20)).shape == (1, 24, 16)
    assert warnings.messages == []
    assert sees_the_future(model, dynchunktrain_config=CHUNKS)
    assert warnings.messages == [WARNING]  # once


def test_speechbrain_alone_says_nothing(build_asr, warnings, without_plugin):
    model = build_asr("hypermixing")
    assert sees_the_future(model, dynchunktrain_config=CHUNKS)
    assert warnings.messages == []


def test_others_honour_the_mask_that_it_refuses(build_asr, warnings):
    model = build_asr("PoM", positional_encoding=None)
    assert not sees_the_future(model, dynchunktrain_config=CHUNKS)
    assert warnings.messages == []
